//! Completions over TLS all the way: from the handler's cluster to the gateway, from gateway to gateway, and home.

use nexus_gateway::callback::destination::Allowed;
use nexus_gateway::config::Settings;
use nexus_gateway::credentials::Outward;
use nexus_gateway::nexus::{BaseUrl, ErrorType};
use nexus_gateway::tls::{ClientAuth, Protocol};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::version::TLS13;

use crate::certificates::{Authority, For};
use crate::harness::*;

const UNREACHABLE: Expected = failure("upstream_unreachable", ErrorType::Unavailable, true);
const HOST: &str = "127.0.0.1";

/// Settings of a gateway behind TLS, whose completions come back over it and go to `allow`, met by `believed`.
fn secured(shows: &Authority, target: &str, allow: &str, believed: &Authority) -> Settings {
    let issued = shows.issue(For { hosts: &[HOST], ..For::default() });
    let mut settings = over_tls(relaying(target), server_tls(&[&issued], ClientAuth::Off));
    let allowed = Allowed::new(allow, true).expect("an entry");
    settings.callbacks.allow = vec![allowed.met_by(believing(&[believed]))];
    settings
}

/// Starts it, and tells it by which URL it can be reached.
async fn started(mut settings: Settings) -> Gateway {
    let gateway = Gateway::start(settings.clone()).await;
    settings.callbacks.public_url = Some(BaseUrl::parse(&format!("https://{}", gateway.data())).expect("a URL"));
    gateway.running.apply(settings).await.expect("it can be applied");
    gateway
}

async fn call(gateway: &Gateway, authority: &Authority, request: &Request) -> Message {
    let client = tls_client(authority, None, &[&TLS13]);
    let mut caller = TlsCaller::connect(gateway.data(), HOST, &client).await.expect("the gateway is believed");
    caller.call(request).await.expect("an answer")
}

/// Path of the callback that the handler was given.
fn callback(handler: &Handler, of: &Gateway) -> String {
    sealed_path_at(&format!("https://{}", of.data()), &handler.requests()[0])
}

fn start_from(home: &str) -> Request {
    let callback = utf8_percent_encode(&format!("{home}/callback"), NON_ALPHANUMERIC).to_string();
    to(format!("/nexus/endpoints/pay/services/Svc/op?callback={callback}")).body(PAYLOAD)
}

fn completion(path: &str) -> Request {
    let head = [("Nexus-Operation-State", "succeeded"), ("Nexus-Operation-Token", "planted-handlers-own")];
    to(path).headers(head).body(RESULT)
}

#[tokio::test]
async fn a_completion_crosses_two_gateways_and_comes_home_over_tls() {
    let [roots, homes] = ["gateways", "of the caller's cluster"].map(Authority::new);
    for protocols in [&[Protocol::Http2, Protocol::Http1][..], &[Protocol::Http1]] {
        let home = Secure::new(server(&own(&homes), ClientAuth::Off, protocols)).await;
        let handler = starting();
        // The edge delivers to whichever gateway is before it, which is not there yet.
        let edge = started(secured(&roots, &handler.url(), "https://127.0.0.1:*", &roots)).await;
        let to_edge = format!("https://{}/nexus/endpoints/pay/services", edge.data());
        let mut near = secured(&roots, &to_edge, &home.url(), &homes);
        let outward = Outward { tls: believing(&[&roots]), ..Outward::default() };
        near.externals = [("pay".into(), outward)].into();
        let near = started(near).await;

        let token = token_of(&call(&near, &roots, &start_from(&home.url())).await);
        let path = callback(&handler, &edge);
        assert_eq!(call(&edge, &roots, &completion(&path)).await.status(), 200);
        let (path, headers) = home.requests().remove(0);
        assert_eq!(path, "/callback");
        assert!(headers.contains(&("nexus-operation-token".into(), token)), "{headers:?}");
        assert_eq!(home.requests().len(), 1);
    }
}

/// What its sender is told can be tried again: a wrong certificate may be mended.
#[tokio::test]
async fn a_completion_goes_to_nobody_who_only_has_the_address() {
    let [roots, homes, strangers] = ["gateways", "of the caller's cluster", "strangers"].map(Authority::new);
    let handler = starting();
    let home = Secure::new(server(&own(&strangers), ClientAuth::Off, &[Protocol::Http1])).await;
    let gateway = started(secured(&roots, &handler.url(), &home.url(), &homes)).await;
    token_of(&call(&gateway, &roots, &start_from(&home.url())).await);
    let completion = completion(&callback(&handler, &gateway)).header("Request-Timeout", "2s");
    UNREACHABLE.assert_is(&call(&gateway, &roots, &completion).await, "of another authority");
    assert!(home.requests().is_empty());

    home.rotate(server(&own(&homes), ClientAuth::Off, &[Protocol::Http1]));
    let client = tls_client(&roots, None, &[&TLS13]);
    let mut caller = TlsCaller::connect(gateway.data(), HOST, &client).await.expect("the gateway is believed");
    let answer = caller.call(&to(callback(&handler, &gateway)).header("Nexus-Operation-State", "succeeded")).await;
    assert_eq!(answer.expect("an answer").status(), 200);
    assert_eq!(home.requests().len(), 1);
}
