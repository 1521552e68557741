//! Values of limits, retries and breakers.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::{Kind, MIN_PERIOD, Time};
use crate::admission::authorize::ANONYMOUS;
use crate::gates::{CallerKey, shared};
use crate::resilience::rate_limit::{Rate, StoreUrl};

/// `off`, or a value of kind `K`.
pub(in crate::config) struct OrOff<K>(K);

impl<K: Kind> Kind for OrOff<K> {
    type Value = Option<K::Value>;

    const EXPECTED: &'static str = K::EXPECTED;
    const NUMERIC: bool = K::NUMERIC;
    const OFF: bool = true;

    fn from_text(text: &str) -> Result<Self::Value, String> {
        if text == "off" { Ok(None) } else { K::from_text(text).map(Some).map_err(|why| format!("{why}, or `off`")) }
    }

    fn from_integer(number: i64) -> Result<Self::Value, String> {
        K::from_integer(number).map(Some).map_err(|why| format!("{why}, or `off`"))
    }

    fn pattern() -> &'static str {
        K::pattern()
    }
}

/// A whole number of percent from `MIN` to `MAX`.
pub(in crate::config) struct Percent<const MIN: u32, const MAX: u32>;

impl<const MIN: u32, const MAX: u32> Kind for Percent<MIN, MAX> {
    type Value = u32;

    const EXPECTED: &'static str = "a percentage such as `20%`";

    fn from_text(text: &str) -> Result<u32, String> {
        let Some(number) = text.strip_suffix('%') else {
            let hint = if text.parse::<u32>().is_ok() { text } else { "20" };
            return Err(format!("has no percent sign; write `{hint}%`"));
        };
        let percent = number.parse().ok().filter(|percent| (MIN..=MAX).contains(percent) && is_plain(number));
        percent.ok_or_else(|| format!("does not fit here; write a whole percentage from {MIN}% to {MAX}%"))
    }

    fn from_integer(number: i64) -> Result<u32, String> {
        Self::from_text(&number.to_string())
    }

    fn pattern() -> &'static str {
        "^[0-9]+%$"
    }
}

/// A duration of [`MIN_PERIOD`] to `MAX` milliseconds that a breaker measures.
pub(in crate::config) struct Period<const MAX: u64>;

impl<const MAX: u64> Kind for Period<MAX> {
    type Value = Duration;

    const EXPECTED: &'static str = Time::<0, MAX>::EXPECTED;

    fn from_text(text: &str) -> Result<Duration, String> {
        let duration = Time::<0, MAX>::from_text(text)?;
        if duration < Duration::from_millis(MIN_PERIOD) {
            return Err(format!("is below the clock of a breaker; write at least `{MIN_PERIOD}ms`"));
        }
        Ok(duration)
    }

    fn from_integer(number: i64) -> Result<Duration, String> {
        Time::<0, MAX>::from_integer(number)
    }

    fn pattern() -> &'static str {
        Time::<0, MAX>::pattern()
    }
}

/// So many requests in a second, minute or hour.
pub(in crate::config) struct RateOf;

impl Kind for RateOf {
    type Value = Rate;

    const EXPECTED: &'static str = "a rate such as `500/s`";

    fn from_text(text: &str) -> Result<Rate, String> {
        const WRONG: &str =
            "is not a rate; write a whole number per second, minute or hour: `500/s`, `10/m` or `100/h`";
        let (number, unit) = text.split_once('/').ok_or(WRONG)?;
        let seconds = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return Err(WRONG.into()),
        };
        if !is_plain(number) {
            return Err(WRONG.into());
        }
        let requests = number.parse().ok().filter(|requests| *requests <= 1_000_000);
        let requests = requests.ok_or_else(|| format!("is too much; write at most `1000000/{unit}`"))?;
        let requests = NonZeroU32::new(requests)
            .ok_or_else(|| format!("lets nothing through; write at least `1/{unit}`, or `rate_limit: off`"))?;
        Ok(Rate { requests, every: Duration::from_secs(seconds) })
    }

    fn from_integer(number: i64) -> Result<Rate, String> {
        Err(format!("has no unit; write `{number}/s`, `{number}/m` or `{number}/h`"))
    }

    fn pattern() -> &'static str {
        "^[0-9]+/[smh]$"
    }
}

/// A caller's name, or the address of one without a name.
pub(in crate::config) struct CallerName;

impl Kind for CallerName {
    type Value = CallerKey;

    const EXPECTED: &'static str = "a caller's name, or an IP address such as `10.0.0.7`,";
    const FREE_TEXT: bool = true;

    fn from_text(text: &str) -> Result<CallerKey, String> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(address.into());
        }
        if text == ANONYMOUS {
            return Err("is no caller's name; write the IP address that one without a credential connects from".into());
        }
        if text.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | ':' | '/' | '[' | ']')) {
            return Err("is neither a name nor an IP address; write one, without a port".into());
        }
        Ok(Arc::<str>::from(text).into())
    }
}

const FORM: &str = "`redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE]`, or `rediss://` for TLS";

/// Where the store of global limits is. Messages never repeat any of it, since it may hold a password.
pub(in crate::config) struct Store;

impl Kind for Store {
    type Value = StoreUrl;

    const EXPECTED: &'static str = "a URL such as `redis://127.0.0.1:6379/0`";

    fn from_text(text: &str) -> Result<StoreUrl, String> {
        let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        if !matches!(scheme.as_deref(), Some("redis" | "rediss")) {
            return Err(format!("is not the URL of a store; write {FORM}"));
        }
        if scheme.as_deref() == Some("rediss") && text.contains('#') {
            return Err(
                "asks to believe every server (`#insecure`); leave that out, and name its authority in `tls.ca`".into(),
            );
        }
        // Its error might repeat a part of the URL.
        shared::check(text).map_err(|_| format!("is not a URL that the store's client takes; write {FORM}"))?;
        Ok(StoreUrl::new(text))
    }

    fn pattern() -> &'static str {
        "^rediss?://"
    }
}

/// Without a sign, which `parse` would take.
fn is_plain(number: &str) -> bool {
    !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_rates() {
        for (text, requests, seconds) in [("500/s", 500, 1), ("1/m", 1, 60), ("1000000/h", 1_000_000, 3600)] {
            let rate = RateOf::from_text(text).unwrap();
            assert_eq!((rate.requests.get(), rate.every.as_secs()), (requests, seconds), "{text}");
        }
        for text in ["", "5", "/s", "0/s", "-1/s", "+1/s", "1.5/s", "5/d", "5/S", "5 /s", "5/s ", "1000001/s", "5/s/s"]
        {
            assert!(RateOf::from_text(text).is_err(), "{text}");
        }
    }

    #[test]
    fn reads_percentages() {
        type Share = Percent<1, 100>;
        assert_eq!((Share::from_text("1%"), Share::from_text("100%")), (Ok(1), Ok(100)));
        for text in ["", "%", "0%", "101%", "+5%", "-5%", "5", "5 %", "5.5%", "%5", "99999999999%"] {
            assert!(Share::from_text(text).is_err(), "{text}");
        }
        assert_eq!((OrOff::<Share>::from_text("off"), OrOff::<Share>::from_text("7%")), (Ok(None), Ok(Some(7))));
    }

    #[test]
    fn an_ipv4_caller_inside_ipv6_is_an_ipv4_caller() {
        assert_eq!(CallerName::from_text("::ffff:10.0.0.7"), Ok(IpAddr::from([10, 0, 0, 7]).into()));
    }

    #[test]
    fn reads_store_urls() {
        for text in [
            "redis://h",
            "redis://h:1/2",
            "redis://:p@h",
            "redis://u:p@[::1]:6379/0",
            "redis://h?protocol=resp3",
            "rediss://u:p@h:6380/0",
            "rediss://[::1]",
        ] {
            assert_eq!(Store::from_text(text).as_ref().map(StoreUrl::reveal), Ok(text));
        }
        for text in [
            "",
            "h:6379",
            "http://h",
            "rediss://h/#insecure",
            "redis+unix:///s",
            "redis://",
            "redis://h/x",
            "redis://h:p",
        ] {
            assert!(Store::from_text(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".*") {
            let _ = (RateOf::from_text(&text), Percent::<0, 100>::from_text(&text), CallerName::from_text(&text));
            let _ = (Store::from_text(&text), Store::from_text(&format!("redis://{text}")));
        }
    }
}
