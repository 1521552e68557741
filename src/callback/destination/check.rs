//! The check of each address right where it is connected to.
//!
//! Between a look-up that was checked and a connect, a name could have been given another address. Here is no between:
//! the address that is checked is the one that is connected to.

use std::future::ready;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::Class;
use super::allow::Net;
use crate::upstream::{Connect, Connecting};

/// At which addresses a destination may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// At public ones.
    pub(super) public: bool,
    /// Anywhere.
    pub(super) any: bool,
    /// In these networks, whatever is there.
    pub(super) nets: Vec<Net>,
}

impl Reach {
    /// Whether the destination may be at `address`; else what kind of address that is.
    pub fn check(&self, address: IpAddr) -> Result<(), Class> {
        let class = Class::of(address);
        let is_allowed =
            self.any || (self.public && class == Class::Public) || self.nets.iter().any(|net| net.contains(address));
        if is_allowed { Ok(()) } else { Err(class) }
    }
}

/// Connects where a destination may be, and nowhere else.
pub struct Checked {
    allowed: Arc<Reach>,
    inner: Arc<dyn Connect>,
}

impl Checked {
    /// Lets `inner` connect to what is `allowed`.
    pub fn new(allowed: Arc<Reach>, inner: Arc<dyn Connect>) -> Self {
        Self { allowed, inner }
    }
}

impl Connect for Checked {
    /// Fails with [`io::ErrorKind::PermissionDenied`] where the address is not allowed. The text is for logs.
    fn connect(&self, address: SocketAddr) -> Connecting<'_> {
        match self.allowed.check(address.ip()) {
            Ok(()) => self.inner.connect(address),
            Err(class) => Box::pin(ready(Err(denied(class)))),
        }
    }
}

fn denied(class: Class) -> io::Error {
    let text = format!("`callbacks.allow` has no entry for this {class} address");
    io::Error::new(io::ErrorKind::PermissionDenied, text)
}
