//! What a request costs in allocations, counted on the gateway's worker thread: a number that does not depend on the
//! machine or on what else it does.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;

use counting_alloc::{Counting, allocated, ignore_this_thread};
use nexus_gateway::admission::Trust;
use nexus_gateway::config::Settings;
use nexus_gateway::nexus::BaseUrl;
use nexus_gateway::registry::{Definition, Target};
use nexus_gateway::run::Running;
use nexus_gateway::server::{ListenerSettings, ServerSettings};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations that one request may cost. Lower it when the number falls; a rise wants a reason.
const BOUND: f64 = 27.0;

const REQUESTS: u32 = 1000;
const WARM_UP: u32 = 200;

/// As a Temporal server sends it.
const HEAD: &str = "POST /nexus/endpoints/pay/services/Svc/op?callback=http%3A%2F%2F127.0.0.1%3A7243%2Fnexus%2Fcallback HTTP/1.1\r\n\
    Host: 127.0.0.1:7280\r\n\
    User-Agent: temporal-server/1.32.0\r\n\
    Accept-Encoding: identity\r\n\
    Content-Type: application/json\r\n\
    Nexus-Callback-Temporal-Callback-Token: {\"v\":1,\"d\":\"ChBkZWZhdWx0LW5hbWVzcGFjZRIE\"}\r\n\
    Nexus-Link: <temporal:///namespaces/default/workflows/w/r/history?eventID=5>; type=\"temporal.api.common.v1.Link.WorkflowEvent\"\r\n\
    Nexus-Request-Id: 2f6c1b3e-7a52-4a55-b0a4-0b4b8c2e7c11\r\n\
    Operation-Timeout: 29999ms\r\n\
    Request-Timeout: 9999ms\r\n\
    Temporal-Nexus-Failure-Support: true\r\n\
    Content-Length: 200\r\n\r\n";
const ANSWER: &str = "HTTP/1.1 200 OK\r\n\
    Content-Type: application/json\r\n\
    Date: Mon, 01 Jan 2024 00:00:00 GMT\r\n\
    Content-Length: 200\r\n\r\n";

#[test]
fn a_request_costs_few_allocations() {
    ignore_this_thread();
    let gateway = start_gateway(start_handler());
    let mut caller = TcpStream::connect(gateway).expect("the gateway listens");
    caller.set_nodelay(true).expect("a socket option");
    let request = [HEAD.as_bytes(), &[b'1'; 200]].concat();
    let mut call = |count: u32| {
        for _ in 0..count {
            caller.write_all(&request).expect("the gateway reads");
            let head = read_message(&mut caller).expect("the gateway answers");
            assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        }
    };
    call(WARM_UP);
    let before = allocated();
    call(REQUESTS);
    let after = allocated();
    let each =
        |before: u64, after: u64| f64::from(u32::try_from(after - before).unwrap_or(u32::MAX)) / f64::from(REQUESTS);
    let (allocations, bytes) = (each(before.0, after.0), each(before.1, after.1));
    println!("per request: {allocations:.2} allocations, {bytes:.0} bytes");
    assert!(allocations <= BOUND, "{allocations:.2} allocations per request are more than {BOUND}");
}

/// A handler on a thread of its own that answers every request the same.
fn start_handler() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has free ports");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        ignore_this_thread();
        let answer = [ANSWER.as_bytes(), &[b'2'; 200]].concat();
        let (mut stream, _) = listener.accept().expect("the gateway connects");
        stream.set_nodelay(true).expect("a socket option");
        while read_message(&mut stream).is_some() && stream.write_all(&answer).is_ok() {}
    });
    address
}

/// A gateway before the handler. Everything but its worker runs on a thread that does not count.
fn start_gateway(handler: SocketAddr) -> SocketAddr {
    let (started, address) = mpsc::channel();
    std::thread::spawn(move || {
        ignore_this_thread();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async move {
            let running = Running::start(settings(handler)).await.expect("free ports can be bound");
            started.send(running.data_addresses()[0]).expect("the test waits");
            std::future::pending::<()>().await;
        });
    });
    address.recv().expect("the gateway starts")
}

fn settings(handler: SocketAddr) -> Settings {
    let free: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
    let url = BaseUrl::parse(&format!("http://{handler}")).expect("a base URL");
    Settings {
        listen: vec![ListenerSettings::plain(free, Trust::Untrusted)],
        admin: nexus_gateway::admin::AdminSettings::at(free),
        server: ServerSettings { workers: 1, ..ServerSettings::default() },
        endpoints: vec![Definition { name: "pay".into(), id: None, target: Target::External { url } }],
        state: None,
        ..Settings::default()
    }
}

/// Reads a head and the 200 bytes after it; none where the peer closed.
fn read_message(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::with_capacity(4096);
    let mut piece = [0; 4096];
    loop {
        let count = stream.read(&mut piece).ok().filter(|count| *count > 0)?;
        bytes.extend_from_slice(&piece[..count]);
        let head = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        if let Some(end) = head.filter(|end| bytes.len() >= end + 204) {
            bytes.truncate(end);
            return String::from_utf8(bytes).ok();
        }
    }
}
