//! Cuts from a failure what tells of the inside of a handler: stack traces and causes. Type, message, details and
//! retryability stay, byte for byte.
//!
//! What a caller reads as *the* failure is the first in its chain that speaks for itself. Before it may stand some that
//! only wrap it, as Temporal makes them around the end of a workflow or an operation; they stay too. What caused a handler
//! error is cut to a shell that has its type and retryability and no text: the Python SDK puts the type of an application
//! error there, and just as well the text of whatever exception it was. Members that Temporal does not read are cut.
//!
//! Attributes that an SDK has encoded hold message and stack trace: where they can be read the trace is taken out, where
//! not (a codec encrypted them) they are cut whole, and the message stays as `Encoded failure`. What is read is what Go's
//! JSON and protobuf's read, and what they would read in two ways is not readable here.

use std::collections::HashSet;
use std::fmt;

use base64::Engine as _;
use base64::alphabet::{Alphabet, STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::TEMPORAL_FAILURE;

/// Wrappers that are followed; a chain that is longer ends there.
const MAX_DEPTH: usize = 16;

/// Whose `details` name an operation's end, and whose `unwrap-error` says that there is nothing more to it.
const OPERATION_ERROR: &str = "nexus.OperationError";
const HANDLER_ERROR: &str = "nexus.HandlerError";

/// What is said of the end of an operation elsewhere, by the server or an SDK, in words of its own.
const WRAPPING: [&str; 3] =
    ["activityFailureInfo", "childWorkflowExecutionFailureInfo", "nexusOperationExecutionFailureInfo"];

/// What remains of a cause that is cut to a shell.
const SHELL: [(&str, &[&str]); 5] = [
    ("applicationFailureInfo", &["type", "nonRetryable", "nextRetryDelay", "category"]),
    ("timeoutFailureInfo", &["timeoutType"]),
    ("serverFailureInfo", &["nonRetryable"]),
    ("canceledFailureInfo", &[]),
    ("terminatedFailureInfo", &[]),
];

/// What became of a failure's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Redacted {
    /// There is nothing to cut.
    Unchanged,
    /// This is left.
    Cut(Vec<u8>),
    /// It is no failure, or not the same one to all who read it: nobody knows what it tells.
    Unreadable,
}

/// Cuts the body of a failure, an `application/json`. Takes time in proportion to its length, whatever is in it.
pub fn redact(body: &[u8]) -> Redacted {
    match std::str::from_utf8(body).ok().and_then(|text| nexus(text, 0)) {
        Some(Kept::Same) => Redacted::Unchanged,
        Some(Kept::Other(text)) => Redacted::Cut(text.into_bytes()),
        Some(Kept::Nothing) | None => Redacted::Unreadable,
    }
}

/// What is kept of a part.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kept {
    Same,
    Other(String),
    Nothing,
}

impl Kept {
    fn of(before: &str, now: String) -> Self {
        if before == now { Self::Same } else { Self::Other(now) }
    }
}

/// What a failure has to do with its cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    /// The cause is the failure that is meant.
    Wraps,
    /// The type of the cause is read.
    Handler,
    /// The cause is nobody's business.
    Speaks,
}

/// A failure as Nexus writes it.
fn nexus(text: &str, depth: usize) -> Option<Kept> {
    let members = Members::read(text, folded)?;
    let message = members.text("message")?;
    let metadata = members.object("metadata")?;
    let kind = match metadata.get("type") {
        Some(_) => metadata.value("type")?,
        None => String::new(),
    };
    let details = members.get("details").filter(|details| *details != "null");
    let infos = match details.filter(|_| kind == TEMPORAL_FAILURE) {
        Some(details) => Some(Members::read(details, camel)?),
        None => None,
    };
    let unwraps = || metadata.value("unwrap-error").as_deref() == Some("true");
    let sort = match &*kind {
        _ if message.is_empty() => Sort::Wraps,
        OPERATION_ERROR if unwraps() => Sort::Wraps,
        OPERATION_ERROR | HANDLER_ERROR => Sort::Handler,
        TEMPORAL_FAILURE => infos.as_ref().map_or(Sort::Speaks, sort_of),
        _ => Sort::Speaks,
    };
    // Of what is no failure nothing would be left that says anything.
    let says_nothing = depth == 0 && message.is_empty() && metadata.0.is_empty();
    let kept = members.rewrite(|name, text| match name {
        "message" | "metadata" | "code" => Some(Kept::Same),
        "details" if text == "null" => Some(Kept::Same),
        "details" => match &*kind {
            TEMPORAL_FAILURE => temporal(text, sort, depth),
            HANDLER_ERROR => handler_details(text),
            OPERATION_ERROR => Members::read(text, folded)?.rewrite(|name, text| Some(scalar(name == "state", text))),
            _ => other_details(text),
        },
        "cause" => Some(cause(text, sort, depth, nexus, nexus_shell)),
        _ => Some(Kept::Nothing),
    })?;
    Some(kept).filter(|kept| *kept == Kept::Same || !says_nothing)
}

/// A failure as Temporal's API has it, in its JSON form. `sort` is what is known from around it.
fn temporal(text: &str, sort: Sort, depth: usize) -> Option<Kept> {
    Members::read(text, camel)?.rewrite(|name, text| match name {
        "message" | "source" => Some(Kept::Same),
        "encodedAttributes" => Some(attributes(text).unwrap_or(Kept::Nothing)),
        "cause" => Some(cause(text, sort, depth, temporal_cause, temporal_shell)),
        _ if name.ends_with("FailureInfo") => Some(Kept::Same),
        _ => Some(Kept::Nothing),
    })
}

fn temporal_cause(text: &str, depth: usize) -> Option<Kept> {
    let members = Members::read(text, camel)?;
    let sort = if members.text("message")?.is_empty() { Sort::Wraps } else { sort_of(&members) };
    temporal(text, sort, depth)
}

fn sort_of(failure: &Members<'_>) -> Sort {
    if WRAPPING.iter().any(|info| failure.get(info).is_some()) {
        Sort::Wraps
    } else if failure.get("nexusHandlerFailureInfo").is_some() {
        Sort::Handler
    } else {
        Sort::Speaks
    }
}

/// What is left of a cause; nothing of one that cannot be read.
fn cause(
    text: &str,
    sort: Sort,
    depth: usize,
    whole: fn(&str, usize) -> Option<Kept>,
    shell: fn(&str) -> Option<String>,
) -> Kept {
    match sort {
        _ if text == "null" => Kept::Same,
        Sort::Wraps if depth < MAX_DEPTH => whole(text, depth + 1).unwrap_or(Kept::Nothing),
        Sort::Handler => shell(text).map_or(Kept::Nothing, |shell| Kept::of(text, shell)),
        Sort::Wraps | Sort::Speaks => Kept::Nothing,
    }
}

/// Type and retryability of a cause. None where there is nothing of that sort.
fn nexus_shell(text: &str) -> Option<String> {
    let members = Members::read(text, folded)?;
    let kind = members.object("metadata")?.value("type")?;
    let details = members.get("details").filter(|_| kind == TEMPORAL_FAILURE)?;
    let shell = temporal_shell(details)?;
    Some(format!(r#"{{"message":"","metadata":{{"type":"{TEMPORAL_FAILURE}"}},"details":{shell}}}"#))
}

fn temporal_shell(text: &str) -> Option<String> {
    let members = Members::read(text, camel)?;
    let (name, kept) = SHELL.iter().find(|(name, _)| members.get(name).is_some())?;
    let info = Members::read(members.get(name)?, camel)?;
    let left = info.rewrite(|name, text| Some(scalar(kept.contains(&name), text)))?;
    let left = match &left {
        Kept::Same => members.get(name)?,
        Kept::Other(text) => text,
        Kept::Nothing => return None,
    };
    Some(format!(r#"{{"{name}":{left}}}"#))
}

/// `details` of a handler error.
fn handler_details(text: &str) -> Option<Kept> {
    Members::read(text, folded)?.rewrite(|name, text| match name {
        "encodedattributes" => Some(packed_attributes(text).unwrap_or(Kept::Nothing)),
        _ => Some(scalar(matches!(name, "type" | "retryableoverride"), text)),
    })
}

/// `details` of a type that is not known here: theirs to choose, but for what is plainly a trace or a cause.
fn other_details(text: &str) -> Option<Kept> {
    let plain = |name: &str| folded(&name.replace('_', ""));
    let is_object = text.starts_with('{');
    let cut = |name: &str, _: &str| {
        let kept = !matches!(&*plain(name), "stacktrace" | "cause");
        Some(if kept { Kept::Same } else { Kept::Nothing })
    };
    if is_object { Members::read(text, str::to_owned)?.rewrite(cut) } else { Some(Kept::Same) }
}

/// Keeps a value that is wanted, if it has no parts.
fn scalar(wanted: bool, text: &str) -> Kept {
    if wanted && !text.starts_with(['{', '[']) { Kept::Same } else { Kept::Nothing }
}

/// Attributes as Temporal packs them into a handler error: a payload's JSON form as text in base64.
fn packed_attributes(text: &str) -> Option<Kept> {
    let packed = decode(&serde_json::from_str::<String>(text).ok()?)?;
    match attributes(std::str::from_utf8(&packed).ok()?)? {
        Kept::Other(payload) => Some(Kept::Other(format!("\"{}\"", encode(&URL_SAFE, false, payload.as_bytes())))),
        kept => Some(kept),
    }
}

/// A payload with message and stack trace: left with the message. None where it cannot be read.
fn attributes(text: &str) -> Option<Kept> {
    let payload = Members::read(text, str::to_owned)?;
    let encoding = payload.object("metadata")?.value("encoding")?;
    if decode(&encoding)? != b"json/plain" {
        return None;
    }
    let data = decode(&payload.value("data")?)?;
    let attributes = Members::read(std::str::from_utf8(&data).ok()?, str::to_owned)?;
    let left = match attributes.rewrite(|name, text| Some(scalar(name == "message", text)))? {
        Kept::Other(left) => left,
        kept => return Some(kept),
    };
    let data = encode(&STANDARD, true, left.as_bytes());
    Some(Kept::Other(format!(r#"{{"metadata":{{"encoding":"{encoding}"}},"data":"{data}"}}"#)))
}

/// Either alphabet, padded or not, as protobuf's JSON form reads it.
fn decode(text: &str) -> Option<Vec<u8>> {
    let alphabet = if text.contains(['-', '_']) { &URL_SAFE } else { &STANDARD };
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(alphabet, config).decode(text).ok()
}

fn encode(alphabet: &Alphabet, padded: bool, bytes: &[u8]) -> String {
    GeneralPurpose::new(alphabet, GeneralPurposeConfig::new().with_encode_padding(padded)).encode(bytes)
}

/// A member's name as Go's JSON finds it: in any case, and with the two letters outside of ASCII that fold to one inside.
fn folded(name: &str) -> String {
    let fold = |letter: char| match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        letter => letter.to_ascii_lowercase(),
    };
    name.chars().map(fold).collect()
}

/// A member's name as protobuf's JSON form finds it: `stack_trace` is `stackTrace` as well.
fn camel(name: &str) -> String {
    let mut camel = String::with_capacity(name.len());
    let mut after = false;
    for letter in name.chars() {
        match letter {
            '_' => after = true,
            letter if after => {
                camel.push(letter.to_ascii_uppercase());
                after = false;
            }
            letter => camel.push(letter),
        }
    }
    camel
}

/// The members of a JSON object in their order, with their values as they are written.
struct Members<'a>(Vec<Member<'a>>);

struct Member<'a> {
    /// As it is written.
    written: String,
    /// As it is found.
    name: String,
    value: &'a str,
}

impl<'a> Members<'a> {
    /// None where `text` is no object, or has two members of one name: some read the first, others the last.
    fn read(text: &'a str, name: fn(&str) -> String) -> Option<Self> {
        let Pairs(pairs) = serde_json::from_str(text).ok()?;
        let mut seen = HashSet::with_capacity(pairs.len());
        let mut members = Vec::with_capacity(pairs.len());
        for (written, value) in pairs {
            let name = name(&written);
            if !seen.insert(name.clone()) {
                return None;
            }
            members.push(Member { written, name, value: value.get() });
        }
        Some(Self(members))
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|member| member.name == name).map(|member| member.value)
    }

    /// A text without its escapes.
    fn value(&self, name: &str) -> Option<String> {
        serde_json::from_str(self.get(name)?).ok()
    }

    /// A text as it is written, without its quotes; empty where there is none. None where there is something else.
    fn text(&self, name: &str) -> Option<&'a str> {
        match self.get(name) {
            None | Some("null") => Some(""),
            Some(text) => text.strip_prefix('"')?.strip_suffix('"'),
        }
    }

    /// The members of a member; none where it lacks. None where it is something else.
    fn object(&self, name: &str) -> Option<Self> {
        match self.get(name) {
            None | Some("null") => Some(Self(Vec::new())),
            Some(text) => Self::read(text, str::to_owned),
        }
    }

    /// Writes what `keep` leaves of each member.
    fn rewrite(&self, mut keep: impl FnMut(&str, &str) -> Option<Kept>) -> Option<Kept> {
        let (mut out, mut changed) = (String::from("{"), false);
        for Member { written, name, value } in &self.0 {
            let kept = keep(name, value)?;
            changed |= kept != Kept::Same;
            let value = match &kept {
                Kept::Nothing => continue,
                Kept::Same => value,
                Kept::Other(value) => value.as_str(),
            };
            if out.len() > 1 {
                out.push(',');
            }
            out.push_str(&serde_json::to_string(written).ok()?);
            out.push(':');
            out.push_str(value);
        }
        out.push('}');
        Some(if changed { Kept::Other(out) } else { Kept::Same })
    }
}

/// What serde needs to read members into a list.
struct Pairs<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Pairs<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Pairs<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

#[cfg(test)]
mod tests;
