//! Targets that fail: what a direct connection would have survived is healed, the rest is told as it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nexus_gateway::config::Settings;
use nexus_gateway::nexus::ErrorType;

use crate::harness::*;

const UNREACHABLE: Expected = failure("upstream_unreachable", ErrorType::Unavailable, true);
const RESET: Expected = failure("upstream_reset", ErrorType::Unavailable, true);
const MALFORMED: Expected = failure("upstream_malformed", ErrorType::Internal, true);

#[tokio::test]
async fn a_target_that_refuses_connections_is_unavailable() {
    let refusing = Reserved::new();
    let endpoints = vec![external("pay", &format!("http://{}", refusing.address))];
    let gateway = Gateway::start(Settings { endpoints, ..settings() }).await;
    UNREACHABLE.assert_is(&gateway.call(&start("pay")).await, "refused");
    let upstream = refusing.address.to_string();
    let labels = [("upstream", upstream.as_str()), ("result", "error")];
    gateway.counts("nexus_gateway_upstream_connects_total", &labels, 1.0).await;
}

#[tokio::test]
async fn a_host_name_without_an_address_is_unavailable() {
    let endpoints = vec![external("pay", "http://nowhere.invalid:7243")];
    let gateway = Gateway::start(unheld(Settings { endpoints, ..settings() })).await;
    UNREACHABLE.assert_is(&gateway.call(&start("pay")).await, "no such host");
    gateway.counts("nexus_gateway_upstream_resolve_errors_total", &[], 1.0).await;
}

#[tokio::test]
async fn a_host_name_is_looked_up() {
    let handler = Handler::answering(ok());
    let url = format!("http://localhost:{}", handler.address.port());
    let gateway = Gateway::start(Settings { endpoints: vec![external("pay", &url)], ..settings() }).await;
    assert_eq!(gateway.call(&start("pay")).await.status(), 200);
    assert_eq!(handler.request().header("host"), Some(&*format!("localhost:{}", handler.address.port())));
}

/// Parts of an answer after which a connection breaks.
const BEGINNINGS: [&str; 5] = [
    "",
    "HTTP/1.1 2",
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nha",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nha\r\n",
];

#[tokio::test]
async fn a_connection_lost_before_a_complete_answer_is_a_reset() {
    for beginning in BEGINNINGS {
        for end in [Act::Close, Act::Reset] {
            let handler = Handler::acting(vec![beginning.into(), end]);
            let gateway = Gateway::before(&handler).await;
            RESET.assert_is(&gateway.call(&start("pay")).await, beginning);
            assert_eq!(handler.requests().len(), 1, "a fresh connection's loss is not retried");
        }
    }
}

#[tokio::test]
async fn a_stream_that_breaks_off_ends_the_callers_connection_and_is_counted() {
    let begun = "HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n".to_owned() + &"x".repeat(100_000);
    for end in [Act::Close, Act::Reset] {
        let gate = Gate::new();
        let handler = Handler::acting(vec![begun.clone().into(), Act::Wait(gate.clone()), end]);
        let gateway = Gateway::before(&handler).await;
        let mut caller = gateway.connect().await;
        caller.send(start("pay").bytes()).await;
        let head = caller.head().await;
        gate.open();
        assert!(!caller.rest(head).await.complete);
        gateway.counts("nexus_gateway_failures_total", &[("reason", "upstream_reset")], 1.0).await;
    }
}

#[tokio::test]
async fn what_is_not_http_is_malformed() {
    for garbage in [
        "nonsense\r\n\r\n",
        "\u{16}\u{3}\u{1}\0\u{5}\u{1}\0\0\u{1}\u{3}",
        "SSH-2.0-OpenSSH_9.2\r\n",
        "HTTP/1.1 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
    ] {
        let handler = Handler::acting(vec![garbage.into(), Act::Close]);
        MALFORMED.assert_is(&Gateway::before(&handler).await.call(&start("pay")).await, garbage);
    }
}

#[tokio::test]
async fn an_endless_head_is_malformed() {
    let handler = Handler::answering("HTTP/1.1 200 OK\r\n".to_owned() + &"X-More: and more\r\n".repeat(100_000));
    MALFORMED.assert_is(&Gateway::before(&handler).await.call(&start("pay")).await, "endless");
}

#[tokio::test]
async fn two_framings_of_an_answer_never_reach_the_caller_as_they_came() {
    let both = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nabcdef\r\n0\r\n\r\n";
    let handler = Handler::answering(both);
    let gateway = Gateway::before(&handler).await;
    let mut caller = gateway.connect().await;
    let first = caller.call(&start("pay")).await;
    assert_eq!((first.status(), first.text()), (200, "abcdef".into()));
    assert_eq!(caller.call(&start("pay")).await.text(), "abcdef");
}

#[tokio::test]
async fn bytes_after_an_answer_are_not_the_next_answer() {
    let handler = Handler::scripted(|seen| match seen.nth {
        0 => vec![(ok() + &json("200 OK", "\"smuggled\"")).into()],
        _ => vec![ok().into()],
    });
    let gateway = Gateway::before(&handler).await;
    for _ in 0..3 {
        let answer = gateway.call(&start("pay")).await;
        assert_ne!(answer.text(), "\"smuggled\"");
    }
}

#[tokio::test]
async fn connections_are_used_again() {
    let handler = Handler::answering(ok());
    let gateway = Gateway::before(&handler).await;
    for _ in 0..5 {
        assert_eq!(gateway.call(&start("pay")).await.status(), 200);
    }
    assert_eq!(handler.connections(), 1);
}

#[tokio::test]
async fn connections_that_were_idle_for_too_long_are_closed() {
    let handler = Handler::answering(ok());
    let mut settings = leading_to(&handler);
    // Looked at as often as host names.
    settings.upstream.resolve_every = PAUSE;
    settings.upstream.idle_timeout = PAUSE;
    let gateway = Gateway::start(settings).await;
    assert_eq!(gateway.call(&start("pay")).await.status(), 200);
    gateway.counts("nexus_gateway_upstream_connections", &[], 0.0).await;
    assert_eq!(gateway.call(&start("pay")).await.status(), 200);
    assert_eq!(handler.connections(), 2);
}

#[tokio::test]
async fn no_more_connections_are_kept_than_allowed() {
    let handler = Handler::answering(ok());
    let mut settings = leading_to(&handler);
    settings.upstream.max_idle = 0;
    let gateway = Gateway::start(settings).await;
    for _ in 0..3 {
        assert_eq!(gateway.call(&start("pay")).await.status(), 200);
    }
    assert_eq!(handler.connections(), 3);
    gateway.counts("nexus_gateway_upstream_connections", &[], 0.0).await;
}

#[tokio::test]
async fn a_connection_that_died_while_idle_costs_no_request() {
    for end in [Act::Close, Act::Reset] {
        // Closes when the second request is read: as late as can be, for a request sent on an idle connection.
        let handler = Handler::scripted(move |seen| match seen.nth {
            0 => vec![ok().into()],
            _ => vec![end.clone()],
        });
        let gateway = Gateway::before(&handler).await;
        for request in [start("pay"), start("pay"), start("pay").body("again")] {
            assert_eq!(gateway.call(&request).await.status(), 200);
        }
        let ids: Vec<_> =
            handler.requests().iter().map(|seen| seen.header("nexus-request-id").map(str::to_owned)).collect();
        assert_eq!(ids[1], ids[2], "the second try is the same request");
        gateway.counts("nexus_gateway_upstream_replays_total", &[], 2.0).await;
    }
}

#[tokio::test]
async fn a_cancel_survives_a_connection_that_died_while_idle() {
    let handler = Handler::scripted(|seen| match seen.nth {
        0 => vec![answer("202 Accepted", &[], "").into()],
        _ => vec![Act::Close],
    });
    let gateway = Gateway::before(&handler).await;
    for _ in 0..2 {
        assert_eq!(gateway.call(&cancel("pay")).await.status(), 202);
    }
}

#[tokio::test]
async fn a_request_is_sent_a_second_time_but_not_a_third() {
    let handler = Handler::scripted(|seen| match (seen.connection, seen.nth) {
        (0, 0) => vec![ok().into()],
        _ => vec![Act::Close],
    });
    let gateway = Gateway::before(&handler).await;
    assert_eq!(gateway.call(&start("pay")).await.status(), 200);
    RESET.assert_is(&gateway.call(&start("pay")).await, "lost twice");
    assert_eq!(handler.requests().len(), 3);
}

#[tokio::test]
async fn no_request_fails_while_a_target_closes_its_idle_connections() {
    // Each connection takes three requests and is closed right after the third answer, while others may be using it.
    let handler = Handler::scripted(|seen| match seen.nth {
        0 | 1 => vec![ok().into()],
        _ => vec![ok().into(), Act::Close],
    });
    let gateway = Gateway::before(&handler).await;
    assert_all_answered(&gateway, 8, 100).await;
    assert!(handler.connections() > 200, "{} connections", handler.connections());
}

/// Sends requests on several connections at a time; each must be answered 200.
async fn assert_all_answered(gateway: &Gateway, callers: usize, each: usize) {
    let mut calling = tokio::task::JoinSet::new();
    let address = gateway.data();
    for _ in 0..callers {
        calling.spawn(async move {
            let mut caller = Caller::connect(address).await;
            for _ in 0..each {
                let answer = caller.call(&start("pay")).await;
                assert_eq!(answer.status(), 200, "{}", answer.text());
            }
        });
    }
    while let Some(done) = calling.join_next().await {
        done.expect("every request is answered");
    }
}

/// A gateway before a cluster at several addresses.
async fn before_addresses(urls: &[String]) -> Gateway {
    let clusters = vec![undiscovered("home", urls)];
    Gateway::start(Settings { clusters, endpoints: vec![worker("pay")], ..settings() }).await
}

#[tokio::test]
async fn several_addresses_share_requests_and_keep_their_connections() {
    let handlers = [Handler::answering(ok()), Handler::answering(ok())];
    let gateway = before_addresses(&[handlers[0].url(), handlers[1].url()]).await;
    assert_all_answered(&gateway, 8, 50).await;
    for handler in &handlers {
        let asked = |request: &Message| request.target().starts_with("/api/");
        let (others, requests): (Vec<_>, Vec<_>) = handler.requests().into_iter().partition(asked);
        // Which of two takes a request is drawn by load; neither is forgotten.
        assert!(!requests.is_empty());
        // One for each caller and each worker at the most, and one for each question that is no request.
        let bound = 8 + others.len();
        assert!(handler.connections() <= bound, "{} connections, {bound} expected", handler.connections());
    }
}

#[tokio::test]
async fn no_request_fails_while_one_of_several_addresses_is_dead() {
    let (dead, living) = (Reserved::new(), [Handler::answering(ok()), Handler::answering(ok())]);
    let urls = [living[0].url(), format!("http://{}", dead.address), living[1].url()];
    let gateway = before_addresses(&urls).await;
    assert_all_answered(&gateway, 4, 25).await;
    assert!(living.iter().all(|handler| handler.connections() > 0), "both addresses that live are used");
}

#[tokio::test]
async fn no_request_fails_when_one_of_several_addresses_goes_away() {
    let served = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&served);
    let going = Handler::scripted(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        vec![ok().into()]
    });
    let staying = Handler::answering(ok());
    let gateway = before_addresses(&[going.url(), staying.url()]).await;
    assert_all_answered(&gateway, 2, 10).await;
    assert!(served.load(Ordering::Relaxed) > 0);
    drop(going);
    assert_all_answered(&gateway, 2, 10).await;
}

#[tokio::test]
async fn a_caller_that_leaves_takes_its_request_along() {
    let handler = Handler::acting(vec![Act::Stall]);
    let gateway = Gateway::before(&handler).await;
    let mut caller = gateway.connect().await;
    caller.send(start("pay").bytes()).await;
    handler.wait_for(1).await;
    drop(caller);
    gateway.counts("nexus_gateway_requests_total", &[("outcome", "abandoned")], 1.0).await;
    gateway.counts("nexus_gateway_requests_in_flight", &[], 0.0).await;
    gateway.counts("nexus_gateway_upstream_connections", &[], 0.0).await;
}

#[tokio::test]
async fn a_caller_that_leaves_inside_its_answer_has_not_got_it() {
    let begun = "HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n".to_owned() + &"x".repeat(100_000);
    let handler = Handler::acting(vec![begun.into(), Act::Stall]);
    let gateway = Gateway::before(&handler).await;
    let mut caller = gateway.connect().await;
    caller.send(start("pay").bytes()).await;
    assert_eq!(caller.head().await.status(), 200);
    drop(caller);
    gateway.counts("nexus_gateway_requests_total", &[("outcome", "abandoned")], 1.0).await;
}
