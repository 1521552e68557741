//! An upstream over simulated addresses, in simulated time.

use std::collections::HashMap;
use std::io;
use std::sync::{Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::Notify;
use tokio::time::{advance, sleep};

use super::*;

mod http2;
mod tls;

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// How an address behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Behaviour {
    #[default]
    Answers,
    AnswersAfter(Duration),
    Refuses,
    /// Drops what is sent to it.
    Swallows,
    /// Takes connections and never answers.
    Hangs,
    /// Takes connections and closes them at once.
    Closes,
    /// Closes each connection with its first request, probes excepted.
    Resets,
    Unavailable,
}

/// Simulated addresses, by port.
#[derive(Clone, Default)]
struct Net(Arc<Mutex<HashMap<u16, Site>>>, Arc<Notify>);

#[derive(Default)]
struct Site {
    behaviour: Behaviour,
    connects: usize,
    probes: usize,
    requests: usize,
}

impl Net {
    fn site<T>(&self, port: u16, look: impl FnOnce(&mut Site) -> T) -> T {
        look(self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(port).or_default())
    }

    fn set(&self, port: u16, behaviour: Behaviour) {
        self.site(port, |site| site.behaviour = behaviour);
    }

    /// Closes all connections on which nothing is going on.
    fn close_idle(&self) {
        self.1.notify_waiters();
    }

    fn requests(&self, port: u16) -> usize {
        self.site(port, |site| site.requests)
    }

    fn probes(&self, port: u16) -> usize {
        self.site(port, |site| site.probes)
    }

    async fn serve(self, port: u16, mut stream: DuplexStream) {
        let mut seen = Vec::new();
        loop {
            let mut piece = [0; 4096];
            let read = tokio::select! {
                read = stream.read(&mut piece) => read,
                () = self.1.notified() => return,
            };
            let Ok(count @ 1..) = read else { return };
            seen.extend_from_slice(&piece[..count]);
            if !seen.windows(4).any(|four| four == b"\r\n\r\n") {
                continue;
            }
            let is_probe = seen.starts_with(b"GET /api/v1/system-info ");
            seen.clear();
            self.site(port, |site| if is_probe { site.probes += 1 } else { site.requests += 1 });
            let status = match self.site(port, |site| site.behaviour) {
                Behaviour::Hangs => std::future::pending().await,
                Behaviour::Resets if !is_probe => return,
                Behaviour::Unavailable if !is_probe => "503 Service Unavailable",
                Behaviour::AnswersAfter(pause) => {
                    sleep(pause).await;
                    "200 OK"
                }
                _ => "200 OK",
            };
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

impl Connect for Net {
    fn connect(&self, address: SocketAddr) -> Connecting<'_> {
        Box::pin(async move {
            let port = address.port();
            let behaviour = self.site(port, |site| {
                site.connects += 1;
                site.behaviour
            });
            match behaviour {
                Behaviour::Refuses => Err(io::ErrorKind::ConnectionRefused.into()),
                Behaviour::Swallows => std::future::pending().await,
                Behaviour::Closes => Ok(Stream::Other(Box::pin(tokio::io::duplex(1).0))),
                _ => {
                    let (ours, theirs) = tokio::io::duplex(64 * 1024);
                    tokio::spawn(self.clone().serve(port, theirs));
                    Ok(Stream::Other(Box::pin(ours)))
                }
            }
        })
    }
}

/// An upstream at so many addresses, whose ports are 1 and up.
fn upstream(addresses: u16) -> (Arc<Upstream>, Net) {
    upstream_with(addresses, Probe::SystemInfo)
}

fn upstream_with(addresses: u16, probe: Probe) -> (Arc<Upstream>, Net) {
    let net = Net::default();
    let urls = (1..=addresses).map(|port| BaseUrl::parse(&format!("http://127.0.0.1:{port}")).unwrap()).collect();
    let (settings, tls) = (UpstreamSettings::default(), ClientTlsSettings::default());
    let upstream = Upstream::new("home".into(), urls, probe, settings, 1, Arc::new(net.clone()), &tls);
    (upstream, net)
}

fn outgoing() -> Outgoing {
    Outgoing { prefix: 1, ..Outgoing::raw(Uri::from_static("/S/o"), HeaderMap::new(), Bytes::new()) }
}

/// Sends a request, reads its answer, and says where it came from; reports what is unavailable.
async fn call(upstream: &Upstream) -> Result<u16, SendError> {
    let began = Instant::now();
    let sent = AtomicBool::new(false);
    let (head, exchange) = upstream.send(0, &outgoing(), began + 10 * SECOND, &sent).await?;
    let socket = exchange.socket();
    drop(http_body_util::BodyExt::collect(exchange).await);
    if head.status == 503 {
        upstream.report(socket, began, Err("503 Service Unavailable"));
    }
    Ok(socket.port())
}

fn states(upstream: &Upstream) -> Vec<State> {
    upstream.addresses_status(Instant::now()).into_iter().map(|status| status.state).collect()
}

fn socket(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_for_the_recovery_and_no_longer() {
    let (upstream, net) = upstream(1);
    assert_eq!(upstream.usable(Instant::now()).await.unwrap(), Duration::ZERO);
    net.set(1, Behaviour::Refuses);
    assert!(matches!(call(&upstream).await, Err(SendError::Unreachable(_))));
    sleep(3 * SECOND).await;
    net.set(1, Behaviour::Answers);
    let waited = upstream.usable(Instant::now() + SECOND).await.unwrap();
    assert!(waited > Duration::ZERO && waited <= 251 * MILLI, "{waited:?}");
    assert_eq!(call(&upstream).await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_at_its_deadline_and_says_why() {
    let (upstream, net) = upstream(2);
    net.set(1, Behaviour::Refuses);
    net.set(2, Behaviour::Refuses);
    call(&upstream).await.unwrap_err();
    sleep(2 * SECOND).await;
    let began = Instant::now();
    let error = upstream.usable(began + 3 * SECOND).await.unwrap_err().to_string();
    assert!(began.elapsed() <= 3 * SECOND + MILLI);
    assert_eq!(
        error,
        "cannot connect to 127.0.0.1:1 (down for 5.0 s: connection refused), \
        127.0.0.1:2 (down for 5.0 s: connection refused)"
    );
    upstream.usable(began).await.expect_err("a deadline in the past");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_closed_before_it_is_used_is_none() {
    let (upstream, net) = upstream(1);
    net.set(1, Behaviour::Closes);
    let began = Instant::now();
    let outcome = call(&upstream).await;
    assert!(matches!(outcome, Err(SendError::Unreachable(_))), "nothing was sent: {outcome:?}");
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_request_comes_through_where_hundreds_of_idle_connections_died() {
    let (upstream, net) = upstream(1);
    net.set(1, Behaviour::AnswersAfter(SECOND));
    let calls: tokio::task::JoinSet<_> = (0..200)
        .map(|_| {
            let upstream = Arc::clone(&upstream);
            async move { call(&upstream).await.unwrap() }
        })
        .collect();
    calls.join_all().await;
    assert_eq!(upstream.connections(), (200, 200));
    net.close_idle();
    sleep(MILLI).await;
    let began = Instant::now();
    assert_eq!(tokio::time::timeout(9 * SECOND, call(&upstream)).await.expect("it is not forgotten").unwrap(), 1);
    assert_eq!(began.elapsed(), SECOND);
}

#[tokio::test(start_paused = true)]
async fn hundreds_that_wait_are_all_released_whenever_they_came() {
    let (upstream, net) = upstream(1);
    net.set(1, Behaviour::Refuses);
    call(&upstream).await.unwrap_err();
    let mut waiting = tokio::task::JoinSet::new();
    for nth in 0..500 {
        let upstream = Arc::clone(&upstream);
        waiting.spawn(async move {
            sleep(nth * 2 * MILLI).await;
            upstream.usable(Instant::now() + 20 * SECOND).await.unwrap();
            call(&upstream).await.unwrap();
            Instant::now()
        });
    }
    sleep(900 * MILLI).await;
    net.set(1, Behaviour::Answers);
    let healed = Instant::now();
    let released = waiting.join_all().await;
    assert!(released.iter().all(|at| *at <= healed + 251 * MILLI));
}

#[tokio::test(start_paused = true)]
async fn where_all_are_down_a_request_still_tries_each() {
    let (upstream, net) = upstream(3);
    for port in 1..=3 {
        net.set(port, Behaviour::Refuses);
    }
    let error = call(&upstream).await.unwrap_err().to_string();
    assert_eq!(error.matches("connection refused").count(), 3, "{error}");
    assert_eq!(states(&upstream), [State::Down; 3]);
    // Healed just now, and no probe saw it yet.
    net.set(2, Behaviour::Answers);
    assert_eq!(call(&upstream).await.unwrap(), 2);
    assert_eq!(states(&upstream), [State::Down, State::Up, State::Down]);
}

#[tokio::test(start_paused = true)]
async fn a_dead_address_costs_one_request_one_connect_and_is_used_again_when_it_heals() {
    let (upstream, net) = upstream(2);
    sleep(10 * SECOND).await;
    net.set(1, Behaviour::Refuses);
    for _ in 0..50 {
        assert_eq!(call(&upstream).await.unwrap(), 2);
    }
    assert_eq!(states(&upstream), [State::Down, State::Up]);
    assert_eq!(upstream.counts().refused.load(Ordering::Relaxed), 1);
    net.set(1, Behaviour::Answers);
    sleep(251 * MILLI).await;
    assert_eq!(states(&upstream), [State::Up, State::Up]);
    // Little by little, then its whole share.
    let before = net.requests(1);
    for _ in 0..200 {
        call(&upstream).await.unwrap();
    }
    let soon = net.requests(1) - before;
    assert!((1..=50).contains(&soon), "{soon} of 200 right after it came back");
    sleep(10 * SECOND).await;
    let before = net.requests(1);
    for _ in 0..200 {
        call(&upstream).await.unwrap();
    }
    let later = net.requests(1) - before;
    assert!(later > 60, "{later} of 200 later");
}

#[tokio::test(start_paused = true)]
async fn one_that_swallows_connects_is_down_after_the_connect_timeout_and_the_other_answers() {
    let (upstream, net) = upstream(2);
    net.set(1, Behaviour::Swallows);
    for _ in 0..20 {
        assert_eq!(call(&upstream).await.unwrap(), 2);
    }
    let status = &upstream.addresses_status(Instant::now())[0];
    assert_eq!((status.state, &*status.reason), (State::Down, "connect timed out"));
}

#[tokio::test(start_paused = true)]
async fn an_address_that_hangs_is_found_by_probes() {
    let (upstream, net) = upstream(2);
    net.set(1, Behaviour::Hangs);
    sleep(8 * SECOND).await;
    assert_eq!(states(&upstream), [State::Down, State::Up]);
    for _ in 0..20 {
        assert_eq!(call(&upstream).await.unwrap(), 2);
    }
    // A stopped process takes connections, which is no recovery.
    sleep(5 * SECOND).await;
    assert_eq!(states(&upstream), [State::Down, State::Up]);
    net.set(1, Behaviour::Answers);
    sleep(SECOND + 251 * MILLI).await;
    assert_eq!(states(&upstream), [State::Up, State::Up]);
}

#[tokio::test(start_paused = true)]
async fn what_is_up_is_probed_only_where_there_is_a_choice() {
    let (alone, lonely) = upstream(1);
    let (_both, net) = upstream(2);
    sleep(60 * SECOND).await;
    assert_eq!(lonely.site(1, |site| site.connects), 0);
    assert!((12..=16).contains(&net.probes(1)), "{}", net.probes(1));
    // An external target is connected to and told nothing.
    lonely.set(1, Behaviour::Refuses);
    call(&alone).await.unwrap_err();
    let (external, outside) = upstream_with(1, Probe::Connect);
    outside.set(1, Behaviour::Refuses);
    call(&external).await.unwrap_err();
    outside.set(1, Behaviour::Answers);
    external.usable(Instant::now() + SECOND).await.unwrap();
    assert_eq!((outside.probes(1), outside.site(1, |site| site.connects)), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn probes_end_with_the_upstream() {
    let (upstream, net) = upstream(2);
    net.set(1, Behaviour::Refuses);
    net.set(2, Behaviour::Hangs);
    sleep(20 * SECOND).await;
    drop(upstream);
    tokio::task::yield_now().await;
    let before = net.site(1, |site| site.connects);
    sleep(20 * SECOND).await;
    assert_eq!(net.site(1, |site| site.connects), before);
    // So does what waits for a probe to be due, be it never.
    let (alone, net) = super::tests::upstream(1);
    sleep(SECOND).await;
    drop(alone);
    sleep(MILLI).await;
    assert_eq!(Arc::strong_count(&net.0), 1);
}

#[tokio::test(start_paused = true)]
async fn an_address_whose_answers_fail_is_ejected_for_a_while() {
    for behaviour in [Behaviour::Resets, Behaviour::Unavailable] {
        let (upstream, net) = upstream(2);
        net.set(1, behaviour);
        for _ in 0..100 {
            let _ = call(&upstream).await;
        }
        assert_eq!(net.requests(1), 5, "{behaviour:?}");
        assert_eq!(states(&upstream), [State::Ejected, State::Up]);
        sleep(4900 * MILLI).await;
        assert_eq!(states(&upstream), [State::Ejected, State::Up]);
        sleep(200 * MILLI).await;
        assert_eq!(states(&upstream), [State::Up, State::Up]);
        assert_eq!(upstream.addresses_status(Instant::now())[0].ejections, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn when_all_fail_alike_none_is_left_out_and_one_alone_never() {
    for addresses in [1, 2] {
        let (upstream, net) = upstream(addresses);
        for port in 1..=addresses {
            net.set(port, Behaviour::Unavailable);
        }
        for _ in 0..100 {
            call(&upstream).await.unwrap();
        }
        assert_eq!((1..=addresses).map(|port| net.requests(port)).sum::<usize>(), 100);
        assert!((1..=addresses).all(|port| net.requests(port) > 20), "{addresses}");
        assert!(addresses > 1 || states(&upstream) == [State::Up]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_the_handlers_own_forgives() {
    let (upstream, net) = upstream(2);
    net.set(1, Behaviour::Unavailable);
    for _ in 0..100 {
        call(&upstream).await.unwrap();
        // Whoever should answer did so.
        upstream.report(socket(1), Instant::now(), Ok(()));
    }
    assert_eq!(states(&upstream), [State::Up, State::Up]);
}

#[tokio::test(start_paused = true)]
async fn a_slow_address_gets_a_small_share() {
    let (upstream, net) = upstream(3);
    net.set(1, Behaviour::AnswersAfter(10 * MILLI));
    net.set(2, Behaviour::AnswersAfter(10 * MILLI));
    net.set(3, Behaviour::AnswersAfter(100 * MILLI));
    for _ in 0..500 {
        call(&upstream).await.unwrap();
    }
    assert!((1..50).contains(&net.requests(3)), "{}", net.requests(3));
}

#[tokio::test(start_paused = true)]
async fn waiting_in_vain_counts_as_slow() {
    let (upstream, net) = upstream(1);
    net.set(1, Behaviour::Hangs);
    let sent = AtomicBool::new(false);
    let request = outgoing();
    {
        let sending = upstream.send(0, &request, Instant::now(), &sent);
        assert!(tokio::time::timeout(3 * SECOND, sending).await.is_err(), "it hangs");
    }
    let status = &upstream.addresses_status(Instant::now())[0];
    assert_eq!((status.in_flight, status.open), (0, 0));
    assert!(status.latency.unwrap() > 2 * SECOND, "{status:?}");
}

#[tokio::test(start_paused = true)]
async fn an_address_can_be_taken_out_and_kept_in_by_hand() {
    let (upstream, net) = upstream(2);
    assert!(upstream.set_by_hand(socket(1), Some(ByHand::Down)));
    for _ in 0..20 {
        assert_eq!(call(&upstream).await.unwrap(), 2);
    }
    upstream.set_by_hand(socket(2), Some(ByHand::Down));
    assert!(matches!(call(&upstream).await, Err(SendError::Unreachable(why)) if why.contains("by hand")));
    upstream.usable(Instant::now() + SECOND).await.expect_err("nothing is left");
    upstream.set_by_hand(socket(1), None);
    assert_eq!(call(&upstream).await.unwrap(), 1);
    net.set(1, Behaviour::Refuses);
    upstream.set_by_hand(socket(1), Some(ByHand::Up));
    sleep(10 * SECOND).await;
    assert_eq!(states(&upstream), [State::Up, State::Down]);
    assert!(!upstream.set_by_hand(socket(9), None));
}

#[tokio::test(start_paused = true)]
async fn an_address_shows_how_it_is() {
    let (upstream, net) = upstream(2);
    net.set(1, Behaviour::AnswersAfter(20 * MILLI));
    net.set(2, Behaviour::Refuses);
    for _ in 0..30 {
        call(&upstream).await.unwrap();
    }
    advance(SECOND).await;
    let now = Instant::now();
    let status = upstream.addresses_status(now);
    assert_eq!((status[0].state, status[0].in_flight), (State::Up, 0));
    assert!(status[0].open > 0 && status[0].open == status[0].idle);
    assert!(status[0].latency.unwrap() > 15 * MILLI);
    assert!(status[0].next_probe.unwrap() <= 5 * SECOND);
    assert_eq!((status[1].state, &*status[1].reason), (State::Down, "connection refused"));
    assert!(status[1].since >= SECOND);
}
