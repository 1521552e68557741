//! Which addresses of a target there are, from DNS; which of them can be used; and which one takes the next request.
//!
//! The choice is prepared whenever an address's state changes, so that a request reads one list and draws from it.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use fastrand::Rng;
use http::{HeaderValue, Uri};
use tokio::sync::watch;
use tokio::time::Instant;

use super::pool::{Address, Secured, Turn};
use super::{Probe, UpstreamSettings};
use crate::nexus::BaseUrl;
use crate::resilience::balance::pick;
use crate::resilience::health::{ByHand, HealthSettings, State, panics};

/// What a Temporal frontend answers whoever asks.
const SYSTEM_INFO: &str = "/api/v1/system-info";

/// The addresses of a target.
pub(super) struct Balancer {
    name: Arc<str>,
    urls: Vec<BaseUrl>,
    probe: Probe,
    workers: usize,
    slow_start: Duration,
    panic_threshold: u32,
    health: HealthSettings,
    choice: ArcSwap<Choice>,
    /// Held while a new choice is made, so that the last one made has seen all that happened before.
    choosing: Mutex<()>,
    /// Whether any address can be used: for those who only look,
    is_usable: AtomicBool,
    /// and for those who wait.
    usable: watch::Sender<bool>,
    /// Told of each new choice.
    chosen: watch::Sender<()>,
    itself: Weak<Self>,
}

/// The addresses, and those of them that requests go to.
#[derive(Default)]
struct Choice {
    all: Arc<Vec<Arc<Address>>>,
    /// Those that can be used; where there is none, those that are not taken out by hand: a mark may be stale.
    candidates: Vec<Arc<Address>>,
    is_usable: bool,
}

impl Balancer {
    /// Addresses that need no look-up are there at once.
    pub(super) fn new(
        name: Arc<str>,
        urls: Vec<BaseUrl>,
        probe: Probe,
        settings: &UpstreamSettings,
        workers: usize,
    ) -> Arc<Self> {
        let balancer = Arc::new_cyclic(|itself| Self {
            name,
            urls,
            probe,
            workers,
            slow_start: settings.slow_start,
            panic_threshold: settings.panic_threshold,
            health: settings.health(),
            choice: ArcSwap::default(),
            choosing: Mutex::default(),
            is_usable: AtomicBool::new(false),
            usable: watch::Sender::new(false),
            chosen: watch::Sender::new(()),
            itself: Weak::clone(itself),
        });
        if balancer.is_literal() {
            let found = balancer.urls.iter().filter_map(|url| Some((literal(url)?, url))).collect();
            balancer.replace(found);
        }
        balancer
    }

    /// The upstream's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether each URL names an IP address, so that there is nothing to look up.
    pub(super) fn is_literal(&self) -> bool {
        self.urls.iter().all(|url| literal(url).is_some())
    }

    /// All addresses.
    pub(super) fn addresses(&self) -> Arc<Vec<Arc<Address>>> {
        Arc::clone(&self.choice.load().all)
    }

    /// Whether any address can be used.
    pub(super) fn is_usable(&self) -> bool {
        self.is_usable.load(Ordering::Acquire)
    }

    /// Follows whether any address can be used.
    pub(super) fn usable(&self) -> watch::Receiver<bool> {
        self.usable.subscribe()
    }

    /// Follows the choices that are made.
    pub(super) fn chosen(&self) -> watch::Receiver<()> {
        self.chosen.subscribe()
    }

    /// A turn for a request; none where there is no address.
    pub(super) fn turn(&self, now: Instant) -> Option<Turn> {
        self.draw(&self.choice.load().candidates, now).map(Turn::begin)
    }

    /// A turn at an address that is not among `tried`. Those that are down only where a `last_resort` is wanted.
    pub(super) fn turn_beside(&self, tried: &[SocketAddr], last_resort: bool, now: Instant) -> Option<Turn> {
        let choice = self.choice.load();
        let others = choice.candidates.iter().filter(|other| !tried.contains(&other.socket()));
        let others: Vec<_> = others.filter(|_| choice.is_usable || last_resort).cloned().collect();
        self.draw(&others, now).map(Turn::begin)
    }

    fn draw<'a>(&self, from: &'a [Arc<Address>], now: Instant) -> Option<&'a Arc<Address>> {
        if let [only] = from {
            return Some(only);
        }
        let mut rng = Rng::with_seed(fastrand::u64(..));
        pick(from.len(), &mut rng, |i| from[i].candidate(now, self.slow_start)).map(|i| &from[i])
    }

    /// Looks the host names up again. What cannot be looked up keeps the addresses it had.
    pub(super) async fn resolve(&self) -> io::Result<()> {
        let mut found = Vec::new();
        for url in &self.urls {
            if let Some(socket) = literal(url) {
                found.push((socket, url));
            } else {
                let sockets = tokio::net::lookup_host((&*url.host, url.port)).await?;
                found.extend(sockets.map(|socket| (socket, url)));
            }
        }
        self.replace(found);
        Ok(())
    }

    /// Takes a new list of addresses; those that stay keep their connections and their health.
    fn replace(&self, found: Vec<(SocketAddr, &BaseUrl)>) {
        let _choosing = self.choosing.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.addresses();
        let known: HashMap<_, _> = old.iter().map(|address| (address.socket(), address)).collect();
        let mut new: Vec<Arc<Address>> = Vec::with_capacity(found.len());
        for (socket, url) in found {
            if new.iter().any(|address| address.socket() == socket) {
                continue;
            }
            // A host that came through `http::Uri` is a header value.
            let Ok(host) = HeaderValue::try_from(url.authority()) else { continue };
            new.push(match known.get(&socket) {
                Some(address) if *address.host() == host => Arc::clone(address),
                _ => Arc::new(self.address(socket, host, url)),
            });
        }
        // Resolvers shuffle their answers; that is no change.
        new.sort_by_key(|address| address.socket());
        self.put_in_force(Arc::new(new));
    }

    fn address(&self, socket: SocketAddr, host: HeaderValue, url: &BaseUrl) -> Address {
        let probe = match self.probe {
            Probe::SystemInfo => format!("{}{SYSTEM_INFO}", url.path).parse::<Uri>().ok(),
            Probe::Connect => None,
        };
        // A host that came through `http::Uri` is an authority.
        let authority = url.authority().parse().ok().filter(|_| url.tls);
        let secured = authority.map(|authority| Secured::new(url.host.clone(), authority, self.workers));
        Address::new(socket, host, secured, probe, self.workers, self.health, Weak::clone(&self.itself))
    }

    /// Chooses again, after an address's state changed.
    pub(super) fn choose(&self) {
        let _choosing = self.choosing.lock().unwrap_or_else(PoisonError::into_inner);
        self.put_in_force(self.addresses());
    }

    /// Only while `choosing` is held.
    fn put_in_force(&self, all: Arc<Vec<Arc<Address>>>) {
        let states: Vec<_> = all.iter().map(|address| address.state()).collect();
        let count = |state| states.iter().filter(|found| **found == state).count();
        let with_ejected = panics(count(State::Up), count(State::Ejected), self.panic_threshold);
        let is_candidate = |state: &State| *state == State::Up || (*state == State::Ejected && with_ejected);
        let candidates = all.iter().zip(&states).filter(|(_, state)| is_candidate(state));
        let mut candidates: Vec<_> = candidates.map(|(address, _)| Arc::clone(address)).collect();
        let is_usable = !candidates.is_empty();
        if !is_usable {
            let is_out = |address: &Address| address.health().by_hand() == Some(ByHand::Down);
            candidates.extend(all.iter().filter(|address| !is_out(address)).cloned());
        }
        self.choice.store(Arc::new(Choice { all, candidates, is_usable }));
        self.is_usable.store(is_usable, Ordering::Release);
        self.usable.send_if_modified(|usable| std::mem::replace(usable, is_usable) != is_usable);
        self.chosen.send_replace(());
    }
}

fn literal(url: &BaseUrl) -> Option<SocketAddr> {
    Some(SocketAddr::new(url.host.parse::<IpAddr>().ok()?, url.port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn balancer(urls: &[&str]) -> Arc<Balancer> {
        let urls = urls.iter().map(|url| BaseUrl::parse(url).unwrap()).collect();
        let settings = UpstreamSettings { slow_start: Duration::ZERO, ..UpstreamSettings::default() };
        Balancer::new("t".into(), urls, Probe::SystemInfo, &settings, 1)
    }

    fn three() -> Arc<Balancer> {
        balancer(&["http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:3/base"])
    }

    /// The ports of the addresses that take requests, each with its percentage.
    fn shares(balancer: &Balancer) -> Vec<(u16, usize)> {
        let mut counts = std::collections::BTreeMap::new();
        for _ in 0..2_000 {
            let port = balancer.turn(Instant::now()).unwrap().address().socket().port();
            *counts.entry(port).or_insert(0) += 1;
        }
        counts.into_iter().map(|(port, count)| (port, count / 20)).collect()
    }

    fn ports(balancer: &Balancer) -> Vec<u16> {
        shares(balancer).into_iter().map(|(port, _)| port).collect()
    }

    fn refuse(address: &Address) {
        let now = Instant::now();
        address.note(|health| health.refused(now, now, "refused"));
    }

    fn eject(address: &Address) {
        let now = Instant::now();
        for _ in 0..5 {
            address.note(|health| health.failed(now, now, "reset", false));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn all_addresses_take_requests_and_the_slow_one_few() {
        let balancer = three();
        assert!(shares(&balancer).iter().all(|(_, share)| share.abs_diff(33) < 6));
        let now = Instant::now();
        for (address, millis) in balancer.addresses().iter().zip([10, 10, 100]) {
            address.took(Duration::from_millis(millis), now);
        }
        assert_eq!(ports(&balancer), [1, 2]);
        // While the others are busy it is worth its while.
        let _turns: Vec<_> =
            (0..20).flat_map(|_| balancer.addresses()[..2].iter().map(Turn::begin).collect::<Vec<_>>()).collect();
        assert_eq!(ports(&balancer), [1, 2, 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_down_takes_nothing_unless_all_are() {
        let balancer = three();
        let addresses = balancer.addresses();
        refuse(&addresses[0]);
        assert_eq!(ports(&balancer), [2, 3]);
        refuse(&addresses[1]);
        assert_eq!(ports(&balancer), [3]);
        assert!(balancer.is_usable());
        assert!(balancer.turn_beside(&[addresses[2].socket()], false, Instant::now()).is_none());
        refuse(&addresses[2]);
        assert!(!balancer.is_usable());
        assert_eq!(ports(&balancer), [1, 2, 3], "a mark may be stale");
        addresses[0].note(|health| health.set_by_hand(Some(ByHand::Down), Instant::now()));
        balancer.choose();
        assert_eq!(ports(&balancer), [2, 3], "what somebody says by hand is not stale");
    }

    #[tokio::test(start_paused = true)]
    async fn ejections_hold_until_too_many_are_ejected() {
        let balancer = three();
        let addresses = balancer.addresses();
        eject(&addresses[0]);
        assert_eq!(ports(&balancer), [2, 3]);
        eject(&addresses[1]);
        assert_eq!(ports(&balancer), [1, 2, 3]);
        refuse(&addresses[2]);
        assert_eq!(ports(&balancer), [1, 2]);
        assert!(balancer.is_usable());
    }

    #[tokio::test(start_paused = true)]
    async fn probes_go_below_the_base_path() {
        let balancer = three();
        let probes: Vec<_> = balancer.addresses().iter().map(|address| address.probe().unwrap().to_string()).collect();
        assert_eq!(probes, ["/api/v1/system-info", "/api/v1/system-info", "/base/api/v1/system-info"]);
    }

    #[tokio::test]
    async fn addresses_that_stay_keep_their_state() {
        let balancer = balancer(&["http://127.0.0.1:1", "http://127.0.0.1:1", "http://localhost:2"]);
        assert!(balancer.addresses().is_empty());
        balancer.resolve().await.unwrap();
        let before = balancer.addresses();
        balancer.resolve().await.unwrap();
        let after = balancer.addresses();
        assert!(before.len() >= 2 && before.iter().zip(after.iter()).all(|(a, b)| Arc::ptr_eq(a, b)));
        assert_eq!(before.iter().filter(|address| address.socket().port() == 1).count(), 1);
    }

    #[tokio::test]
    async fn no_address_no_turn() {
        assert!(balancer(&[]).turn(Instant::now()).is_none());
    }
}
