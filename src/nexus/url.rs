//! Where a target lives: the parts of a base URL that a proxy needs, checked once.

use core::net::Ipv6Addr;
use std::fmt;

/// An `http` or `https` base URL: `scheme://host[:port][/path]`, without user info, query or fragment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BaseUrl {
    /// Whether the scheme is `https`.
    pub tls: bool,
    /// Host name or IP address, without the brackets of an IPv6 literal, in lower case.
    pub host: Box<str>,
    /// Port, the scheme's default where the URL names none.
    pub port: u16,
    /// Path as written, without trailing slashes: empty, or beginning with `/`.
    pub path: Box<str>,
}

/// Why a text is not a [`BaseUrl`]; the message says what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadUrl(String);

impl BaseUrl {
    /// Reads `text`, or says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, BadUrl> {
        let bad = |why: &str| BadUrl(format!("{why}; write http://HOST[:PORT][/PATH]"));
        let uri: http::Uri = text.parse().map_err(|_| bad("not a URL"))?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            Some(_) => return Err(bad("the scheme must be http or https")),
            None => return Err(bad("a scheme is missing")),
        };
        let authority = uri.authority().ok_or_else(|| bad("a host is missing"))?;
        if authority.as_str().contains('@') {
            return Err(bad("user names and passwords do not belong into a URL"));
        }
        if uri.query().is_some() || text.contains('#') {
            return Err(bad("a query or fragment does not belong into a base URL"));
        }
        let host = match authority.host().strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(address) if address.parse::<Ipv6Addr>().is_ok() => address,
            // The http crate lets brackets stand anywhere.
            None if !authority.host().contains(['[', ']']) => authority.host(),
            _ => return Err(bad("only an IPv6 address has brackets")),
        };
        if host.is_empty() {
            return Err(bad("a host is missing"));
        }
        let default = if tls { 443 } else { 80 };
        // The http crate reads an out-of-range port as none at all.
        let port = match authority.as_str()[authority.host().len()..].strip_prefix(':') {
            Some(port) => port.parse().map_err(|_| bad("the port is not a number up to 65535"))?,
            None => default,
        };
        if port == 0 {
            return Err(bad("port 0 cannot be called"));
        }
        Ok(Self { tls, host: host.to_ascii_lowercase().into(), port, path: uri.path().trim_end_matches('/').into() })
    }

    /// `host:port` as it stands in a `Host` header: the scheme's default port is left out.
    pub fn authority(&self) -> String {
        let default = if self.tls { 443 } else { 80 };
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.to_string() };
        if self.port == default { host } else { format!("{host}:{}", self.port) }
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_a_proxy_needs() {
        let url = BaseUrl::parse("http://Temporal.example:7243/base/").unwrap();
        assert_eq!((&*url.host, url.port, &*url.path, url.tls), ("temporal.example", 7243, "/base", false));
        assert_eq!(url.to_string(), "http://temporal.example:7243/base");
        let v6 = BaseUrl::parse("https://[::1]").unwrap();
        assert_eq!((&*v6.host, v6.port, v6.authority().as_str()), ("::1", 443, "[::1]"));
    }

    #[test]
    fn refuses_what_cannot_be_a_base() {
        for text in [
            "",
            "localhost:7243",
            "ftp://a",
            "http://",
            "http://u:p@a",
            "http://a?x=1",
            "http://a/#f",
            "http://a:0",
            "http://a:99999",
            "http://a:",
            "/path",
            "http://a[b]:80",
            "http://[a]",
        ] {
            assert!(BaseUrl::parse(text).is_err(), "{text}");
        }
    }
}
