//! Targets that are met with TLS, in memory.

use std::convert::Infallible;

use http::Response;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use super::*;
use crate::tls::testing::{Authority, For, Issued};
use crate::tls::{ClientAuth, KeyPair, Protocol, Roots, ServerTls, ServerTlsSettings};

/// A handler behind TLS.
#[derive(Clone)]
struct Site {
    tls: Arc<arc_swap::ArcSwap<ServerTls>>,
    connects: Arc<std::sync::atomic::AtomicUsize>,
    requests: Arc<std::sync::atomic::AtomicUsize>,
}

impl Site {
    fn new(own: &Issued, clients: ClientAuth) -> Self {
        let tls = Arc::new(arc_swap::ArcSwap::from_pointee(server(own, clients)));
        Self { tls, connects: Arc::default(), requests: Arc::default() }
    }

    async fn serve(self, stream: DuplexStream) {
        let tls = ServerTls::clone(&self.tls.load());
        let Ok(accepted) = tls.accept(stream).await else { return };
        let answer = service_fn(move |_| {
            self.requests.fetch_add(1, Ordering::Relaxed);
            async { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"well")))) }
        });
        let _ =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(accepted.stream), answer).await;
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

impl Connect for Site {
    fn connect(&self, _: SocketAddr) -> Connecting<'_> {
        Box::pin(async move {
            self.connects.fetch_add(1, Ordering::Relaxed);
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            tokio::spawn(self.clone().serve(theirs));
            Ok(Stream::Other(Box::pin(ours)))
        })
    }
}

fn server(own: &Issued, clients: ClientAuth) -> ServerTls {
    let settings = ServerTlsSettings { certificates: vec![pair(own)], clients, only_tls13: false };
    ServerTls::new(&settings, &[Protocol::Http1]).unwrap()
}

fn pair(issued: &Issued) -> KeyPair {
    KeyPair::read(&issued.chain, &issued.key).unwrap()
}

fn roots(authority: &Authority) -> Roots {
    Roots::read(&authority.pem).unwrap()
}

fn believing(authority: &Authority) -> ClientTlsSettings {
    ClientTlsSettings { roots: Some(roots(authority)), ..ClientTlsSettings::default() }
}

fn own(authority: &Authority, host: &str) -> Issued {
    authority.issue(For { hosts: &[host], ..For::default() })
}

/// The target `https://127.0.0.1` at `site`.
fn target(site: &Site, tls: &ClientTlsSettings) -> Arc<Upstream> {
    let urls = vec![BaseUrl::parse("https://127.0.0.1").unwrap()];
    let settings = UpstreamSettings::default();
    Upstream::new("home".into(), urls, Probe::Connect, settings, 1, Arc::new(site.clone()), tls)
}

async fn failure(upstream: &Upstream) -> String {
    match call(upstream).await {
        Err(SendError::Unreachable(why)) => why,
        other => panic!("it cannot be reached, but {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_target_with_the_right_certificate_is_met_and_its_connections_are_kept() {
    let authority = Authority::new("roots");
    let site = Site::new(&own(&authority, "127.0.0.1"), ClientAuth::Off);
    let upstream = target(&site, &believing(&authority));
    for _ in 0..3 {
        call(&upstream).await.unwrap();
    }
    assert_eq!((site.requests(), site.connects.load(Ordering::Relaxed)), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn a_wrong_certificate_is_a_target_that_cannot_be_reached_and_says_why() {
    let (authority, stranger) = (Authority::new("roots"), Authority::new("others"));
    let expired = authority.issue(For { hosts: &["127.0.0.1"], expired: true, ..For::default() });
    for (own, why) in [
        (own(&stranger, "127.0.0.1"), "no authority that is believed here issued it"),
        (own(&authority, "other.test"), "other.test"),
        (expired, "it has expired"),
    ] {
        let site = Site::new(&own, ClientAuth::Off);
        let upstream = target(&site, &believing(&authority));
        let text = failure(&upstream).await;
        assert!(text.contains("TLS handshake failed: its certificate is refused") && text.contains(why), "{text}");
        let status = &upstream.addresses_status(Instant::now())[0];
        assert!(status.state == State::Down && status.reason.contains(why), "{status:?}");
        assert_eq!(site.requests(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn another_name_than_the_host_can_be_expected() {
    let authority = Authority::new("roots");
    let site = Site::new(&own(&authority, "handler.test"), ClientAuth::Off);
    let tls = ClientTlsSettings { server_name: Some("handler.test".into()), ..believing(&authority) };
    call(&target(&site, &tls)).await.unwrap();
    failure(&target(&site, &believing(&authority))).await;
}

#[tokio::test(start_paused = true)]
async fn a_target_that_wants_a_certificate_sees_it_or_cannot_be_reached() {
    let (authority, stranger) = (Authority::new("roots"), Authority::new("others"));
    let site = Site::new(&own(&authority, "127.0.0.1"), ClientAuth::Required(roots(&authority)));
    let showing = |authority_of_ours: &Authority| ClientTlsSettings {
        certificate: Some(pair(&own(authority_of_ours, "gateway.test"))),
        ..believing(&authority)
    };
    call(&target(&site, &showing(&authority))).await.unwrap();
    for tls in [believing(&authority), showing(&stranger)] {
        let upstream = target(&site, &tls);
        let text = failure(&upstream).await;
        assert!(text.contains("refuses the certificate shown to it, or wants one and sees none"), "{text}");
        assert_eq!(states(&upstream), [State::Down]);
        assert_eq!(upstream.connections(), (0, 0));
    }
    assert_eq!(site.requests(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_hangs_ends_with_the_connect_timeout() {
    let (upstream, net) = tls_upstream_over_a_net();
    net.set(443, Behaviour::Hangs);
    let began = Instant::now();
    let text = failure(&upstream).await;
    assert!(text.contains("the TLS handshake timed out"), "{text}");
    assert_eq!(began.elapsed(), 2 * SECOND);
}

fn tls_upstream_over_a_net() -> (Arc<Upstream>, Net) {
    let net = Net::default();
    let (urls, tls) = (vec![BaseUrl::parse("https://127.0.0.1").unwrap()], believing(&Authority::new("roots")));
    let settings = UpstreamSettings::default();
    (Upstream::new("t".into(), urls, Probe::Connect, settings, 1, Arc::new(net.clone()), &tls), net)
}

#[tokio::test(start_paused = true)]
async fn probes_find_out_that_the_certificate_is_good_now() {
    let (authority, stranger) = (Authority::new("roots"), Authority::new("others"));
    let site = Site::new(&own(&stranger, "127.0.0.1"), ClientAuth::Off);
    let upstream = target(&site, &believing(&authority));
    failure(&upstream).await;
    upstream.usable(Instant::now() + 5 * SECOND).await.expect_err("probes see the certificate, too");
    site.tls.store(Arc::new(server(&own(&authority, "127.0.0.1"), ClientAuth::Off)));
    upstream.usable(Instant::now() + SECOND).await.unwrap();
    call(&upstream).await.unwrap();
}
