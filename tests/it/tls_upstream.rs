//! Targets behind TLS: whom the gateway believes, what it shows, and that a rotation loses no request.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::Full;
use hyper::Response;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use nexus_gateway::config::Settings;
use nexus_gateway::credentials::Outward;
use nexus_gateway::nexus::ErrorType;
use nexus_gateway::tls::{ClientAuth, ClientTlsSettings, Protocol};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::version::TLS12;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::certificates::{Authority, For, Issued};
use crate::harness::*;

const UNREACHABLE: Expected = failure("upstream_unreachable", ErrorType::Unavailable, true);

const BOTH: [Protocol; 2] = [Protocol::Http2, Protocol::Http1];

/// Settings with one endpoint `pay` that leads to `handler`.
fn met_by(handler: &Secure, tls: ClientTlsSettings) -> Settings {
    let externals = BTreeMap::from([("pay".into(), Outward { tls, ..Outward::default() })]);
    Settings { endpoints: vec![external("pay", &handler.url())], externals, ..settings() }
}

#[tokio::test]
async fn a_handler_is_met_with_either_http_and_sees_the_same_request() {
    let authority = Authority::new("roots");
    let mut seen = Vec::new();
    for protocols in [&BOTH[..], &[Protocol::Http1]] {
        let handler = Secure::new(server(&own(&authority), ClientAuth::Off, protocols)).await;
        let gateway = Gateway::start(met_by(&handler, believing(&[&authority]))).await;
        let mut caller = gateway.connect().await;
        for _ in 0..3 {
            let answer = caller.call(&start("pay").header("nexus-request-id", "one").body("{}")).await;
            assert_eq!((answer.status(), &*answer.text()), (200, "{}"));
        }
        assert_eq!(handler.connections(), 1);
        let (path, mut headers) = handler.requests().remove(0);
        // HTTP/2 says it in the target.
        headers.retain(|(name, _)| name != "host");
        headers.sort();
        seen.push((path, headers));
    }
    assert_eq!(seen[0], seen[1]);
}

#[tokio::test]
async fn requests_at_the_same_time_share_a_connection() {
    let authority = Authority::new("roots");
    let handler = Secure::new(server(&own(&authority), ClientAuth::Off, &BOTH)).await;
    let gateway = Gateway::start(met_by(&handler, believing(&[&authority]))).await;
    let gateway = Arc::new(gateway);
    let calls: JoinSet<_> = (0..40)
        .map(|_| {
            let gateway = Arc::clone(&gateway);
            async move { gateway.call(&start("pay")).await.status() }
        })
        .collect();
    assert!(calls.join_all().await.into_iter().all(|status| status == 200));
    assert_eq!((handler.connections(), handler.requests().len()), (1, 40));
}

#[tokio::test]
async fn a_handler_that_cannot_be_believed_is_unavailable_and_gets_nothing() {
    let (authority, stranger) = (Authority::new("roots"), Authority::new("others"));
    let expired = authority.issue(For { hosts: &["127.0.0.1"], expired: true, ..For::default() });
    let elsewhere = authority.issue(For { hosts: &["elsewhere.test"], ..For::default() });
    for (own, why) in [(own(&stranger), "no authority"), (expired, "it has expired"), (elsewhere, "elsewhere.test")] {
        let handler = Secure::new(server(&own, ClientAuth::Off, &BOTH)).await;
        let gateway = Gateway::start(unheld(met_by(&handler, believing(&[&authority])))).await;
        let answer = gateway.call(&start("pay")).await;
        UNREACHABLE.assert_is(&answer, why);
        assert!(answer.text().contains(why), "{}", answer.text());
        assert!(gateway.admin("/endpoints").await.status() == 200 && handler.requests().is_empty());
    }
}

/// A handler that speaks TLS 1.2 and nothing newer.
async fn old(own: &Issued) -> (String, AbortHandle) {
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()));
    let config = config.with_protocol_versions(&[&TLS12]).expect("a version").with_no_client_auth();
    let chain = CertificateDer::pem_slice_iter(own.chain.as_bytes()).map(|read| read.expect("PEM")).collect();
    let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).expect("PEM");
    let acceptor = TlsAcceptor::from(Arc::new(config.with_single_cert(chain, key).expect("they fit")));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("https://{}", listener.local_addr().expect("it is bound"));
    let serving = tokio::spawn(async move {
        let mut open = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.expect("connections can be accepted");
            let shaking = acceptor.accept(stream);
            open.spawn(async move {
                let Ok(stream) = shaking.await else { return };
                let answer = service_fn(async |_| Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("{}")))));
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
            });
        }
    });
    (url, serving.abort_handle())
}

#[tokio::test]
async fn a_handler_that_speaks_only_an_old_version_is_met_unless_the_settings_forbid_it() {
    let authority = Authority::new("roots");
    let (url, serving) = old(&own(&authority)).await;
    let leading = |tls| {
        let externals = BTreeMap::from([("pay".into(), Outward { tls, ..Outward::default() })]);
        unheld(Settings { endpoints: vec![external("pay", &url)], externals, ..settings() })
    };
    let gateway = Gateway::start(leading(believing(&[&authority]))).await;
    assert_eq!(gateway.call(&start("pay")).await.status(), 200);
    let strict = ClientTlsSettings { only_tls13: true, ..believing(&[&authority]) };
    gateway.running.apply(leading(strict.clone())).await.expect("it can be applied");
    let answer = gateway.call(&start("pay")).await;
    UNREACHABLE.assert_is(&answer, "an old version");
    assert!(answer.text().contains("no version of TLS that `tls.min_version` takes"), "{}", answer.text());
    let handler = Secure::new(server(&own(&authority), ClientAuth::Off, &BOTH)).await;
    let gateway = Gateway::start(met_by(&handler, strict)).await;
    assert_eq!(gateway.call(&start("pay")).await.status(), 200, "the new one is taken");
    serving.abort();
}

#[tokio::test]
async fn a_handler_that_asks_for_a_certificate_sees_it() {
    let authority = Authority::new("roots");
    for protocols in [&BOTH[..], &[Protocol::Http1]] {
        let tls = server(&own(&authority), ClientAuth::Required(roots(&[&authority])), protocols);
        let handler = Secure::new(tls).await;
        let gateway = Gateway::start(unheld(met_by(&handler, believing(&[&authority])))).await;
        UNREACHABLE.assert_is(&gateway.call(&start("pay")).await, "none is shown");
        let certificate = Some(pair(&authority.issue(For { common_name: "gateway", ..For::default() })));
        let shown = ClientTlsSettings { certificate, ..believing(&[&authority]) };
        gateway.running.apply(met_by(&handler, shown)).await.expect("it can be applied");
        assert_eq!(gateway.call(&start("pay")).await.status(), 200);
    }
}

#[tokio::test]
async fn a_rotation_on_both_sides_under_load_loses_no_request() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let showing = |believed: &[&Authority], authority: &Authority| ClientTlsSettings {
        certificate: Some(pair(&authority.issue(For { common_name: "gateway", ..For::default() }))),
        ..believing(believed)
    };
    let handler = Secure::new(server(&own(&old), ClientAuth::Required(roots(&[&old])), &BOTH)).await;
    let gateway = Arc::new(Gateway::start(met_by(&handler, showing(&[&old], &old))).await);
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let load: JoinSet<_> = (0..8)
        .map(|_| {
            let (gateway, stop, count) = (Arc::clone(&gateway), Arc::clone(&stop), Arc::clone(&count));
            async move {
                let mut caller = gateway.connect().await;
                while !stop.load(Ordering::Relaxed) {
                    let answer = caller.call(&start("pay")).await;
                    assert_eq!(answer.status(), 200, "{}", answer.text());
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        })
        .collect();
    let some_more = || {
        let target = count.load(Ordering::Relaxed) + 40;
        let count = Arc::clone(&count);
        async move { eventually(|| count.load(Ordering::Relaxed) >= target).await }
    };
    some_more().await;
    handler.rotate(server(&own(&old), ClientAuth::Required(roots(&[&old, &new])), &BOTH));
    some_more().await;
    gateway.running.apply(met_by(&handler, showing(&[&old, &new], &new))).await.expect("it can be applied");
    some_more().await;
    handler.rotate(server(&own(&new), ClientAuth::Required(roots(&[&new])), &BOTH));
    gateway.running.apply(met_by(&handler, showing(&[&new], &new))).await.expect("it can be applied");
    some_more().await;
    stop.store(true, Ordering::Relaxed);
    load.join_all().await;
    assert_eq!(handler.connections(), 3, "one for each certificate and what was believed with it");
}
