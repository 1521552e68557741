//! Asynchronous operations: a gateway that relays their completions, a handler that starts them, a caller of them.

use nexus_gateway::callback::CallbackSettings;
use nexus_gateway::callback::destination::Allowed;
use nexus_gateway::config::Settings;
use nexus_gateway::nexus::BaseUrl;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::answers::{answer, json};
use super::caller::{Request, to};
use super::gateway::{external, settings};
use super::handler::{Handler, Seen};
use super::message::Message;
use super::planted::{PAYLOAD, seal_key};

/// Settings with one endpoint `pay` that leads to a URL, whose completions come back through the gateway.
pub(crate) fn relaying(endpoint: &str) -> Settings {
    let public_url = Some(BaseUrl::parse("http://gateway.test:7280").expect("a URL"));
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
