//! Destinations that somebody might try, and connections that are never made.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::*;
use crate::tls::ClientTlsSettings;
use crate::upstream::{Connect, Connecting, Outgoing, SendError, Stream, UpstreamSettings};

/// Takes every connection, notes its address, and sends whoever asks on to a metadata service.
#[derive(Clone, Default)]
struct Net(Arc<Mutex<Vec<SocketAddr>>>);

impl Net {
    fn connects(&self) -> Vec<SocketAddr> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Connect for Net {
    fn connect(&self, address: SocketAddr) -> Connecting<'_> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(address);
        Box::pin(async {
            let (ours, mut theirs) = tokio::io::duplex(4096);
            tokio::spawn(async move {
                let mut request = [0; 4096];
                while theirs.read(&mut request).await.is_ok_and(|count| count > 0) {
                    let answer = "HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n";
                    theirs.write_all(answer.as_bytes()).await.unwrap();
                }
            });
            Ok(Stream::Other(Box::pin(ours)))
        })
    }
}

fn allow(entries: &[&str]) -> Vec<Allowed> {
    entries.iter().map(|entry| Allowed::parse(entry).unwrap()).collect()
}

fn destinations(allow: Vec<Allowed>) -> (Destinations, Net) {
    let net = Net::default();
    (Destinations::with_connector(allow, UpstreamSettings::default(), 1, Arc::new(net.clone())), net)
}

fn destination(url: &str) -> Destination {
    Destination::parse(url).unwrap_or_else(|why| panic!("{url}: {why}"))
}

/// What becomes of a completion for `url`.
fn refusal(destinations: &Destinations, url: &str) -> Option<&'static str> {
    let found = Destination::parse(url).and_then(|destination| destinations.find(&destination));
    found.err().map(|why| why.label())
}

async fn send(destinations: &Destinations, url: &str) -> Result<StatusCode, SendError> {
    let destination = destination(url);
    let upstream = destinations.find(&destination).unwrap();
    let outgoing = Outgoing::raw(destination.uri(), HeaderMap::new(), Bytes::new());
    let until = Instant::now() + Duration::from_secs(10);
    upstream.send(0, &outgoing, until, &AtomicBool::new(false)).await.map(|(head, _)| head.status)
}

#[tokio::test]
async fn what_is_not_allowed_is_refused_before_anything_is_asked() {
    let entries = ["http://*.example.com", "http://frontend:7243", "http://10.1.0.0/16:7243", "http://[fd12::/16]:*"];
    let (destinations, net) = destinations(allow(&entries));
    for (label, urls) in [
        ("scheme", "ftp://a.example.com/ file:///etc/passwd"),
        ("scheme", "gopher://frontend:7243/_x temporal://system javascript:alert(1) data:,x unix:/run/x.sock"),
        ("scheme", "localhost:7243/x ws://frontend:7243/ httpx://frontend:7243/ http+unix://frontend:7243/"),
        ("user_info", "http://frontend@169.254.169.254/ http://a:b@frontend:7243/ http://@frontend:7243/"),
        ("user_info", "http://frontend:7243\\@169.254.169.254/ http://frontend:7243@10.1.0.1:7243/x?y"),
        // No URL, or one with a part that does not belong there.
        ("malformed", "x //frontend:7243/ /nexus/callback http:/frontend:7243/ http:frontend:7243 http:// http:///x"),
        ("malformed", "1http://frontend:7243/ ://frontend:7243/ http://:7243/ http://?x http:\\\\frontend:7243\\"),
        ("malformed", "http://frontend:7243/x#y http://frontend:7243#@a.example.com/ http://frontend:7243/x<y>"),
        // Ports.
        ("malformed", "http://frontend:/ http://frontend:0/ http://frontend:65536/ http://frontend:+7243/"),
        ("malformed", "http://frontend:07243/ http://frontend:7243:80/ http://frontend:x/ http://frontend:-1/"),
        // IPv4 in other spellings.
        ("malformed", "http://2130706433/ http://0x7f000001/ http://0x7f.1/ http://0177.0.0.1/ http://017700000001/"),
        ("malformed", "http://127.1/ http://127.0.1/ http://0/ http://0x/ http://127.0.0.1.:80/ http://127.0.0.01/"),
        ("malformed", "http://256.0.0.1/ http://10.1.0.1.2:7243/ http://10.1.0.0x1:7243/ http://0XA9FEA9FE/"),
        // IPv6.
        ("malformed", "http://[::ffff:127.0.0.1]/ http://[::ffff:a01:1]:7243/ http://[0:0:0:0:0:ffff:7f00:1]/"),
        (
            "malformed",
            "http://[fe80::1%25eth0]/ http://[fe80::1%eth0]/ http://[fd12::1%251]/ http://[v1.a]/ http://[]/",
        ),
        ("malformed", "http://::1/ http://fd12::1/ http://[fd12::1 http://[fd12::1]x:80/ http://[[fd12::1]]/"),
        ("malformed", "http://[10.1.0.1]:7243/ http://[frontend]:7243/ http://fd12::1]/ http://x[fd12::1]/"),
        // Dots and encodings in hosts.
        ("malformed", "http://frontend.:7243/ http://.frontend:7243/ http://a..example.com/ http://./ http://../"),
        ("malformed", "http://%66rontend:7243/ http://frontend%2f.example.com/ http://a%00.example.com/"),
        ("malformed", "http://10%2e1.0.1:7243/ http://frontend%3a7243/ http://a;.example.com/ http://*.example.com/"),
        ("malformed", "http://-a.example.com/ http://a-.example.com/ http://a\\.example.com/ http://a,b.example.com/"),
        // Hosts that look like one that is allowed.
        ("not_allowed", "http://example.com/ http://evilexample.com/ http://a.example.com.evil.org/ http://front/"),
        ("not_allowed", "http://a.example.com:8080/ http://frontend/ http://frontend:7244/ http://xfrontend:7243/"),
        (
            "not_allowed",
            "http://8.8.8.8/ http://10.1.0.1.nip.io:7243/ http://[2606:4700::1111]/ http://localhost:7243/",
        ),
        // Addresses that only this gateway may reach.
        ("private_address", "http://127.0.0.1/ http://127.255.0.1:7243/ http://0.0.0.0/ http://169.254.169.254/latest"),
        ("private_address", "http://10.1.0.1/ http://10.2.0.1:7243/ http://192.168.0.1/ http://172.16.0.1/"),
        ("private_address", "http://100.64.0.1/ http://100.100.100.200/ http://168.63.129.16/ http://198.18.0.1/"),
        ("private_address", "http://224.0.0.1/ http://255.255.255.255/ http://240.0.0.1/ http://192.0.2.1/"),
        (
            "private_address",
            "http://[::1]/ http://[::]/ http://[0:0:0:0:0:0:0:1]:7243/ http://[fe80::1]/ http://[ff02::1]/",
        ),
        (
            "private_address",
            "http://[fd00:ec2::254]/ http://[::127.0.0.1]/ http://[::7f00:1]/ http://[64:ff9b::a9fe:a9fe]/",
        ),
        (
            "private_address",
            "http://[2002:7f00:1::]/ http://[2001:0:a00:1::]/ http://[fd13::1]/ http://[64:ff9b::a01:1]:7243/",
        ),
    ] {
        for url in urls.split(' ') {
            assert_eq!(refusal(&destinations, url), Some(label), "{url}");
        }
    }
    for url in [
        "",
        " http://frontend:7243/",
        "http://frontend:7243/\r\nX: y",
        "http://frontend:7243/a b",
        "http://front\tend:7243/",
        "http://frontend\0:7243/",
        "http://ｆrontend:7243/",
        "http://①②⑦.0.0.1/",
        "http://a。example.com/",
        "http://frontend:7243/ä",
        &format!("http://{}.example.com/", "a".repeat(64)),
        &format!("http://{}example.com/", "a.".repeat(125)),
    ] {
        assert_eq!(refusal(&destinations, url), Some("malformed"), "{url:?}");
    }
    assert_eq!(net.connects(), []);
}

#[tokio::test]
async fn what_is_allowed_gets_path_and_query_byte_for_byte() {
    let entries = ["http://frontend:7243", "http://*.example.com", "http://10.1.0.0/16:7243", "http://[fd12::/16]:*"];
    let (destinations, _) = destinations(allow(&entries));
    for (url, origin, tail) in [
        ("http://frontend:7243", "http://frontend:7243", "/"),
        ("http://frontend:7243?", "http://frontend:7243", "/?"),
        ("http://frontend:7243?a=http://b/", "http://frontend:7243", "/?a=http://b/"),
        ("HTTP://FrontEnd:7243/A%2fb/../%2E/c?x=%20&y", "http://frontend:7243", "/A%2fb/../%2E/c?x=%20&y"),
        ("http://a.b.example.com:80//evil.org/@x:y\\z", "http://a.b.example.com", "//evil.org/@x:y\\z"),
        ("http://xn--bcher-kva.example.com/", "http://xn--bcher-kva.example.com", "/"),
        ("http://10.1.255.1:7243/x", "http://10.1.255.1:7243", "/x"),
        ("http://[FD12:0:0::A]:81/x", "http://[fd12::a]:81", "/x"),
    ] {
        let destination = destination(url);
        assert_eq!(destination.to_string(), origin, "a log says no path, which may carry a token");
        assert_eq!(destination.path_and_query().as_str(), tail);
        assert_eq!(destination.uri().to_string(), tail);
        assert_eq!(refusal(&destinations, url), None, "{url}");
    }
}

#[test]
fn entries_allow_what_they_say() {
    for (entry, good, bad) in [
        ("http://127.0.0.1:*", "http://127.0.0.1/ http://127.0.0.1:9/", "http://127.0.0.2/ http://127.0.0.1.a/"),
        ("http://h", "http://h/ http://H:80/", "http://h:81/ http://a.h/ http://hh/"),
        ("http://H.Example:7243", "http://h.example:7243/", "http://h.example/ http://g.example:7243/"),
        (
            "http://*.Example.com",
            "http://a.example.com http://a.b.EXAMPLE.com",
            "http://example.com http://aexample.com",
        ),
        ("http://*.h:*", "http://a.h http://a.h:9", "http://h http://h.a"),
        ("https://*.h", "https://a.h HTTPS://a.h:443/x", "http://a.h:443/ http://a.h/ https://h https://a.h:80"),
        ("https://h:80", "https://h:80", "http://h/ https://h"),
        (
            "http://10.1.0.0/16:7243",
            "http://10.1.0.0:7243 http://10.1.255.255:7243",
            "http://10.2.0.0:7243 http://10.1.0.0",
        ),
        ("http://10.1.2.3/32:*", "http://10.1.2.3", "http://10.1.2.2 http://a"),
        ("http://0.0.0.0/8", "http://0.0.0.0 http://0.255.0.1", "http://1.0.0.0"),
        ("http://[::1]:*", "http://[::1]:1 http://[0::0:1]", "http://[::2] http://127.0.0.1"),
        ("http://[fd00::/8]:1", "http://[fd00::1]:1 http://[fdff::]:1", "http://[fc00::1]:1 http://[fd00::]:2"),
        ("http://[::/96]:*", "http://[::1] http://[::127.0.0.1]", "http://127.0.0.1 http://0.0.0.0 http://[0:1::]"),
    ] {
        let allowed = Allowed::parse(entry).unwrap_or_else(|why| panic!("{entry} {why}"));
        for (urls, expected) in [(good, true), (bad, false)] {
            for url in urls.split_terminator(' ') {
                assert_eq!(allowed.matches(&destination(url)), expected, "{entry} {url}");
            }
        }
        assert_eq!(Allowed::parse(&allowed.to_string()), Ok(allowed), "what is shown can be written");
    }
}

#[test]
fn an_entry_that_is_none_says_what_to_write_instead() {
    for (entry, message) in [
        ("", "has no scheme; write `http://HOST:PORT`, "),
        ("h:7243", "has no scheme; "),
        ("127.0.0.1:*", "has no scheme; "),
        ("*://h", "has another scheme than `http` or `https`; "),
        ("http://", "has no host; "),
        ("http://:80", "has no host; "),
        ("http://*", "has a host that is no plain host name; "),
        ("http://*.*.h", "has a host that is no plain host name; "),
        ("http://a.*.h", "has a host that is no plain host name; "),
        ("http://u:p@h", "has a port that is not a number from 1 to 65535; write a number, or `*` for any"),
        ("http://u@h", "has a host that is no plain host name; "),
        ("http://h?x", "has a host that is no plain host name; "),
        ("http://h:0", "has a port that is not a number from 1 to 65535; "),
        ("http://h:80-90", "has a port that is not a number from 1 to 65535; "),
        ("http://h/", "has a path, and completions bring their own; leave it out"),
        ("http://h:80/x", "has a path, "),
        ("http://10.0.0.0/8/x", "has a path, "),
        ("http://[fd00::]/8", "has a path, "),
        ("http://h/16", "has an address that is none; "),
        ("http://127.1", "has an IPv4 address in another form than four decimal numbers; "),
        ("http://10.1.0.5/16", "has an address that is not the first of its network; write `10.1.0.0/16`"),
        ("http://[fd00::1/8]", "has an address that is not the first of its network; write `fd00::/8`"),
        ("http://0.0.0.0/0", "has a network of another length than `/8` to `/32`"),
        ("http://10.0.0.0/33", "has a network of another length than `/8` to `/32`"),
        ("http://[::/0]", "has a network of another length than `/7` to `/128`"),
        ("http://[::ffff:10.0.0.0/104]", "has an IPv4 address that is written as an IPv6 address; "),
        ("http://[::1", "has a host that is no plain host name; "),
        ("http://[::1]x", "has something between its host and its port; "),
        (
            "http://localhost:7243",
            "is this machine, where no entry leads that is not private; write `{ url: http://localh",
        ),
    ] {
        let why = Allowed::parse(entry).expect_err(entry);
        assert!(why.starts_with(message), "{entry} {why}");
    }
}

/// Which of some addresses a URL's host may turn out to be at.
fn reachable(allow: &[Allowed], url: &str) -> Vec<&'static str> {
    let reach = allow::reach(allow, &destination(url)).unwrap();
    let all = ["8.8.8.8", "127.0.0.1", "10.1.0.9", "10.2.0.9", "169.254.169.254", "::ffff:10.1.0.9", "64:ff9b::a01:9"];
    all.into_iter().filter(|address| reach.check(address.parse().unwrap()).is_ok()).collect()
}

#[test]
fn a_name_may_be_where_the_entries_let_it() {
    let private = |entry| vec![Allowed::new(entry, true).unwrap()];
    assert_eq!(reachable(&allow(&["http://h"]), "http://h"), ["8.8.8.8"]);
    assert_eq!(reachable(&allow(&["http://*.h"]), "http://a.h"), ["8.8.8.8"]);
    assert_eq!(reachable(&private("http://h"), "http://h").len(), 7);
    let with_net = allow(&["http://h:7243", "http://10.1.0.0/16:7243", "http://h"]);
    assert_eq!(reachable(&with_net, "http://h:7243"), ["8.8.8.8", "10.1.0.9", "::ffff:10.1.0.9"]);
    assert_eq!(reachable(&with_net, "http://h"), ["8.8.8.8"], "the network is for another port");
    assert_eq!(reachable(&private("http://10.1.0.0/16"), "http://10.1.0.9"), ["10.1.0.9", "::ffff:10.1.0.9"]);
    for url in ["http://cluster:7243/base", "http://10.1.0.9:7243"] {
        let cluster = [Allowed::cluster(&BaseUrl::parse(url).unwrap())];
        assert!(reachable(&cluster, &format!("{url}/nexus/callback")).contains(&"10.1.0.9"));
    }
}

#[tokio::test]
async fn a_cluster_is_sent_to_at_its_callback_routes_only() {
    for base in ["http://cluster:7243/base", "http://10.1.0.9:7243/base"] {
        let cluster = Allowed::cluster(&BaseUrl::parse(base).unwrap());
        let origin = base.strip_suffix("/base").unwrap();
        let other = Allowed::new(origin, true).unwrap();
        let (only, _) = destinations(vec![cluster.clone()]);
        let (both, _) = destinations(vec![cluster, other]);
        for path in ["/base/nexus/callback?x=1", "/base/namespaces/pay/nexus/callback"] {
            assert_eq!(refusal(&only, &format!("{origin}{path}")), None, "{path}");
        }
        for path in [
            "",
            "/nexus/callback",
            "/base",
            "/base/nexus/callback/",
            "/base/nexus/callback/../../api/v1/namespaces",
            "/base/namespaces/../nexus/callback",
            "/base/namespaces/a%2Fb/nexus/callback",
            "/base/api/v1/namespaces/pay/workflows/w/terminate",
            "/base/api/v1/namespaces/pay/workflows/w/terminate?x=/nexus/callback",
        ] {
            let url = format!("{origin}{path}");
            assert_eq!(refusal(&only, &url), Some("not_allowed"), "{url}");
            assert_eq!(refusal(&both, &url), None, "an entry is for any path: {url}");
        }
    }
}

#[test]
fn what_a_cluster_allows_is_of_no_use_to_other_paths_of_other_entries() {
    let cluster = |url| Allowed::cluster(&BaseUrl::parse(url).unwrap());
    let allow = [cluster("http://home.h:7243"), cluster("http://10.1.0.9:7243"), allow(&["http://*.h:7243"]).remove(0)];
    assert_eq!(reachable(&allow, "http://home.h:7243/nexus/callback").len(), 7);
    assert_eq!(reachable(&allow, "http://a.h:7243/nexus/callback"), ["8.8.8.8", "10.1.0.9", "::ffff:10.1.0.9"]);
    for url in ["http://home.h:7243/terminate", "http://a.h:7243/terminate"] {
        assert_eq!(reachable(&allow, url), ["8.8.8.8"], "{url}");
    }
}

#[tokio::test]
async fn a_path_is_judged_whatever_came_before_it() {
    let cluster = Allowed::cluster(&BaseUrl::parse("http://home.h:7243").unwrap());
    let (destinations, _) = destinations(vec![cluster, Allowed::parse("http://*.h:7243").unwrap()]);
    let find = |path: &str| destinations.find(&destination(&format!("http://home.h:7243{path}"))).unwrap();
    let callback = find("/nexus/callback");
    assert!(Arc::ptr_eq(&callback, &find("/namespaces/pay/nexus/callback")));
    assert!(!Arc::ptr_eq(&callback, &find("/terminate")));
}

#[tokio::test(start_paused = true)]
async fn a_name_that_changes_between_check_and_connect_is_refused_at_the_address() {
    let net = Net::default();
    let reach =
        Arc::new(allow::reach(&allow(&["http://rebind.example"]), &destination("http://rebind.example")).unwrap());
    let checked = Checked::new(reach, Arc::new(net.clone()));
    let at = |address: &str| SocketAddr::new(address.parse().unwrap(), 80);
    assert!(checked.connect(at("8.8.8.8")).await.is_ok());
    for (address, class) in [
        ("127.0.0.1", "loopback"),
        ("169.254.169.254", "metadata"),
        ("10.0.0.1", "private"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("64:ff9b::10.0.0.1", "private"),
    ] {
        let error = checked.connect(at(address)).await.err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert!(error.to_string().contains(class), "{error}");
    }
    assert_eq!(net.connects(), [at("8.8.8.8")]);
}

#[tokio::test]
async fn a_name_that_is_at_private_addresses_is_never_connected_to() {
    let mut entries = vec![Allowed::new("http://localhost:7243", true).unwrap()];
    entries[0].private = false;
    let (destinations, net) = destinations(entries);
    let url = "http://localhost:7243/x";
    let error = send(&destinations, url).await.unwrap_err();
    assert!(matches!(&error, SendError::Unreachable(why) if why.contains("loopback")), "{error}");
    assert_eq!(net.connects(), []);
    assert_eq!(refusal(&destinations, url), Some("private_address"), "now that the addresses are known");
}

#[tokio::test]
async fn a_name_that_may_be_private_is_connected_to() {
    let (destinations, net) = destinations(vec![Allowed::new("http://localhost:7243", true).unwrap()]);
    assert_eq!(send(&destinations, "http://localhost:7243/x").await.unwrap(), StatusCode::FOUND);
    assert!(net.connects()[0].ip().is_loopback());
}

#[tokio::test(start_paused = true)]
async fn a_redirect_is_handed_back_and_never_followed() {
    let (destinations, net) = destinations(allow(&["http://10.1.0.0/16:7243"]));
    assert_eq!(send(&destinations, "http://10.1.0.9:7243/x").await.unwrap(), StatusCode::FOUND);
    assert_eq!(net.connects(), ["10.1.0.9:7243".parse().unwrap()]);
}

#[tokio::test(start_paused = true)]
async fn completions_for_one_origin_share_its_connections() {
    let (destinations, _) = destinations(allow(&["http://*.example.com", "http://[fd00::/8]"]));
    let find = |url| destinations.find(&destination(url)).unwrap();
    let upstream = find("http://[fd00::1]/x");
    assert!(Arc::ptr_eq(&upstream, &find("http://[FD00:0::1]:80/y?z")));
    assert!(!Arc::ptr_eq(&upstream, &find("http://[fd00::2]/x")));
    assert_eq!(upstream.name(), "[fd00::1]");
}

#[test]
fn a_worker_thread_without_a_runtime_can_ask_too() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (destinations, _) = runtime.block_on(async { destinations(allow(&["http://10.0.0.0/8"])) });
    assert_eq!(refusal(&destinations, "http://10.0.0.1"), None);
}

#[tokio::test(start_paused = true)]
async fn origins_are_bounded_and_those_beyond_are_let_go() {
    let (destinations, _) = destinations(allow(&["http://10.0.0.0/8:*"]));
    let find = |port| destinations.find(&destination(&format!("http://10.0.0.1:{port}"))).unwrap();
    let begun: Vec<_> = (1..=1_500).map(|port| Arc::downgrade(&find(port))).collect();
    assert_eq!(destinations.origins(), 1_000);
    // The cache drops what it lets go in batches of 64.
    assert!(begun.iter().filter(|upstream| upstream.strong_count() > 0).count() < 1_064);
}

#[test]
fn a_destination_is_met_as_the_first_entry_for_it_says() {
    let met = |name: &str| ClientTlsSettings { server_name: Some(name.into()), ..ClientTlsSettings::default() };
    let allow = [
        Allowed::cluster(&BaseUrl::parse("https://home.example:7243").unwrap()).met_by(met("cluster")),
        Allowed::parse("https://plain.example").unwrap(),
        Allowed::parse("https://*.example:*").unwrap().met_by(met("pattern")),
        Allowed::parse("http://*.example:*").unwrap().met_by(met("cleartext")),
    ];
    for (url, name) in [
        ("https://home.example:7243/nexus/callback", Some("cluster")),
        ("https://home.example:7243/x", Some("pattern")),
        ("https://home.example/x", Some("pattern")),
        ("https://plain.example/x", Some("pattern")),
        ("http://home.example/x", None),
        ("https://elsewhere/x", None),
    ] {
        let found = allow::met_by(&allow, &Destination::parse(url).unwrap());
        assert_eq!(found.and_then(|tls| tls.server_name.as_deref()), name, "{url}");
    }
}

fn entry() -> impl Strategy<Value = Allowed> {
    let host = prop_oneof![
        Just("h.example".to_owned()),
        Just("*.example".to_owned()),
        (any::<u32>(), 8..=32_u32).prop_map(|(bits, prefix)| {
            format!("{}/{prefix}", Ipv4Addr::from_bits(bits & (u32::MAX << (32 - prefix))))
        }),
        (any::<u128>(), 7..=128_u32).prop_map(|(bits, prefix)| {
            format!("[{}/{prefix}]", Ipv6Addr::from_bits(bits & (u128::MAX << (128 - prefix)) | 1 << 127))
        }),
    ];
    (host, prop_oneof![Just(":80"), Just(":*"), Just(":81")])
        .prop_filter_map("a network whose first address changed", |(host, port)| {
            Allowed::parse(&format!("http://{host}{port}")).ok()
        })
}

fn any_address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|bits| Ipv4Addr::from_bits(bits).into()),
        any::<u128>().prop_map(|bits| Ipv6Addr::from_bits(bits).into()),
        any::<u32>().prop_map(|bits| Ipv4Addr::from_bits(bits).to_ipv6_mapped().into()),
        (0..256_u32).prop_map(|low| Ipv4Addr::from_bits(0x7f00_0000 | low).into()),
        (0..256_u32).prop_map(|low| Ipv4Addr::from_bits(0x0a00_0000 | low).into()),
    ]
}

proptest! {
    #[test]
    fn what_is_not_allowed_never_reaches_the_network(
        entries in prop::collection::vec(entry(), 0..6),
        host in prop_oneof![
            Just("h.example".to_owned()),
            Just("g.example".to_owned()),
            Just("evil".to_owned()),
            any_address().prop_map(|address| if address.is_ipv6() { format!("[{address}]") } else { address.to_string() }),
        ],
        addresses in prop::collection::vec(any_address(), 1..8),
    ) {
        // An IPv4 address in an IPv6 spelling is refused right there.
        let Ok(destination) = Destination::parse(&format!("http://{host}")) else { return Ok(()) };
        let net = Net::default();
        if let Ok(reach) = allow::reach(&entries, &destination) {
            prop_assert!(entries.iter().any(|entry| entry.matches(&destination)));
            let checked = Checked::new(Arc::new(reach), Arc::new(net.clone()));
            for address in addresses {
                drop(checked.connect(SocketAddr::new(address, 80)));
            }
        }
        let is_name = !host.starts_with('[') && host.parse::<Ipv4Addr>().is_err();
        for socket in net.connects() {
            // As a URL, the address would have been allowed itself.
            let canonical = SocketAddr::new(socket.ip().to_canonical(), 80);
            let itself = Destination::parse(&format!("http://{canonical}")).unwrap();
            let is_listed = entries.iter().any(|entry| entry.matches(&itself));
            prop_assert!(is_listed || (is_name && is_public(socket.ip())), "{destination} at {socket}");
        }
    }

    #[test]
    fn a_url_that_is_read_says_the_same_to_everybody(
        url in "(http://|HTTP://|https?:?/{0,3}|ftp:)([a-z0-9.]{1,9}|[a-z0-9.@:%\\[\\]\\\\#?*-]{0,9}|127\\.0\\.0\\.1|\\[::1\\])(:[0-9]{0,6})?([/?#][ -~]{0,8})?",
    ) {
        let Ok(destination) = Destination::parse(&url) else { return Ok(()) };
        let other: Uri = url.parse().unwrap();
        prop_assert_eq!(other.host().unwrap().to_ascii_lowercase(), match destination.host {
            Host::Address(IpAddr::V6(_)) => other.host().unwrap().to_ascii_lowercase(),
            ref host => host.to_string(),
        });
        prop_assert_eq!(other.port_u16().unwrap_or(if destination.origin().tls { 443 } else { 80 }), destination.origin().port);
        prop_assert_eq!(BaseUrl::parse(&destination.to_string()), Ok(destination.origin().clone()));
        prop_assert!(url.ends_with(destination.path_and_query().as_str().strip_prefix('/').unwrap()));
    }
}
