//! Callers that abuse HTTP/2: their connection is cut, and a good caller beside them notices nothing.

use std::time::Duration;

use nexus_gateway::config::Settings;
use nexus_gateway::server::ServerSettings;

use crate::harness::frames::{END_HEADERS, END_STREAM, HEADERS, PREFACE, SETTINGS, field, frame};
use crate::harness::*;

/// The head of a start.
fn block() -> Vec<u8> {
    let path = "/nexus/endpoints/pay/services/Svc/op";
    let fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "gateway.test")];
    fields.iter().flat_map(|(name, value)| field(name, value)).collect()
}

/// A request of its own stream, for as many streams as there are.
fn streams() -> impl Iterator<Item = u32> {
    (0..100_000).map(|n| 2 * n + 1)
}

struct Case {
    name: &'static str,
    /// What `connections_cut_total` counts it as.
    reason: &'static str,
    frames: fn() -> Vec<u8>,
}

const CASES: &[Case] = &[
    Case {
        name: "streams reset as soon as they began",
        reason: "excess",
        frames: || {
            let reset = |stream| frame(3, 0, stream, &[0, 0, 0, 8]);
            let begin = |stream| frame(HEADERS, END_HEADERS, stream, &block());
            streams().take(5000).flat_map(|stream| [begin(stream), reset(stream)]).flatten().collect()
        },
    },
    Case { name: "pings", reason: "pings", frames: || frame(6, 0, 0, &[0; 8]).repeat(1000) },
    Case { name: "settings", reason: "settings", frames: || frame(SETTINGS, 0, 0, &[]).repeat(1000) },
    Case { name: "priorities", reason: "frames", frames: || frame(2, 0, 1, &[0, 0, 0, 0, 1]).repeat(5000) },
    Case { name: "frames of no kind", reason: "frames", frames: || frame(0xee, 0, 0, &[1]).repeat(5000) },
    Case {
        name: "empty pieces of a body",
        reason: "excess",
        frames: || {
            let begin = frame(HEADERS, END_HEADERS, 1, &block());
            [begin, frame(0, 0, 1, &[]).repeat(5000)].concat()
        },
    },
    Case {
        name: "a header block without an end",
        reason: "excess",
        frames: || {
            let begin = frame(HEADERS, END_STREAM, 1, &block());
            [begin, frame(9, 0, 1, &[0, 1, b'x', 1, b'y']).repeat(100_000)].concat()
        },
    },
    Case {
        name: "empty continuations",
        reason: "header_block",
        frames: || [frame(HEADERS, END_STREAM, 1, &block()), frame(9, 0, 1, &[]).repeat(10)].concat(),
    },
    Case {
        name: "a large header block",
        reason: "excess",
        frames: || {
            let begin = frame(HEADERS, END_STREAM, 1, &block());
            [begin, frame(9, 0, 1, &[0; 16 << 10]).repeat(100)].concat()
        },
    },
];

fn bounded(handler: &Handler) -> Settings {
    let mut settings = leading_to(handler);
    settings.listen[0].http2 = true;
    settings
}

#[tokio::test]
async fn a_connection_that_only_makes_work_is_cut() {
    let handler = Handler::answering(ok());
    let gateway = Gateway::start(bounded(&handler)).await;
    let (mut good, mut cut) = (gateway.connect().await, 0.0);
    for Case { name, reason, frames } in CASES {
        let mut caller = gateway.connect().await;
        caller.send([PREFACE, &frame(SETTINGS, 0, 0, &[]), &frames()].concat()).await;
        println!("{name}");
        caller.closed().await;
        cut += 1.0;
        gateway.counts("nexus_gateway_connections_cut_total", &[], cut).await;
        gateway.counts_at_least("nexus_gateway_connections_cut_total", &[("reason", reason)], 1.0).await;
        assert_eq!(good.call(&start("pay")).await.status(), 200, "{name}");
    }
    gateway.counts("nexus_gateway_connections", &[], 1.0).await;
    gateway.counts("nexus_gateway_requests_in_flight", &[], 0.0).await;
}

/// The first one of them may have been quicker.
#[tokio::test]
async fn requests_that_are_taken_back_at_once_reach_no_target() {
    let handler = Handler::answering(ok());
    let gateway = Gateway::start(bounded(&handler)).await;
    let mut caller = gateway.connect().await;
    // Fewer than make a connection be cut.
    let taken_back = streams().take(15).flat_map(|stream| {
        let begin = frame(HEADERS, END_HEADERS | END_STREAM, stream, &block());
        [begin, frame(3, 0, stream, &[0, 0, 0, 8])].concat()
    });
    caller.send([PREFACE, &frame(SETTINGS, 0, 0, &[]), &taken_back.collect::<Vec<_>>()].concat()).await;
    gateway.counts_at_least("nexus_gateway_connections_total", &[], 1.0).await;
    assert_eq!(gateway.call(&start("pay")).await.status(), 200);
    gateway.counts("nexus_gateway_requests_in_flight", &[], 0.0).await;
    gateway.counts("nexus_gateway_connections_cut_total", &[], 0.0).await;
    assert!(handler.connections() <= 2, "{} connections", handler.connections());
}

#[tokio::test]
async fn who_had_too_many_connections_cut_gets_no_new_one_and_keeps_those_that_are_open() {
    let handler = Handler::answering(ok());
    let mut settings = bounded(&handler);
    settings.server.max_cuts_per_peer = 1;
    let gateway = Gateway::start(settings).await;
    let (other, address) = (std::net::Ipv4Addr::new(127, 0, 0, 2).into(), gateway.data());
    let mut kept = Caller::connect_from(other, address).await;
    let refused = [("reason", "max_cuts_per_peer")];
    // Ten at once, and one for each second that this takes.
    for made in 0.. {
        if gateway.metrics().await.sum("nexus_gateway_connections_refused_total", &refused) > 0.0 {
            break;
        }
        assert!(made < 100, "it may go on and on");
        let mut caller = Caller::connect_from(other, address).await;
        caller.send([PREFACE, &frame(SETTINGS, 0, 0, &[]), &frame(SETTINGS, 0, 0, &[]).repeat(100)].concat()).await;
        caller.closed().await;
    }
    assert!(gateway.metrics().await.sum("nexus_gateway_connections_cut_total", &[("reason", "settings")]) >= 10.0);
    assert_eq!(kept.call(&start("pay")).await.status(), 200);
    assert_eq!(gateway.call(&start("pay")).await.status(), 200, "of somebody else");
}

#[tokio::test]
async fn a_head_that_takes_too_long_ends_its_connection() {
    let handler = Handler::answering(ok());
    let mut settings = bounded(&handler);
    // As short as the reaper can tell apart.
    settings.server.head_timeout = Duration::from_millis(500);
    let gateway = Gateway::start(settings).await;
    let whole = frame(HEADERS, END_HEADERS, 1, &block());
    for beginning in [&frame(HEADERS, END_STREAM, 1, &block()), &whole[..whole.len() - 1]] {
        let mut caller = gateway.connect().await;
        caller.send([PREFACE, &frame(SETTINGS, 0, 0, &[]), beginning].concat()).await;
        caller.closed().await;
    }
    gateway.counts("nexus_gateway_connections_reaped_total", &[], 2.0).await;
}

#[tokio::test]
async fn no_peer_takes_all_connections() {
    let handler = Handler::answering(ok());
    let server = ServerSettings { max_connections_per_peer: 2, ..settings().server };
    let gateway = Gateway::start(Settings { server, ..leading_to(&handler) }).await;
    let (mut first, second) = (gateway.connect().await, gateway.connect().await);
    assert_eq!(first.call(&start("pay")).await.status(), 200);
    gateway.connect().await.closed().await;
    gateway.counts("nexus_gateway_connections_refused_total", &[("reason", "max_connections_per_peer")], 1.0).await;
    let other = std::net::Ipv4Addr::new(127, 0, 0, 2).into();
    assert_eq!(Caller::connect_from(other, gateway.data()).await.call(&start("pay")).await.status(), 200);
    drop(second);
    gateway.counts("nexus_gateway_connections", &[], 1.0).await;
    assert_eq!(gateway.call(&start("pay")).await.status(), 200);
}

#[tokio::test]
async fn a_body_that_takes_too_long_is_refused_and_its_connection_closed() {
    let handler = Handler::answering(ok());
    let mut settings = leading_to(&handler);
    settings.server.process.body_timeout = Duration::from_millis(100);
    let gateway = Gateway::start(settings).await;
    for request in [start("pay").body("12"), start("pay").body("12").chunked()] {
        let mut caller = gateway.connect().await;
        caller.send(request.head()).await;
        let answer = caller.answer().await;
        failure("slow_body", nexus_gateway::nexus::ErrorType::RequestTimeout, true).assert_is(&answer, "a slow body");
        caller.closed().await;
    }
    assert!(handler.requests().is_empty());
}

#[tokio::test]
async fn what_is_compressed_passes_as_it_is() {
    // A mebibyte of zeros in a kibibyte (RFC 1952).
    let bomb = [
        &b"\x1f\x8b\x08\0\0\0\0\0\x02\x03\xed\xc1\x31\x01\0\0\0\xc2\xa0\xf5\x4f\x6d\x08\x5f\xa0"[..],
        &[0; 1012],
        &b"\0\0\0\0\0\0\0\0\0\0\x3e\x03\x1c\xea\x38\xa7\0\0\x10\0"[..],
    ]
    .concat();
    let handler = Handler::answering(ok());
    let gateway = Gateway::before(&handler).await;
    let request = start("pay").header("Content-Encoding", "gzip").body(bomb.clone());
    assert_eq!(gateway.call(&request).await.status(), 200);
    let seen = handler.request();
    assert_eq!((seen.body, seen.headers.iter().filter(|(_, value)| value == "gzip").count()), (bomb, 1));
}
