//! Handshakes in memory, between the two sides that this module makes.

use super::*;

use super::testing::{Authority, For, Issued};

fn pair(issued: &Issued) -> KeyPair {
    KeyPair::read(&issued.chain, &issued.key).unwrap()
}

fn client(roots: &Authority, certificate: Option<&Issued>) -> ClientTls {
    let settings = ClientTlsSettings {
        roots: Some(Roots::read(&roots.pem).unwrap()),
        certificate: certificate.map(pair),
        ..ClientTlsSettings::default()
    };
    ClientTls::new(&settings, &[Protocol::Http2, Protocol::Http1]).unwrap()
}

fn server(certificate: &Issued, clients: ClientAuth) -> ServerTls {
    let settings = ServerTlsSettings { certificates: vec![pair(certificate)], clients, only_tls13: false };
    ServerTls::new(&settings, &[Protocol::Http2, Protocol::Http1]).unwrap()
}

async fn shake(
    client: &ClientTls,
    server: &ServerTls,
    host: &str,
) -> (Result<Protocol, String>, Result<Option<Arc<PeerCertificate>>, String>) {
    let (near, far) = tokio::io::duplex(64 << 10);
    let (connected, accepted) = tokio::join!(client.connect(host, near), server.accept(far));
    (
        connected.map(|(_, protocol)| protocol).map_err(|error| error.to_string()),
        accepted.map(|accepted| accepted.certificate).map_err(|error| error.to_string()),
    )
}

#[tokio::test]
async fn a_client_is_known_by_the_certificate_it_shows() {
    let authority = Authority::new("roots");
    let server_own = authority.issue(For { hosts: &["gateway.test"], ..For::default() });
    let orders = For {
        common_name: "orders",
        hosts: &["orders.test"],
        uris: &["spiffe://example/ns/a/sa/orders"],
        ..For::default()
    };
    let orders = authority.issue(orders);
    let server = server(&server_own, ClientAuth::Required(Roots::read(&authority.pem).unwrap()));
    let (connected, accepted) = shake(&client(&authority, Some(&orders)), &server, "gateway.test").await;
    assert_eq!(connected, Ok(Protocol::Http2));
    let known = accepted.unwrap().unwrap();
    assert_eq!(known.uris, [Box::from("spiffe://example/ns/a/sa/orders")]);
    assert_eq!(known.dns, [Box::from("orders.test")]);
    assert_eq!((&*known.subject, known.common_name.as_deref()), ("CN=orders", Some("orders")));

    let (_, accepted) = shake(&client(&authority, None), &server, "gateway.test").await;
    assert!(accepted.is_err(), "one has to be shown");
}

#[test]
fn what_a_client_shows_is_good_until_the_first_of_it_expires() {
    let authority = Authority::new("roots");
    let lasting = |seconds| {
        let issued = authority.issue(For { lasts: Some(Duration::from_secs(seconds)), ..For::default() });
        certificates(&issued.chain).unwrap().remove(0)
    };
    let (own, long) = (lasting(1000), lasting(5000));
    let end = |certificate| u64::try_from(expires(certificate).unwrap()).unwrap();
    let (own_ends, long_ends) = (end(&own), end(&long));
    let good_for = |shown: &[_], now| good_for(shown, Duration::from_secs(now)).map(|good_for| good_for.as_secs());
    assert_eq!(good_for(&[], own_ends), None);
    assert_eq!(good_for(&[own.clone(), long.clone()], own_ends - 10), Some(11), "it is good in its last second, too");
    assert_eq!(good_for(&[long.clone(), own.clone()], own_ends - 10), Some(11), "it leads to the root");
    // The client was let in, so that this one does not.
    assert_eq!(good_for(&[long, own.clone()], own_ends + 2), Some(long_ends - own_ends - 1));
    assert_eq!(good_for(&[own], own_ends + 2), Some(0));
}

#[test]
fn a_name_cannot_pass_for_another_one() {
    let authority = Authority::new("roots");
    let forged = authority.issue(For { common_name: "orders, O=Example + \n", ..For::default() });
    let read = PeerCertificate::read(&certificates(&forged.chain).unwrap()[0]).unwrap();
    assert_eq!(&*read.subject, r"CN=orders\, O\=Example \+ \0a");
}
