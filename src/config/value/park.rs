//! Values of `park`.

use tokio_postgres::config::Host;

use super::Kind;
use crate::park::StoreAt;
use crate::park::postgres::url::{self, Unfit};
use crate::resilience::rate_limit::StoreUrl;

const FORM: &str = "`embedded`, or `postgres://[USER[:PASSWORD]@]HOST[:PORT][/DATABASE][?sslmode=verify-full]`";

/// Where parked operations are kept. Messages never repeat any of it, since it may hold a password.
pub(in crate::config) struct ParkStore;

impl Kind for ParkStore {
    type Value = StoreAt;

    const EXPECTED: &'static str = "`embedded`, or a URL such as `postgres://127.0.0.1/nexus`";

    fn from_text(text: &str) -> Result<StoreAt, String> {
        if text == "embedded" {
            return Ok(StoreAt::Embedded);
        }
        if !["postgres://", "postgresql://"].iter().any(|scheme| text.starts_with(scheme)) {
            return Err(format!("is not a store; write {FORM}"));
        }
        let (client, tls) = url::read(text).map_err(|why| match why {
            Unfit::Malformed => format!("{why}; write {FORM}"),
            Unfit::Unverified => why.to_string(),
        })?;
        let hosts = client.get_hosts();
        if hosts.is_empty() || hosts.contains(&Host::Tcp(String::new())) {
            return Err(format!("names no host; write {FORM}"));
        }
        if tls && hosts.iter().any(|host| matches!(host, Host::Unix(_))) {
            return Err("asks for TLS over a socket of this machine; leave `sslmode` out".into());
        }
        Ok(StoreAt::Postgres(StoreUrl::new(text)))
    }

    fn pattern() -> &'static str {
        "^embedded$|^postgres(ql)?://"
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_stores() {
        assert_eq!(ParkStore::from_text("embedded"), Ok(StoreAt::Embedded));
        for text in [
            "postgres://h",
            "postgresql://h:1/db",
            "postgres://u:p%40@h/db?sslmode=disable",
            "postgres://u@[::1]:5432,h2/db?sslmode=prefer&connect_timeout=3",
            "postgres:///db?host=/run/postgresql",
            "postgres://h/db?sslmode=verify-full",
        ] {
            assert_eq!(ParkStore::from_text(text), Ok(StoreAt::Postgres(StoreUrl::new(text))), "{text}");
        }
    }

    #[test]
    fn what_is_refused_is_refused_for_the_right_reason() {
        for (text, why) in [
            ("", "is not a store"),
            ("Embedded", "is not a store"),
            ("h:5432", "is not a store"),
            ("host=h user=u", "is not a store"),
            ("redis://h", "is not a store"),
            ("POSTGRES://h", "is not a store"),
            ("postgres://", "names no host"),
            ("postgres://u:p@/db", "names no host"),
            ("postgres://:5432/db", "names no host"),
            ("postgres://h1,/db", "names no host"),
            ("postgres://h:port/db", "is not a URL"),
            ("postgres://u:p/w@h/db?x=y", "is not a URL"),
            ("postgres://h/db?nothing=1", "is not a URL"),
            ("postgres://h/db?sslmode=require", "without a look"),
            ("postgres://h/db?x=1&sslmode=verify-ca", "without a look"),
            ("postgres://h?ssl%6Dode=require", "without a look"),
            ("postgres:///db?host=/run/postgresql&sslmode=verify-full", "over a socket"),
        ] {
            let said = ParkStore::from_text(text).expect_err(text);
            assert!(said.contains(why), "{text}: {said}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".*") {
            let _ = (ParkStore::from_text(&text), ParkStore::from_text(&format!("postgres://{text}")));
        }
    }
}
