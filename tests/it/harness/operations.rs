//! Asynchronous operations: a gateway that relays their completions, a handler that starts them, a caller of them.

use nexus_gateway::callback::CallbackSettings;
use nexus_gateway::callback::destination::Allowed;
use nexus_gateway::config::Settings;
use nexus_gateway::nexus::BaseUrl;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::answers::{answer, json};
use super::caller::{Request, to};
use super::gateway::{external, settings};
use super::handler::{Handler, Seen};
use super::message::Message;
use super::planted::{PAYLOAD, seal_key};

/// How handlers reach a gateway that relays.
const PUBLIC_URL: &str = "http://gateway.test:7280";

/// Settings with one endpoint `pay` that leads to a URL, whose completions come back through the gateway.
pub(crate) fn relaying(endpoint: &str) -> Settings {
    let public_url = Some(BaseUrl::parse(PUBLIC_URL).expect("a URL"));
    let allow = vec![Allowed::new("http://127.0.0.1:*", true).expect("an entry")];
    let keys = vec![seal_key("one")];
    let callbacks = CallbackSettings { public_url, keys, allow, ..CallbackSettings::default() };
    Settings { callbacks, endpoints: vec![external("pay", endpoint)], ..settings() }
}

/// A handler that starts operations and takes cancels.
pub(crate) fn starting() -> Handler {
    Handler::scripted(|seen: &Seen| {
        let started = json("201 Created", "{\"token\":\"planted-handlers-own\",\"state\":\"running\"}");
        let canceled = seen.message.target().contains("/cancel");
        vec![if canceled { answer("202 Accepted", &[], "") } else { started }.into()]
    })
}

/// A start whose completion is to come to `home`.
pub(crate) fn start_of(home: &Handler, id: &str) -> Request {
    let callback = utf8_percent_encode(&format!("{}/callback", home.url()), NON_ALPHANUMERIC).to_string();
    to(format!("/nexus/endpoints/pay/services/Svc/op?callback={callback}")).header("Nexus-Request-Id", id).body(PAYLOAD)
}

/// The token in the answer to a start.
pub(crate) fn token_of(answer: &Message) -> String {
    assert_eq!(answer.status(), 201, "{answer:?} {}", answer.text());
    let told: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
    assert_eq!(told["state"], "running");
    told["token"].as_str().expect("a token").to_owned()
}

/// A cancel of the operation with this token.
pub(crate) fn cancel_of(token: &str) -> Request {
    to("/nexus/endpoints/pay/services/Svc/op/cancel").header("Nexus-Operation-Token", token)
}

/// Where a start tells its handler to send the completion: the path at a gateway that relays.
pub(crate) fn sealed_path(start: &Message) -> String {
    sealed_path_at(PUBLIC_URL, start)
}

/// The same at a gateway of another public URL.
pub(crate) fn sealed_path_at(public_url: &str, start: &Message) -> String {
    let query = start.target().split_once('?').expect("a query").1;
    let callback = query.split('&').find_map(|pair| pair.strip_prefix("callback=")).expect("a callback");
    let url = percent_decode_str(callback).decode_utf8().expect("text").into_owned();
    assert!(url.len() <= 1000, "Temporal takes no longer one");
    url.strip_prefix(public_url).unwrap_or_else(|| panic!("{url} is not the gateway's own")).to_owned()
}
