//! A scripted Nexus handler: a socket that answers whatever bytes a test wants, whenever it wants.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{AbortHandle, JoinSet};

use super::message::{GUARD, Message, Reader};
use super::planted;

/// What a handler does next.
#[derive(Clone)]
pub(crate) enum Act {
    Send(Vec<u8>),
    /// Waits until the test opens the gate.
    Wait(Gate),
    /// Does nothing until the peer closes.
    Stall,
    Close,
    /// Closes so that the peer sees a reset.
    Reset,
}

impl From<&str> for Act {
    fn from(bytes: &str) -> Self {
        Self::Send(bytes.into())
    }
}

impl From<String> for Act {
    fn from(bytes: String) -> Self {
        Self::Send(bytes.into())
    }
}

/// Holds a handler until a test opens it.
#[derive(Clone)]
pub(crate) struct Gate(Arc<Semaphore>);

impl Gate {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    pub(crate) fn open(&self) {
        self.0.close();
    }

    async fn opened(&self) {
        // An error says that it was closed, which is what opens the gate.
        let _ = self.0.acquire().await;
    }
}

/// A request as a handler's script sees it.
pub(crate) struct Seen {
    pub(crate) message: Message,
    /// Which connection it came on, counted from 0.
    pub(crate) connection: usize,
    /// Its place on that connection, counted from 0.
    pub(crate) nth: usize,
}

/// What a handler does for a request.
pub(crate) type Script = dyn Fn(&Seen) -> Vec<Act> + Send + Sync;

/// A handler that plays its script for each request until it is dropped.
pub(crate) struct Handler {
    pub(crate) address: SocketAddr,
    requests: Arc<Mutex<Vec<Message>>>,
    count: watch::Receiver<usize>,
    connections: Arc<AtomicUsize>,
    task: AbortHandle,
}

impl Handler {
    /// Answers each request by `script`; after its acts the connection is open for the next request.
    pub(crate) fn scripted(script: impl Fn(&Seen) -> Vec<Act> + Send + Sync + 'static) -> Self {
        Self::on(Reserved::new(), script)
    }

    /// Sends the same bytes for each request.
    pub(crate) fn answering(answer: impl Into<Act>) -> Self {
        Self::acting(vec![answer.into()])
    }

    /// Does the same for each request.
    pub(crate) fn acting(acts: Vec<Act>) -> Self {
        Self::scripted(move |_| acts.clone())
    }

    /// Begins to listen at an address that refused connections until now.
    pub(crate) fn on(reserved: Reserved, script: impl Fn(&Seen) -> Vec<Act> + Send + Sync + 'static) -> Self {
        let Reserved { address, socket } = reserved;
        let listener = socket.listen(1024).expect("a bound socket can listen");
        let requests = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(AtomicUsize::new(0));
        let (counted, count) = watch::channel(0);
        let shared = Arc::new(Shared { script: Box::new(script), requests: Arc::clone(&requests), counted });
        let task = tokio::spawn(accept(listener, shared, Arc::clone(&connections))).abort_handle();
        Self { address, requests, count, connections, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests so far.
    pub(crate) fn requests(&self) -> Vec<Message> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The only request.
    pub(crate) fn request(&self) -> Message {
        let mut requests = self.requests();
        assert_eq!(requests.len(), 1, "exactly one request should have come");
        requests.remove(0)
    }

    /// Waits until so many requests have come.
    pub(crate) async fn wait_for(&self, requests: usize) {
        let mut count = self.count.clone();
        let waited = tokio::time::timeout(GUARD, count.wait_for(|count| *count >= requests)).await;
        waited.expect("requests come").expect("the handler lives");
    }

    /// Connections accepted so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Shared {
    script: Box<Script>,
    requests: Arc<Mutex<Vec<Message>>>,
    counted: watch::Sender<usize>,
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, connections: Arc<AtomicUsize>) {
    // Dropped with this task, the set takes the connections with it.
    let mut open = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.expect("connections can be accepted");
        let connection = connections.fetch_add(1, Ordering::Relaxed);
        open.spawn(serve(stream, connection, Arc::clone(&shared)));
    }
}

async fn serve(stream: TcpStream, connection: usize, shared: Arc<Shared>) {
    let (read, mut write) = stream.into_split();
    let mut reader = Reader::new(read);
    for nth in 0.. {
        let Some(message) = reader.request().await else { return };
        planted::note_received(&message);
        shared.requests.lock().unwrap_or_else(PoisonError::into_inner).push(message.clone());
        shared.counted.send_modify(|count| *count += 1);
        for act in (shared.script)(&Seen { message, connection, nth }) {
            match act {
                // The gateway may have left; the next read will tell.
                Act::Send(bytes) => drop(write.write_all(&bytes).await),
                Act::Wait(gate) => gate.opened().await,
                Act::Stall => return reader.closed().await,
                Act::Close => return,
                Act::Reset => return reset(write),
            }
        }
    }
}

fn reset(write: OwnedWriteHalf) {
    write.as_ref().set_zero_linger().expect("a socket can linger");
    // Dropped, it would end the stream in good order first.
    write.forget();
}

/// An address that refuses connections, until a handler is started on it.
pub(crate) struct Reserved {
    pub(crate) address: SocketAddr,
    socket: TcpSocket,
}

impl Reserved {
    pub(crate) fn new() -> Self {
        let reserve = || -> io::Result<Self> {
            let socket = TcpSocket::new_v4()?;
            socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
            Ok(Self { address: socket.local_addr()?, socket })
        };
        reserve().expect("loopback has free ports")
    }
}

/// An address where connecting never ends: its queue is full and nobody accepts.
pub(crate) struct Deaf {
    pub(crate) address: SocketAddr,
    _listener: TcpListener,
    _queued: Vec<TcpStream>,
}

impl Deaf {
    pub(crate) async fn new() -> Self {
        let Reserved { address, socket } = Reserved::new();
        let listener = socket.listen(1).expect("a bound socket can listen");
        let mut queued = Vec::new();
        while let Ok(stream) = tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
            queued.push(stream.expect("connections are queued"));
        }
        Self { address, _listener: listener, _queued: queued }
    }
}
