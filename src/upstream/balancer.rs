//! Which address of a target takes the next request; and which addresses there are, from DNS.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use http::HeaderValue;
use tokio::time::Instant;

use super::pool::Address;
use crate::nexus::BaseUrl;

/// The addresses of a target, in turn.
pub(super) struct Balancer {
    urls: Vec<BaseUrl>,
    workers: usize,
    addresses: ArcSwap<Vec<Arc<Address>>>,
    turn: AtomicUsize,
}

impl Balancer {
    /// Addresses that need no look-up are there at once.
    pub(super) fn new(urls: Vec<BaseUrl>, workers: usize) -> Self {
        let balancer = Self { urls, workers, addresses: ArcSwap::default(), turn: AtomicUsize::new(0) };
        if balancer.is_literal() {
            let found = balancer.urls.iter().filter_map(|url| Some((literal(url)?, url))).collect();
            balancer.replace(found);
        }
        balancer
    }

    /// Whether each URL names an IP address, so that there is nothing to look up.
    pub(super) fn is_literal(&self) -> bool {
        self.urls.iter().all(|url| literal(url).is_some())
    }

    /// All addresses.
    pub(super) fn addresses(&self) -> Arc<Vec<Arc<Address>>> {
        self.addresses.load_full()
    }

    /// The address whose turn it is.
    pub(super) fn next(&self, now: Instant) -> Option<Arc<Address>> {
        self.beginning_with(self.turn.fetch_add(1, Ordering::Relaxed), now).next()
    }

    /// All addresses in the order in which to try them. Takes no turn.
    pub(super) fn in_turn(&self, now: Instant) -> impl Iterator<Item = Arc<Address>> {
        self.beginning_with(self.turn.load(Ordering::Relaxed), now)
    }

    /// Those that refused a connection a moment ago come last.
    fn beginning_with(&self, turn: usize, now: Instant) -> impl Iterator<Item = Arc<Address>> {
        let addresses = self.addresses.load();
        let count = addresses.len();
        let at = move |step: usize| Arc::clone(&addresses[(turn + step % count) % count]);
        (0..2 * count)
            .map(move |step| (step < count, at(step)))
            .filter_map(move |(first_round, address)| (first_round != address.is_avoided(now)).then_some(address))
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

    /// Takes a new list of addresses; those that stay keep their connections.
    fn replace(&self, found: Vec<(SocketAddr, &BaseUrl)>) {
        let old = self.addresses.load();
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
                _ => Arc::new(Address::new(socket, host, self.workers)),
            });
        }
        // Resolvers shuffle their answers; that is no change.
        new.sort_by_key(|address| address.socket());
        self.addresses.store(Arc::new(new));
    }
}

fn literal(url: &BaseUrl) -> Option<SocketAddr> {
    Some(SocketAddr::new(url.host.parse::<IpAddr>().ok()?, url.port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn balancer(urls: &[&str]) -> Balancer {
        Balancer::new(urls.iter().map(|url| BaseUrl::parse(url).unwrap()).collect(), 1)
    }

    fn ports(addresses: impl Iterator<Item = Arc<Address>>) -> Vec<u16> {
        addresses.map(|address| address.socket().port()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn each_address_has_its_turn() {
        let balancer = balancer(&["http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:3"]);
        let turns: Vec<_> = (0..4).map(|_| ports(balancer.next(Instant::now()).into_iter())).collect();
        assert_eq!(turns, [[1], [2], [3], [1]]);
        assert_eq!(ports(balancer.in_turn(Instant::now())), [2, 3, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_refused_is_tried_last_for_a_while() {
        let balancer = balancer(&["http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:3"]);
        balancer.addresses()[0].refused(Instant::now());
        assert_eq!(ports(balancer.in_turn(Instant::now())), [2, 3, 1]);
        tokio::time::advance(std::time::Duration::from_secs(1)).await;
        assert_eq!(ports(balancer.in_turn(Instant::now())), [1, 2, 3]);
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
        assert!(balancer(&[]).next(Instant::now()).is_none());
    }
}
