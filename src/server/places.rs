//! How many connections one peer has: no one takes all that there are.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::admission::network;

/// Connections by peer; those without any are not in it.
#[derive(Default)]
pub(super) struct Places(Mutex<HashMap<IpAddr, usize>>);

impl Places {
    /// Takes a place for `peer`, which has at most `max`.
    pub(super) fn take(self: &Arc<Self>, peer: IpAddr, max: usize) -> Option<Place> {
        let peer = network(peer);
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = places.entry(peer).or_insert(0);
        if *taken >= max {
            return None;
        }
        *taken += 1;
        Some(Place { places: Arc::clone(self), peer })
    }
}

/// A connection's place.
pub(super) struct Place {
    places: Arc<Places>,
    peer: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = places.get_mut(&self.peer) {
            *taken -= 1;
            if *taken == 0 {
                places.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_has_so_many_places_and_gives_them_back() {
        let places = Arc::<Places>::default();
        let take = |peer: &str| places.take(peer.parse().expect("an address"), 2);
        let (first, second) = (take("2001:db8::1"), take("2001:db8::2"));
        assert!(first.is_some() && second.is_some());
        assert!(take("2001:db8::ffff:1").is_none(), "it is the same network");
        assert!(take("2001:db8:0:1::1").is_some(), "it is another one");
        let mapped = (take("10.0.0.1"), take("::ffff:10.0.0.1"));
        assert!(mapped.0.is_some() && mapped.1.is_some() && take("10.0.0.1").is_none());
        drop((first, second, mapped));
        assert!(places.0.lock().expect("nobody panicked").is_empty());
    }
}
