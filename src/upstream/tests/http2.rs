//! Targets that speak HTTP/2, in memory.

use std::pin::Pin;
use std::sync::atomic::AtomicUsize;

use http::Response;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::server::TlsStream;

use super::*;
use crate::tls::testing::{Authority, For};
use crate::tls::{ClientAuth, KeyPair, Protocol, Roots, ServerTls, ServerTlsSettings};

type Secured = TlsStream<DuplexStream>;
type Serving = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A target whose connections are served by a function of their number.
#[derive(Clone)]
struct Peer {
    tls: ServerTls,
    connects: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
    serve: Arc<dyn Fn(Peer, Secured, usize) -> Serving + Send + Sync>,
}

impl Peer {
    fn connects(&self) -> usize {
        self.connects.load(Ordering::Relaxed)
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

impl Connect for Peer {
    fn connect(&self, _: SocketAddr) -> Connecting<'_> {
        Box::pin(async move {
            let nth = self.connects.fetch_add(1, Ordering::Relaxed);
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            let peer = self.clone();
            tokio::spawn(async move {
                let Ok(accepted) = peer.tls.accept(theirs).await else { return };
                assert_eq!(accepted.protocol, Protocol::Http2);
                (Arc::clone(&peer.serve))(peer, accepted.stream, nth).await;
            });
            Ok(Stream::Other(Box::pin(ours)))
        })
    }
}

/// A target and what serves it.
fn peer<F>(serve: impl Fn(Peer, Secured, usize) -> F + Send + Sync + 'static) -> (Arc<Upstream>, Peer)
where
    F: Future<Output = ()> + Send + 'static,
{
    peer_with(UpstreamSettings::default(), ClientAuth::Off, serve)
}

fn peer_with<F>(
    settings: UpstreamSettings,
    clients: ClientAuth,
    serve: impl Fn(Peer, Secured, usize) -> F + Send + Sync + 'static,
) -> (Arc<Upstream>, Peer)
where
    F: Future<Output = ()> + Send + 'static,
{
    let authority = Authority::new("roots");
    let own = authority.issue(For { hosts: &["127.0.0.1"], ..For::default() });
    let certificates = vec![KeyPair::read(&own.chain, &own.key).unwrap()];
    let server = ServerTlsSettings { certificates, clients, only_tls13: true };
    let tls = ServerTls::new(&server, &[Protocol::Http2, Protocol::Http1]).unwrap();
    let serve = Arc::new(move |peer, stream, nth| -> Serving { Box::pin(serve(peer, stream, nth)) });
    let peer = Peer { tls, connects: Arc::default(), requests: Arc::default(), serve };
    let believing =
        ClientTlsSettings { roots: Some(Roots::read(&authority.pem).unwrap()), ..ClientTlsSettings::default() };
    let urls = vec![BaseUrl::parse("https://127.0.0.1/base").unwrap()];
    let upstream = Upstream::new("home".into(), urls, Probe::Connect, settings, 1, Arc::new(peer.clone()), &believing);
    (upstream, peer)
}

/// Sends a request and reads its answer: the status, and whether an earlier one may have arrived.
async fn ask(upstream: &Upstream) -> Result<(u16, bool), SendError> {
    let sent = AtomicBool::new(false);
    let request = Outgoing { body: Bytes::from_static(b"body"), ..outgoing() };
    let (head, exchange) = upstream.send(0, &request, Instant::now() + 10 * SECOND, &sent).await?;
    let replayed = exchange.is_replayed();
    let _ = http_body_util::BodyExt::collect(exchange).await;
    Ok((head.status.as_u16(), replayed))
}

fn many(upstream: &Arc<Upstream>, count: usize) -> JoinSet<Result<(u16, bool), SendError>> {
    (0..count)
        .map(|_| {
            let upstream = Arc::clone(upstream);
            async move { ask(&upstream).await }
        })
        .collect()
}

/// Serves with a library: at most `limit` at a time, each answered when `gate` lets it; after `goodbye` requests the
/// connection is closed in good order.
async fn serve(peer: Peer, stream: Secured, limit: u32, gate: Arc<Semaphore>, goodbye: usize) {
    let mut connection = h2::server::Builder::new().max_concurrent_streams(limit).handshake(stream).await.unwrap();
    let mut served = 0;
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        peer.requests.fetch_add(1, Ordering::Relaxed);
        assert_eq!(request.uri(), "https://127.0.0.1/S/o");
        assert_eq!(request.headers()["content-length"], "4");
        let gate = Arc::clone(&gate);
        tokio::spawn(async move {
            let _ = gate.acquire().await;
            let mut body = respond.send_response(Response::new(()), false).unwrap();
            let _ = body.send_data(Bytes::from_static(b"answer"), true);
        });
        served += 1;
        if served == goodbye {
            connection.graceful_shutdown();
        }
    }
}

fn open_gate() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(Semaphore::MAX_PERMITS))
}

#[tokio::test(start_paused = true)]
async fn requests_at_the_same_time_share_one_connection() {
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let (upstream, peer) = peer(move |peer, stream, _| serve(peer, stream, 100, Arc::clone(&held), usize::MAX));
    let calls = many(&upstream, 80);
    sleep(SECOND).await;
    assert_eq!((peer.requests(), peer.connects(), upstream.connections()), (80, 1, (1, 0)));
    gate.add_permits(1000);
    assert!(calls.join_all().await.into_iter().all(|outcome| matches!(outcome, Ok((200, false)))));
    assert_eq!(upstream.connections(), (1, 1));
    assert_eq!(upstream.addresses_status(Instant::now())[0].in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn no_more_requests_share_a_connection_than_either_side_wants() {
    for (theirs, ours, connections) in [(10, 100, 3), (100, 5, 5)] {
        let gate = Arc::new(Semaphore::new(0));
        let held = Arc::clone(&gate);
        let settings = UpstreamSettings { max_streams: ours, ..UpstreamSettings::default() };
        let serve = move |peer, stream, _| serve(peer, stream, theirs, Arc::clone(&held), usize::MAX);
        let (upstream, peer) = peer_with(settings, ClientAuth::Off, serve);
        let calls = many(&upstream, 25);
        sleep(SECOND).await;
        assert_eq!((peer.requests(), peer.connects()), (25, connections));
        gate.add_permits(1000);
        assert!(calls.join_all().await.into_iter().all(|outcome| matches!(outcome, Ok((200, false)))));
        // What is too many becomes idle and is closed.
        ask(&upstream).await.unwrap();
        sleep(100 * SECOND).await;
        assert_eq!(upstream.connections(), (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_says_goodbye_under_load_loses_no_request_and_gets_none_twice() {
    let (upstream, peer) = peer(|peer, stream, _| serve(peer, stream, 100, open_gate(), 7));
    let mut asked = 0;
    for _ in 0..20 {
        let calls = many(&upstream, 25);
        asked += 25;
        for outcome in calls.join_all().await {
            assert!(matches!(outcome, Ok((200, false))), "{outcome:?}");
        }
    }
    assert_eq!(peer.requests(), asked);
    assert!(peer.connects() > 20);
    assert_eq!(states(&upstream), [State::Up]);
}

/// Frames by hand.
async fn frame(stream: &mut Secured, kind: u8, flags: u8, id: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&id.to_be_bytes());
    bytes.extend_from_slice(payload);
    let _ = stream.write_all(&bytes).await;
    let _ = stream.flush().await;
}

/// Begins a connection and waits until the request of stream `last` is there.
async fn begin(stream: &mut Secured, last: u32) {
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await.unwrap();
    frame(stream, 4, 0, 0, &[]).await;
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).await.is_err() {
            return;
        }
        let length = usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).await.unwrap();
        // DATA that ends a stream.
        if head[3] == 0 && head[4] & 1 == 1 && head[5..] == last.to_be_bytes() {
            return;
        }
    }
}

/// `:status: 200` in HPACK, and the end of the stream.
async fn answer(stream: &mut Secured, id: u32) {
    frame(stream, 1, 5, id, &[0x88]).await;
}

async fn go_away(stream: &mut Secured, last: u32) {
    let mut payload = last.to_be_bytes().to_vec();
    payload.extend_from_slice(&[0, 0, 0, 0]);
    frame(stream, 7, 0, 0, &payload).await;
}

#[tokio::test(start_paused = true)]
async fn of_a_connection_that_ends_only_what_the_peer_did_not_act_on_is_sent_again() {
    // The first connection gets three requests, and its peer may have acted on the first one.
    let (upstream, peer) = peer(|peer, mut stream, nth| async move {
        if nth > 0 {
            return serve(peer, stream, 100, open_gate(), usize::MAX).await;
        }
        begin(&mut stream, 5).await;
        go_away(&mut stream, 1).await;
    });
    let outcomes = many(&upstream, 3).join_all().await;
    let good = outcomes.iter().filter(|outcome| matches!(outcome, Ok((200, false)))).count();
    let lost = outcomes.iter().filter(|outcome| matches!(outcome, Err(SendError::Reset(..)))).count();
    assert_eq!((good, lost, peer.requests(), peer.connects()), (2, 1, 2, 2), "{outcomes:?}");
}

#[tokio::test(start_paused = true)]
async fn what_the_peer_answers_after_its_goodbye_counts() {
    let (upstream, peer) = peer(|peer, mut stream, nth| async move {
        if nth > 0 {
            return serve(peer, stream, 100, open_gate(), usize::MAX).await;
        }
        begin(&mut stream, 5).await;
        go_away(&mut stream, 0x7fff_ffff).await;
        go_away(&mut stream, 1).await;
        sleep(SECOND).await;
        answer(&mut stream, 1).await;
    });
    let outcomes = many(&upstream, 3).join_all().await;
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok((200, false)))), "{outcomes:?}");
    assert_eq!((peer.requests(), peer.connects()), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_refused_stream_is_sent_again_and_any_other_reset_is_not() {
    for (code, again) in [(7, true), (2, false), (8, false)] {
        let (upstream, peer) = peer(move |_, mut stream, _| async move {
            begin(&mut stream, 1).await;
            frame(&mut stream, 3, 0, 1, &[0, 0, 0, code]).await;
            // The next stream on the same connection.
            let mut rest = [0; 1];
            let _ = stream.read_exact(&mut rest).await;
            answer(&mut stream, 3).await;
            std::future::pending::<()>().await;
        });
        let outcome = ask(&upstream).await;
        assert_eq!(matches!(outcome, Ok((200, false))), again, "{code}: {outcome:?}");
        assert_eq!(matches!(outcome, Err(SendError::Reset(..))), !again, "{code}: {outcome:?}");
        assert_eq!(peer.connects(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_refuses_everything_is_asked_a_few_times_and_nothing_was_done() {
    let (upstream, peer) = peer(|peer, mut stream, _| async move {
        begin(&mut stream, 1).await;
        peer.requests.fetch_add(1, Ordering::Relaxed);
        go_away(&mut stream, 0).await;
        std::future::pending::<()>().await;
    });
    let outcome = ask(&upstream).await;
    assert!(matches!(outcome, Err(SendError::Unreachable(_))), "{outcome:?}");
    assert_eq!(peer.requests(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_dies_in_silence_is_found_out_and_what_waited_goes_on() {
    // It answers one request, and is never heard of again.
    let (upstream, peer) = peer(|peer, mut stream, nth| async move {
        if nth > 0 {
            return serve(peer, stream, 100, open_gate(), usize::MAX).await;
        }
        begin(&mut stream, 1).await;
        answer(&mut stream, 1).await;
        std::future::pending::<()>().await;
    });
    ask(&upstream).await.unwrap();
    sleep(12 * SECOND).await;
    let began = Instant::now();
    let outcome = ask(&upstream).await;
    assert!(matches!(outcome, Ok((200, true))), "it had been idle, and the first may have arrived: {outcome:?}");
    assert!(began.elapsed() <= 6 * SECOND, "{:?}", began.elapsed());
    assert_eq!(peer.connects(), 2);
}

#[tokio::test(start_paused = true)]
async fn after_one_waited_in_vain_others_stay_away_from_the_connection_until_it_answers() {
    let (upstream, peer) = peer(|peer, mut stream, nth| async move {
        if nth > 0 {
            return serve(peer, stream, 100, open_gate(), usize::MAX).await;
        }
        begin(&mut stream, 1).await;
        std::future::pending::<()>().await;
    });
    assert!(tokio::time::timeout(SECOND, ask(&upstream)).await.is_err());
    assert_eq!(ask(&upstream).await.unwrap(), (200, false));
    assert_eq!(peer.connects(), 2);
    sleep(6 * SECOND).await;
    assert_eq!(upstream.connections(), (1, 1), "the first did not answer a PING");
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_that_answers_pings_lives_until_it_is_too_old() {
    let (upstream, peer) = peer(|peer, stream, _| serve(peer, stream, 100, open_gate(), usize::MAX));
    ask(&upstream).await.unwrap();
    sleep(80 * SECOND).await;
    ask(&upstream).await.unwrap();
    assert_eq!((peer.connects(), upstream.connections()), (1, (1, 1)));
    sleep(100 * SECOND).await;
    assert_eq!(upstream.connections(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_nobody_reads_to_its_end_ends_nothing_else() {
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let (upstream, peer) = peer(move |peer, stream, _| serve(peer, stream, 100, Arc::clone(&held), usize::MAX));
    let calls = many(&upstream, 2);
    sleep(SECOND).await;
    assert!(tokio::time::timeout(SECOND, ask(&upstream)).await.is_err());
    gate.add_permits(1000);
    assert!(calls.join_all().await.iter().all(|outcome| matches!(outcome, Ok((200, false)))));
    ask(&upstream).await.unwrap();
    assert_eq!((peer.requests(), peer.connects()), (4, 1));
}

#[tokio::test(start_paused = true)]
async fn a_missing_certificate_is_seen_before_anything_is_sent() {
    let others = Roots::read(&Authority::new("others").pem).unwrap();
    let (upstream, peer) = peer_with(UpstreamSettings::default(), ClientAuth::Required(others), |peer, stream, _| {
        serve(peer, stream, 100, open_gate(), usize::MAX)
    });
    let sent = AtomicBool::new(false);
    let outcome = upstream.send(0, &outgoing(), Instant::now() + SECOND, &sent).await;
    assert!(matches!(outcome, Err(SendError::Unreachable(why)) if why.contains("wants one and sees none")));
    assert!(!sent.load(Ordering::Relaxed));
    assert_eq!((peer.requests(), states(&upstream)), (0, vec![State::Down]));
    // Probes see it as well.
    upstream.usable(Instant::now() + 3 * SECOND).await.expect_err("it stays down");
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_for_a_connection_that_fails_fail_with_it() {
    let (upstream, peer) = peer(|_, stream, _| async move {
        let _stream = stream;
        std::future::pending::<()>().await;
    });
    let began = Instant::now();
    for outcome in many(&upstream, 50).join_all().await {
        assert!(matches!(&outcome, Err(SendError::Unreachable(why)) if why.contains("did not begin in time")));
    }
    assert_eq!((began.elapsed(), peer.connects()), (2 * SECOND, 1));
}
