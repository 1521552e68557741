//! What is kept of a parked operation, sealed: the start to be sent later, the handler's token once it runs, the
//! completion until it is delivered.
//!
//! The callback of a start that is parked is sealed anew, with the name of the operation in the place of its target, so
//! that a completion which the handler's cluster sends has the token that the caller was given.

use std::sync::Arc;

use aws_lc_rs::digest;
use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Uri};

use super::seal::codec::{Reader, Writer};
use super::seal::{CALLBACK_PATH, Operation, Origin, Refused, TargetRef};
use super::{About, Callbacks, Unsealable};
use crate::admission::{Caller, How, Identity};
use crate::nexus::{BaseUrl, callback};
use crate::upstream::Outgoing;

const START: &str = "start";
const STARTED: &str = "started";
const COMPLETION: &str = "completion";

/// What follows the address of a caller with a name.
const NAMED: &str = " named";

/// Their places are in what is kept.
const HOW: [How; 3] = [How::Certificate, How::Jwt, How::ApiKey];

/// A start to be sent later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptStart {
    /// `{service}/{operation}`, and the query.
    pub tail: String,
    /// Its headers as they go to the target.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// Its callback, sealed.
    pub sealed: String,
    /// Whose it is.
    pub caller: Caller,
}

/// A completion to be delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptCompletion {
    /// The callback of its start, sealed.
    pub sealed: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// Whose the start was.
    pub caller: Caller,
}

/// The name of an operation: the same for each start with the same request id, in each replica.
pub fn parked_id(about: &About<'_>, request_id: &str) -> [u8; 16] {
    name(&about.called(), about.endpoint, about.key, request_id)
}

/// Whether this callback was sealed for an operation that was parked then.
pub fn is_parked(origin: &Origin) -> bool {
    matches!(TargetRef::parse(&origin.target), Some(TargetRef::Parked { .. }))
}

/// The name of the operation that this callback was sealed for, if it may have been parked.
pub fn parked_id_of(origin: &Origin) -> Option<[u8; 16]> {
    let (endpoint, key) = origin.endpoint.split_once('/')?;
    (!origin.request_id.is_empty()).then(|| name(&origin.caller, endpoint, key, &origin.request_id))
}

fn name(caller: &str, endpoint: &str, key: &str, request_id: &str) -> [u8; 16] {
    let mut content = Writer::default();
    for text in [caller, endpoint, key, request_id] {
        content.text(text);
    }
    let digest = digest::digest(&digest::SHA256, content.bytes());
    let mut id = [0; 16];
    id.copy_from_slice(&digest.as_ref()[..16]);
    id
}

impl Callbacks {
    /// What is to be kept of a start, sealed, and the token for its caller, which says in which store it is. `sealed` says
    /// whether its callback is sealed already; one that is not stays as it is on its way to the target.
    pub fn keep_start(
        &self,
        (store, id): (&str, &str),
        start: &Outgoing,
        about: &About<'_>,
        sealed: bool,
        caller: &Caller,
        home: impl Fn() -> Option<BaseUrl>,
    ) -> Result<(Vec<u8>, String), Unsealable> {
        let (mut start, name) = (start.clone(), format!("{store}.{id}"));
        let callback = if sealed {
            self.seal_again(&mut start, &name)?
        } else {
            let mut other = start.clone();
            let target = Some(TargetRef::Parked { id: name.clone() });
            self.seal_start(&mut other, About { target, ..*about }, home)?;
            self.sealed_callback(&other.uri).ok_or(Unsealable::Malformed)?
        };
        let operation = Operation::parked(name);
        let token = self.keyring.seal_operation(&about.bound(), &operation);
        let token = token.map_err(Unsealable::TooLong)?;
        let kept = KeptStart {
            tail: start.tail().to_owned(),
            headers: start.headers,
            body: start.body,
            sealed: callback,
            caller: Caller::absent(caller.ip(), caller.identity().cloned()),
        };
        Ok((self.keyring.seal_parked(id, START, &kept.to_bytes()), token))
    }

    /// Puts the operation's name in the place of its target.
    fn seal_again(&self, start: &mut Outgoing, id: &str) -> Result<String, Unsealable> {
        let origin = self.sealed_callback(&start.uri).and_then(|sealed| self.open_origin(&sealed).ok());
        let origin =
            Origin { target: TargetRef::Parked { id: id.into() }.to_string(), ..origin.ok_or(Unsealable::Malformed)? };
        let sealed = self.keyring.seal_callback(&origin);
        let url = super::seal::callback_url(&self.public_url, &sealed).map_err(Unsealable::TooLong)?;
        let query = callback::with_callback(start.uri.query().unwrap_or_default(), &url);
        if callback::set_query(&mut start.uri, &query) { Ok(sealed) } else { Err(Unsealable::Malformed) }
    }

    /// Whether this is the callback of a start that a gateway with the same keys has parked.
    pub fn is_of_parked(&self, callback: &str) -> bool {
        let sealed = callback.rsplit_once(CALLBACK_PATH).map(|(_, sealed)| sealed);
        sealed.and_then(|sealed| self.open_origin(sealed).ok()).is_some_and(|origin| is_parked(&origin))
    }

    fn sealed_callback(&self, uri: &Uri) -> Option<String> {
        let url = callback::callback_of(uri.query())?;
        let path = url.strip_prefix(self.public_url.trim_end_matches('/'))?;
        path.strip_prefix(CALLBACK_PATH).map(str::to_owned)
    }

    /// Opens what [`keep_start`](Self::keep_start) made.
    pub fn open_start(&self, id: &str, content: &[u8]) -> Result<KeptStart, Refused> {
        let content = self.keyring.open_parked(id, START, content)?;
        KeptStart::from_bytes(&content).ok_or(Refused::Malformed)
    }

    /// Seals where an operation runs.
    pub fn keep_started(&self, id: &str, operation: &Operation) -> Vec<u8> {
        self.keyring.seal_parked(id, STARTED, &operation.to_bytes())
    }

    /// Opens what [`keep_started`](Self::keep_started) made.
    pub fn open_started(&self, id: &str, content: &[u8]) -> Result<Operation, Refused> {
        let content = self.keyring.open_parked(id, STARTED, content)?;
        Operation::from_bytes(&content).ok_or(Refused::Malformed)
    }

    /// Seals a completion.
    pub fn keep_completion(&self, id: &str, completion: &KeptCompletion) -> Vec<u8> {
        self.keyring.seal_parked(id, COMPLETION, &completion.to_bytes())
    }

    /// Opens what [`keep_completion`](Self::keep_completion) made.
    pub fn open_kept_completion(&self, id: &str, content: &[u8]) -> Result<KeptCompletion, Refused> {
        let content = self.keyring.open_parked(id, COMPLETION, content)?;
        KeptCompletion::from_bytes(&content).ok_or(Refused::Malformed)
    }

    /// Where a sealed callback came from, whatever its age.
    pub fn open_origin(&self, sealed: &str) -> Result<Origin, Refused> {
        self.keyring.open_callback(sealed, 0)
    }
}

impl KeptStart {
    fn to_bytes(&self) -> Vec<u8> {
        let mut content = Writer::default();
        content.text(&self.tail);
        content.text(&self.sealed);
        write_caller(&mut content, &self.caller);
        write_message(&mut content, &self.headers, &self.body);
        content.into_bytes()
    }

    fn from_bytes(content: &[u8]) -> Option<Self> {
        let mut content = Reader::new(content);
        let (tail, sealed, caller) = (content.text()?, content.text()?, read_caller(&mut content)?);
        let (headers, body) = read_message(content)?;
        Some(Self { tail, headers, body, sealed, caller })
    }
}

impl KeptCompletion {
    fn to_bytes(&self) -> Vec<u8> {
        let mut content = Writer::default();
        content.text(&self.sealed);
        write_caller(&mut content, &self.caller);
        write_message(&mut content, &self.headers, &self.body);
        content.into_bytes()
    }

    fn from_bytes(content: &[u8]) -> Option<Self> {
        let mut content = Reader::new(content);
        let (sealed, caller) = (content.text()?, read_caller(&mut content)?);
        let (headers, body) = read_message(content)?;
        Some(Self { sealed, headers, body, caller })
    }
}

/// The address, then [`NAMED`] where there is more to say. One without a name is as it was when callers had none, so that
/// what was parked then is read, too.
fn write_caller(content: &mut Writer, caller: &Caller) {
    let address = caller.ip();
    let Some(identity) = caller.identity() else { return content.text(&address.to_string()) };
    content.text(&format!("{address}{NAMED}"));
    content.text(&identity.name);
    content.number(HOW.iter().position(|how| *how == identity.how).unwrap_or_default() as u64);
    content.number(identity.namespace.is_some().into());
    content.text(identity.namespace.as_deref().unwrap_or_default());
}

fn read_caller(content: &mut Reader<'_>) -> Option<Caller> {
    let text = content.text()?;
    let Some(address) = text.strip_suffix(NAMED) else { return Some(Caller::absent(text.parse().ok()?, None)) };
    let name = content.text()?.into();
    let how = *HOW.get(usize::try_from(content.number()?).ok()?)?;
    let has_namespace = content.number()? != 0;
    let namespace = Some(content.text()?.into()).filter(|_| has_namespace);
    Some(Caller::absent(address.parse().ok()?, Some(Arc::new(Identity { name, namespace, how }))))
}

fn write_message(content: &mut Writer, headers: &HeaderMap, body: &[u8]) {
    content.number(headers.len() as u64);
    for (name, value) in headers {
        content.text(name.as_str());
        content.blob(value.as_bytes());
    }
    content.blob(body);
}

fn read_message(mut content: Reader<'_>) -> Option<(HeaderMap, Bytes)> {
    let mut headers = HeaderMap::new();
    for _ in 0..content.number()? {
        let name = HeaderName::try_from(content.text()?).ok()?;
        headers.append(name, HeaderValue::from_bytes(content.blob()?).ok()?);
    }
    let body = Bytes::copy_from_slice(content.blob()?);
    content.end().then_some((headers, body))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::callback::destination::{Allowed, Destinations};
    use crate::callback::seal::{Key, Keyring, Opened};
    use crate::callback::{CallbackSettings, Completions};
    use crate::credentials::Pass;
    use crate::nexus::Call;
    use crate::upstream::{Crossing, UpstreamSettings};
    use std::net::IpAddr;

    const ID: &str = "000102030405060708090a0b0c0d0e0f";
    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn anonymous() -> Caller {
        Caller::absent(PEER, None)
    }

    fn relay(keys: Vec<Key>) -> Callbacks {
        let public_url = Some(BaseUrl::parse("http://gateway:7280").unwrap());
        let allow = vec![Allowed::new("http://127.0.0.1:*", true).unwrap()];
        let destinations = Arc::new(Destinations::new(allow, UpstreamSettings::default(), 1));
        let settings = CallbackSettings { public_url, ..CallbackSettings::default() };
        let relay = Callbacks::new(settings, Arc::new(Keyring::new(keys).unwrap()), Arc::clone(&destinations));
        Completions { tokens: None, relay, home: None, destinations, homes: Vec::new() }.relay.unwrap()
    }

    fn about<'a>() -> About<'a> {
        About { endpoint: "pay", key: "Svc/op", caller: "anonymous", namespace: None, target: None }
    }

    fn start() -> Outgoing {
        let callback = "http%3A%2F%2F127.0.0.1%3A1%2Fhome";
        let request = http::Request::post(format!("/nexus/endpoints/pay/services/Svc/op?a=1&callback={callback}"))
            .header("nexus-request-id", "one")
            .header("nexus-callback-temporal-callback-token", "token")
            .header("x-raw", HeaderValue::from_bytes(b"\xff\t").unwrap());
        let head = request.body(()).unwrap().into_parts().0;
        let call = Call::read(&head).unwrap();
        let crossing = Crossing { prefix: "/there/", cluster_id: None, may_steer: false, pass: Pass::default() };
        Outgoing::new(head, &call, crossing, Bytes::from_static(b"\0body")).unwrap()
    }

    #[test]
    fn an_operation_has_the_same_name_for_each_start_and_another_one_for_all_else() {
        let id = |about: About<'_>, request| parked_id(&about, request);
        let same = id(about(), "one");
        assert_eq!(same, id(About { target: TargetRef::parse("external:http://h"), ..about() }, "one"));
        for other in [
            id(about(), "two"),
            id(About { endpoint: "pay2", ..about() }, "one"),
            id(About { key: "Svc/op2", ..about() }, "one"),
            id(About { namespace: Some("prod"), ..about() }, "one"),
            id(About { caller: "anonymou", key: "Svc/op", endpoint: "spay", ..about() }, "one"),
        ] {
            assert_ne!(same, other);
        }
    }

    #[tokio::test]
    async fn a_start_is_kept_whole_and_its_completion_gets_the_token_that_its_caller_has() {
        for sealed in [true, false] {
            let (relay, mut sent) = (relay(vec![Key::new("k", [1; 32])]), start());
            if sealed {
                let target = TargetRef::parse("external:http://there");
                assert!(relay.seal_start(&mut sent, About { target, ..about() }, || None).unwrap());
            }
            let (content, token) =
                relay.keep_start(("store", ID), &sent, &about(), sealed, &anonymous(), || None).unwrap();
            let kept = relay.open_start(ID, &content).unwrap();
            assert_eq!((&kept.headers, &kept.body, kept.caller), (&sent.headers, &sent.body, anonymous()));
            assert!(kept.tail.starts_with("Svc/op?a=1&callback="));
            assert_eq!(kept.tail.contains("127.0.0.1"), !sealed, "what was not sealed goes out as it was");
            assert!(matches!(
                relay.keyring.open_operation(&about().bound(), &token),
                Opened::Ours(operation) if operation == Operation::parked(format!("store.{ID}"))
            ));

            let mut completion = HeaderMap::new();
            completion.insert("nexus-operation-token", HeaderValue::from_static("handlers-own"));
            let home = relay.open_completion(&kept.sealed, &mut completion).unwrap();
            assert_eq!(completion["nexus-operation-token"], *token);
            assert_eq!(home.destination.uri(), "/home");
            assert_eq!(parked_id_of(&home.origin), Some(parked_id(&about(), "one")));
            assert!(is_parked(&home.origin));
            let again = format!("http://elsewhere/nexus/callback/{}", kept.sealed);
            assert!(relay.is_of_parked(&again), "another gateway with these keys has it");
            assert!(!relay.is_of_parked("http://127.0.0.1:1/home"));
        }
    }

    #[tokio::test]
    async fn what_is_kept_opens_for_the_same_operation_and_content_only() {
        let (relay, sent) = (relay(vec![Key::new("k", [1; 32])]), start());
        let (content, _) = relay.keep_start(("store", ID), &sent, &about(), false, &anonymous(), || None).unwrap();
        assert_eq!(relay.open_start("other", &content), Err(Refused::Forged));
        assert_eq!(relay.open_kept_completion(ID, &content), Err(Refused::Forged));
        assert_eq!(relay.open_start(ID, b""), Err(Refused::Malformed));
        let others = self::relay(vec![Key::new("l", [2; 32])]);
        assert_eq!(others.open_start(ID, &content), Err(Refused::UnknownKey));
        let rotated = self::relay(vec![Key::new("l", [2; 32]), Key::new("k", [1; 32])]);
        assert!(rotated.open_start(ID, &content).is_ok());
    }

    /// As they were written before callers had names.
    #[test]
    fn what_was_kept_of_a_caller_without_a_name_is_read() {
        let mut content = Writer::default();
        for text in ["Svc/op", "sealed", "10.0.0.7"] {
            content.text(text);
        }
        write_message(&mut content, &HeaderMap::new(), b"body");
        let kept = KeptStart::from_bytes(&content.into_bytes()).unwrap();
        assert_eq!((kept.caller, &*kept.body), (Caller::absent([10, 0, 0, 7].into(), None), &b"body"[..]));
    }

    proptest! {
        #[test]
        fn bytes_of_any_kind_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = KeptStart::from_bytes(&bytes);
            let _ = KeptCompletion::from_bytes(&bytes);
        }

        #[test]
        fn what_was_written_is_read(
            tail in ".{0,50}", value in "[ -~]{0,50}", body in proptest::collection::vec(any::<u8>(), 0..300),
            names in prop::option::of((".{0,50}", prop::option::of(".{0,20}"), prop::sample::select(HOW.to_vec()))),
        ) {
            let mut headers = HeaderMap::new();
            headers.append("x-a", value.parse().unwrap());
            headers.append("x-a", HeaderValue::from_static("second"));
            let (body, sealed) = (Bytes::from(body), tail.clone());
            let identity = |(name, namespace, how): (String, Option<String>, How)| {
                Arc::new(Identity { name: name.into(), namespace: namespace.map(Into::into), how })
            };
            let caller = Caller::absent(PEER, names.map(identity));
            let start = KeptStart { tail, headers: headers.clone(), body: body.clone(), sealed: sealed.clone(), caller: caller.clone() };
            prop_assert_eq!(KeptStart::from_bytes(&start.to_bytes()), Some(start));
            let completion = KeptCompletion { sealed, headers, body, caller };
            prop_assert_eq!(KeptCompletion::from_bytes(&completion.to_bytes()), Some(completion));
        }
    }
}
