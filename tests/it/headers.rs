//! Headers: what describes the call or the payload passes both ways, what belongs to one hop ends there.

use nexus_gateway::admission::Trust;
use nexus_gateway::config::Settings;
use nexus_gateway::server::ListenerSettings;

use crate::harness::*;

/// What the handler sees of a request.
async fn forwarded(settings: Settings, handler: &Handler, request: Request) -> Message {
    let answer = Gateway::start(settings).await.call(&request).await;
    assert_eq!(answer.status(), 200, "{answer:?} {}", answer.text());
    handler.request()
}

/// What the handler sees of a start with these headers.
async fn start_with<'a>(headers: impl IntoIterator<Item = (&'a str, &'a str)>) -> Message {
    let handler = Handler::answering(ok());
    forwarded(leading_to(&handler), &handler, start("pay").headers(headers)).await
}

/// Headers of an answer as the caller gets them, without those of framing.
async fn answered_with(lines: &[&str]) -> Message {
    let handler = Handler::answering(answer("200 OK", lines, "1"));
    Gateway::before(&handler).await.call(&start("pay")).await
}

#[tokio::test]
async fn headers_of_the_call_reach_the_handler_unchanged() {
    let headers = [
        ("Nexus-Request-Id", "3f1c"),
        ("Operation-Timeout", "39.996143338s"),
        ("Operation-Timeout", "1m30s"),
        ("Nexus-Callback-Temporal-Callback-Token", r#"{"v":1,"d":"Ch5="}"#),
        ("Nexus-Callback-Traceparent", "00-1-2-01"),
        ("Nexus-Link", r#"<temporal:///namespaces/a/workflows/b/c/history?x=1>; type="a.B", <http://d>; type="a.E""#),
        ("Nexus-Link", r#"<http://f>;type="a.B""#),
        ("Temporal-Nexus-Failure-Support", "true"),
        ("User-Agent", "temporal-server/1.32.0"),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("tracestate", "a=1,b=2"),
        ("baggage", "k=v"),
        ("X-Of-The-Caller", "  spaces inside "),
        ("X-Empty", ""),
    ];
    let seen = start_with(headers).await;
    for (name, value) in headers {
        assert!(seen.all(name).contains(&value.trim()), "{name}: {value} is not in {seen:?}");
    }
}

/// Or else who reads them would take it for the gateway's word.
#[tokio::test]
async fn no_handler_says_what_only_a_gateway_says() {
    let lines = [
        "Nexus-Gateway-Failure: breaker_open",
        "Nexus_Gateway_Failure: breaker_open",
        "Nexus-Gateway-Caller: admin",
        "nexus-gateway-anything: x",
        "X-Own: kept",
    ];
    let answer = answered_with(&lines).await;
    assert_eq!(answer.header("nexus-gateway-upstream-failure"), Some("breaker_open"), "it may be a gateway");
    let own = answer.headers.iter().filter(|(name, _)| name.replace('_', "-").to_lowercase().contains("gateway"));
    assert_eq!(own.count(), 1, "{answer:?}");
    assert_eq!(answer.header("x-own"), Some("kept"));
}

#[tokio::test]
async fn of_gateways_in_a_row_each_says_what_it_did_itself() {
    let handler = Handler::answering(ok());
    let through = |gateway: &Gateway, name: &str| {
        let url = format!("http://{}/nexus/endpoints/{name}/services", gateway.data());
        Settings { endpoints: vec![external("pay", &url)], ..settings() }
    };
    let inner = Gateway::before(&handler).await;
    let middle = Gateway::start(through(&inner, "gone")).await;
    let outer = Gateway::start(through(&middle, "pay")).await;
    for (gateway, own, behind) in [
        (&inner, Some("unknown_endpoint"), None),
        (&middle, None, Some("unknown_endpoint")),
        (&outer, None, Some("unknown_endpoint")),
    ] {
        let name = if own.is_some() { "gone" } else { "pay" };
        let answer = gateway.call(&start(name)).await;
        assert_eq!(answer.status(), 404, "{answer:?}");
        assert_eq!(answer.header("nexus-gateway-failure"), own, "{answer:?}");
        assert_eq!(answer.header("nexus-gateway-upstream-failure"), behind, "{answer:?}");
    }
}

#[tokio::test]
async fn what_was_meant_for_the_gateway_ends_there() {
    let headers = [
        ("Authorization", "Bearer planted-abc"),
        ("Cookie", "a=planted-b; c=planted-d"),
        ("Nexus-Gateway-Caller", "admin"),
        ("Nexus_Gateway_Caller", "admin"),
        ("Nexus-Gateway-Caller-Namespace", "prod"),
        ("nexus-gateway-anything", "x"),
    ];
    let seen = start_with(headers).await;
    for (name, _) in headers {
        assert_eq!(seen.header(name), None, "{name}");
    }
}

#[tokio::test]
async fn bytes_beyond_ascii_in_a_header_stay_as_they_are() {
    let handler = Handler::answering(ok());
    let gateway = Gateway::before(&handler).await;
    let mut caller = gateway.connect().await;
    caller.send(b"POST /nexus/endpoints/pay/services/S/o HTTP/1.1\r\nHost: h\r\nX-Raw: \xc3\xa9\xff\r\n\r\n").await;
    assert_eq!(caller.answer().await.status(), 200);
    assert_eq!(handler.request().header("x-raw"), Some("\u{c3}\u{a9}\u{ff}"));
}

#[tokio::test]
async fn repeated_headers_keep_their_lines_and_order() {
    let links = [r#"<http://a>; type="a.B""#, r#"<http://b>; type="a.B", <http://c>; type="a.B""#];
    let seen = start_with(links.map(|link| ("Nexus-Link", link))).await;
    assert_eq!(seen.all("nexus-link"), links);
}

#[tokio::test]
async fn what_describes_the_payload_is_neither_added_nor_dropped_nor_changed() {
    let sets: [&[(&str, &str)]; 4] = [
        &[("content-type", "application/json")],
        &[("content-type", "application/JSON;charset=UTF-8"), ("content-language", "de")],
        &[("content-encoding", "x-own"), ("content-type", "a/b"), ("content-x", "1")],
        &[],
    ];
    for described in sets {
        let handler = Handler::answering(ok());
        let request = to("/nexus/endpoints/pay/services/S/o").headers(described.iter().copied()).body("{}");
        let seen = forwarded(leading_to(&handler), &handler, request).await;
        assert_eq!(payload_headers(&seen), owned(described), "to the handler");

        let lines: Vec<_> = described.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        let lines: Vec<_> = lines.iter().map(String::as_str).collect();
        assert_eq!(payload_headers(&answered_with(&lines).await), owned(described), "to the caller");
    }
}

/// `Content-*` without the length, which is framing; sorted.
fn payload_headers(message: &Message) -> Vec<(String, String)> {
    let mut found = message.beginning_with("content-");
    found.retain(|(name, _)| name != "content-length");
    found
}

fn owned(headers: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut owned: Vec<_> = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    owned.sort();
    owned
}

/// Headers of one hop, and one that `Connection` makes one.
const HOPS: [(&str, &str); 7] = [
    ("Connection", "keep-alive, X-Named, content-length"),
    ("Keep-Alive", "timeout=5"),
    ("Proxy-Authorization", "Basic c2VjcmV0"),
    ("Proxy-Connection", "keep-alive"),
    ("TE", "trailers"),
    ("Trailer", "X-After"),
    ("X-Named", "ends here"),
];

#[tokio::test]
async fn hop_by_hop_headers_do_not_reach_the_handler() {
    let seen = start_with(HOPS.into_iter().chain([("X-Stays", "1")])).await;
    for (name, _) in HOPS {
        assert_eq!(seen.header(name), None, "{name}");
    }
    let length = PAYLOAD.len().to_string();
    assert_eq!((seen.header("x-stays"), seen.header("content-length")), (Some("1"), Some(&*length)));
}

#[tokio::test]
async fn hop_by_hop_headers_do_not_reach_the_caller() {
    let lines: Vec<_> = HOPS.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    let mut lines: Vec<_> = lines.iter().map(String::as_str).collect();
    lines.push("X-Stays: 1");
    let got = answered_with(&lines).await;
    for (name, _) in HOPS {
        assert_eq!(got.header(name), None, "{name}");
    }
    assert_eq!((got.header("x-stays"), got.text()), (Some("1"), "1".into()));
}

#[tokio::test]
async fn the_host_is_that_of_the_target() {
    let handler = Handler::answering(ok());
    let seen = forwarded(leading_to(&handler), &handler, start("pay")).await;
    assert_eq!(seen.all("host"), [handler.address.to_string()]);
}

#[tokio::test]
async fn a_caller_that_waits_for_leave_to_send_gets_it() {
    let handler = Handler::answering(ok());
    let gateway = Gateway::before(&handler).await;
    let mut caller = gateway.connect().await;
    let request = start("pay").header("Expect", "100-continue").body("\"later\"");
    caller.send(request.head()).await;
    assert_eq!(caller.any_answer().await.map(|answer| answer.status()), Some(100));
    caller.send("\"later\"").await;
    assert_eq!(caller.answer().await.status(), 200);
    let seen = handler.request();
    assert_eq!((seen.text(), seen.header("expect")), ("\"later\"".into(), None));
}

#[tokio::test]
async fn steering_headers_pass_from_a_trusted_listener_only() {
    const STEERING: [(&str, &str); 6] = [
        ("caller-name", "ns"),
        ("caller-type", "operator"),
        ("call-initiation", "x"),
        ("xdc-redirection", "false"),
        ("xdc-redirection-api", "x"),
        ("temporal-principal-name", "root"),
    ];
    for (trust, passing) in [(Trust::Trusted, STEERING.len()), (Trust::Untrusted, 0)] {
        let handler = Handler::answering(ok());
        let mut settings = leading_to(&handler);
        settings.listen = vec![ListenerSettings { trust, ..settings.listen[0].clone() }];
        let seen = forwarded(settings, &handler, start("pay").headers(STEERING)).await;
        assert_eq!(STEERING.iter().filter(|(name, _)| seen.header(name).is_some()).count(), passing, "{trust:?}");
    }
}

#[tokio::test]
async fn the_callback_source_reaches_the_cluster_it_names_and_no_other() {
    for (source, kept) in [("cluster-home", true), ("another", false)] {
        let cluster = Cluster::serving(vec![listed("pay", 1)]);
        let gateway = Gateway::serving(&cluster).await;
        gateway.counts("nexus_gateway_registry_endpoints", &[("source", "home")], 1.0).await;
        gateway.call(&start("pay").header("Nexus-Callback-Source", source)).await;
        let seen = cluster.dispatched().remove(0);
        assert_eq!(seen.header("nexus-callback-source"), kept.then_some(source));
    }
    let seen = start_with([("Nexus-Callback-Source", "cluster-home"), ("Nexus-Callback-Other", "stays")]).await;
    assert_eq!((seen.header("nexus-callback-source"), seen.header("nexus-callback-other")), (None, Some("stays")));
}

#[tokio::test]
async fn a_start_without_a_request_id_gets_one_of_its_own() {
    for headers in [vec![], vec![("Nexus-Request-Id", "")]] {
        let seen = start_with(headers).await;
        let [id] = seen.all("nexus-request-id")[..] else { panic!("one id in {seen:?}") };
        assert!(uuid(id), "{id}");
    }
}

fn uuid(text: &str) -> bool {
    nexus_gateway::nexus::is_endpoint_id(text)
}

#[tokio::test]
async fn a_cancel_gets_no_request_id() {
    let handler = Handler::answering(answer("202 Accepted", &[], ""));
    assert_eq!(Gateway::before(&handler).await.call(&cancel("pay")).await.status(), 202);
    assert_eq!(handler.request().header("nexus-request-id"), None);
}

#[tokio::test]
async fn a_user_agent_is_not_made_up() {
    assert_eq!(start_with([]).await.header("user-agent"), None);
}

#[tokio::test]
async fn a_request_timeout_is_not_made_up() {
    assert_eq!(start_with([]).await.header("request-timeout"), None);
}

#[tokio::test]
async fn a_request_timeout_stays_unless_the_policy_allows_less() {
    const SECOND: std::time::Duration = std::time::Duration::from_secs(1);
    for (given, allowed, forwarded_as) in [
        ("1200m", 100_000 * SECOND, 1_200_u64 * 60_000),
        ("30s", 20 * SECOND, 20_000),
        ("30.5s", 3_000 * SECOND, 30_500),
    ] {
        let handler = Handler::answering(ok());
        let settings = under(leading_to(&handler), within(allowed));
        let seen = forwarded(settings, &handler, start("pay").header("Request-Timeout", given)).await;
        let [timeout] = seen.all("request-timeout")[..] else { panic!("one time-out in {seen:?}") };
        let timeout = nexus_gateway::nexus::timeout::parse(timeout).expect("a time-out that Temporal reads");
        let millis = u64::try_from(timeout.as_millis()).expect("a sane time-out");
        // What passed meanwhile is taken off.
        assert!(millis <= forwarded_as && millis + 10_000 > forwarded_as, "{given}: {timeout:?}");
    }
}
