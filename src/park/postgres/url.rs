//! What the URL of a database says.
//!
//! Of the modes of TLS two are taken: none, and `verify-full`, by which the server is known. The client library's own mode
//! `require` encrypts for whoever answers, so it is refused.

use tokio_postgres::Config;
use tokio_postgres::config::SslMode;

use crate::resilience::rate_limit::StoreUrl;

/// Why a URL is refused. Never quotes any of it: it may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It is none that the client library takes.
    #[error("is not a URL that the store's client takes")]
    Malformed,
    /// It asks for TLS with whoever answers.
    #[error("asks for TLS without a look at whose certificate it is; write `sslmode=verify-full`")]
    Unverified,
}

/// What the URL says to the client library, and whether its server is met over TLS, and only so.
pub fn read(url: &str) -> Result<(Config, bool), Unfit> {
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let mut kept = Vec::new();
    let mut verified = false;
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        match parameter {
            "sslmode=verify-full" => verified = true,
            "sslmode=verify-ca" => return Err(Unfit::Unverified),
            _ => kept.push(parameter),
        }
    }
    let mut config: Config = format!("{base}?{}", kept.join("&")).parse().map_err(|_| Unfit::Malformed)?;
    match (verified, config.get_ssl_mode()) {
        (true, _) => config.ssl_mode(SslMode::Require),
        (false, SslMode::Require) => return Err(Unfit::Unverified),
        (false, _) => config.ssl_mode(SslMode::Disable),
    };
    Ok((config, verified))
}

/// Whether the server at `url`, which was checked, is met over TLS.
pub fn is_over_tls(url: &StoreUrl) -> bool {
    read(url.reveal()).is_ok_and(|(_, tls)| tls)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_is_with_whom_it_should_be_or_not_at_all() {
        for (query, expected) in [
            ("", Ok(false)),
            ("?", Ok(false)),
            ("?sslmode=disable", Ok(false)),
            ("?sslmode=prefer&connect_timeout=3", Ok(false)),
            ("?sslmode=verify-full", Ok(true)),
            ("?connect_timeout=3&sslmode=verify-full&application_name=a", Ok(true)),
            ("?sslmode=verify-full&sslmode=disable", Ok(true)),
            ("?sslmode=require", Err(Unfit::Unverified)),
            ("?ssl%6Dode=require", Err(Unfit::Unverified)),
            ("?sslmode=verify-ca", Err(Unfit::Unverified)),
            ("?ssl%6Dode=verify-full", Err(Unfit::Malformed)),
            ("?sslmode=verify", Err(Unfit::Malformed)),
        ] {
            let read = read(&format!("postgres://u:p@h/db{query}")).map(|(config, tls)| {
                assert_eq!(config.get_ssl_mode(), if tls { SslMode::Require } else { SslMode::Disable });
                tls
            });
            assert_eq!(read, expected, "{query}");
        }
    }
}
