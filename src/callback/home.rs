//! Where the configured clusters take completions, and what they are shown there.
//!
//! A callback URL is text that a caller wrote. So a cluster's credentials go along only to the two routes of Temporal's
//! that take completions: everywhere else below its address the same text would make the gateway act for the caller.

use super::destination::Destination;
use crate::credentials::{Outward, Purse, Wallet};
use crate::nexus::BaseUrl;

/// A cluster of the configuration.
pub struct Home {
    urls: Vec<BaseUrl>,
    purse: Purse,
}

impl Home {
    /// The cluster `name` at `urls`, which is met as `outward` says.
    pub fn new(name: &str, urls: &[BaseUrl], outward: &Outward, wallet: &Wallet) -> Self {
        Self { urls: urls.to_vec(), purse: wallet.purse(&format!("clusters.{name}"), outward) }
    }

    /// What it is shown.
    pub fn purse(&self) -> &Purse {
        &self.purse
    }

    /// Whether this is where it takes completions.
    pub fn takes(&self, destination: &Destination) -> bool {
        let origin = destination.origin();
        self.urls.iter().any(|url| {
            (url.tls, &url.host, url.port) == (origin.tls, &origin.host, origin.port)
                && destination.is_callback_route_below(&url.path)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_cluster_takes_completions_at_two_routes_only() {
        let url = BaseUrl::parse("http://home.test:7243/base").unwrap();
        let home = Home::new("home", &[url], &Outward::default(), &Wallet::new());
        let takes = |url: &str| home.takes(&Destination::parse(url).unwrap());
        assert!(takes("http://home.test:7243/base/nexus/callback"));
        assert!(takes("http://home.test:7243/base/namespaces/pay-1.a/nexus/callback"));
        assert!(takes("http://home.test:7243/base/namespaces/a%20b%C3%BC/nexus/callback"));
        for other in [
            "http://home.test:7244/base/nexus/callback",
            "http://home.test.evil:7243/base/nexus/callback",
            "http://home.test:7243/nexus/callback",
            "http://home.test:7243/base",
            "http://home.test:7243/base/api/v1/namespaces/pay/workflows/w/terminate",
            "http://home.test:7243/base/api/v1/namespaces/pay/nexus/callback",
            "http://home.test:7243/base/namespaces/../nexus/callback",
            "http://home.test:7243/base/namespaces/a/b/nexus/callback",
            "http://home.test:7243/base/namespaces/a%2Fb/nexus/callback",
            "http://home.test:7243/base/namespaces/a%252Fb/nexus/callback",
            "http://home.test:7243/base/namespaces/a%C0%AFb/nexus/callback",
            "http://home.test:7243/base/namespaces/a%5Cb/nexus/callback",
            "http://home.test:7243/base/namespaces/%2e%2E/nexus/callback",
            "http://home.test:7243/base/namespaces/a%3Fb/nexus/callback",
            "http://home.test:7243/base/namespaces//nexus/callback",
            "http://home.test:7243/base/nexus/callback/",
            "http://home.test:7243/base/x?/nexus/callback",
        ] {
            assert!(!takes(other), "{other}");
        }
    }
}
