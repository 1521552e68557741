//! The kinds of single values in the file: each is checked where it is read, so that the rest sees good ones only.
//!
//! A [`Kind`] is never instantiated; a field says which one holds: `timeout: Option<Checked<Time<1, HOUR>>>`.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, Visitor};

use super::problem::did_you_mean;
use super::units::{format_duration, format_size, parse_duration, parse_size};
use crate::nexus::BaseUrl;
use crate::telemetry::LogTarget;

mod admin;
mod authentication;
mod authorization;
mod callbacks;
mod limits;
mod outward;
mod park;
mod tls;

pub(super) use admin::AdminToken;
pub(super) use authentication::{
    AlgorithmName, Audience, CallerNamespace, ClaimName, CredentialHeader, IdentityName, IssuerName, KeysUrl, Pattern,
    Sha256,
};
pub(super) use authorization::{EndpointPattern, NamePattern};
pub(super) use callbacks::{AllowedUrl, KeyId, KeySecret, PublicUrl};
pub(super) use limits::{CallerName, OrOff, Percent, Period, RateOf, Store};
pub(super) use outward::{FieldName, FieldValue, PlainName, SecretText, TokenUrl};
pub(super) use park::ParkStore;
pub(super) use tls::{FilePath, MinVersion, TlsName};

/// Milliseconds.
pub(super) const SECOND: u64 = 1_000;
pub(super) const MINUTE: u64 = 60 * SECOND;
pub(super) const HOUR: u64 = 60 * MINUTE;
pub(super) const DAY: u64 = 24 * HOUR;
/// Bytes.
pub(super) const KIB: usize = 1 << 10;
pub(super) const MIB: usize = 1 << 20;
pub(super) const GIB: usize = 1 << 30;

/// Milliseconds below which a breaker does not measure.
const MIN_PERIOD: u64 = 100;

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// One kind of value. Refusals are what a message says after the value, and never repeat it.
pub(super) trait Kind {
    type Value;

    /// As in "`x` stands where … is expected".
    const EXPECTED: &'static str;

    /// Whether a number or `true` may have been meant as text.
    const FREE_TEXT: bool = false;

    /// Whether a whole number is taken like its text.
    const NUMERIC: bool = false;

    /// Whether `off` is taken, too.
    const OFF: bool = false;

    fn from_text(text: &str) -> Result<Self::Value, String>;

    fn from_integer(number: i64) -> Result<Self::Value, String> {
        if Self::NUMERIC { Self::from_text(&number.to_string()) } else { Err(misplaced::<Self>()) }
    }

    /// A regular expression for texts in which nothing is left to expand.
    fn pattern() -> &'static str {
        "."
    }
}

fn misplaced<K: Kind + ?Sized>() -> String {
    let hint = if K::FREE_TEXT { "; put it in quotes if it is meant as text" } else { "" };
    format!("stands where {} is expected{hint}", expected::<K>())
}

fn expected<K: Kind + ?Sized>() -> String {
    let off = if K::OFF { " or `off`" } else { "" };
    format!("{}{off}", K::EXPECTED)
}

/// A value of kind `K` that passed its checks.
pub(super) struct Checked<K: Kind>(pub(super) K::Value);

impl<'de, K: Kind> Deserialize<'de> for Checked<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CheckedVisitor(PhantomData::<K>)).map(Self)
    }
}

struct CheckedVisitor<K>(PhantomData<K>);

impl<K: Kind> Visitor<'_> for CheckedVisitor<K> {
    type Value = K::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&expected::<K>())
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<K::Value, E> {
        K::from_text(text).map_err(E::custom)
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<K::Value, E> {
        Err(E::custom(misplaced::<K>()))
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<K::Value, E> {
        Err(E::custom(misplaced::<K>()))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<K::Value, E> {
        K::from_integer(number).map_err(E::custom)
    }
}

impl<K: Kind> JsonSchema for Checked<K> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        K::EXPECTED.into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let off = if K::OFF { "|^off$" } else { "" };
        let pattern = format!("{}{off}|\\$\\{{", K::pattern());
        if K::NUMERIC {
            json_schema!({ "type": ["integer", "string"], "minimum": 0, "pattern": pattern })
        } else {
            json_schema!({ "type": "string", "pattern": pattern })
        }
    }
}

/// A duration of `MIN` to `MAX` milliseconds.
pub(super) struct Time<const MIN: u64, const MAX: u64>;

impl<const MIN: u64, const MAX: u64> Kind for Time<MIN, MAX> {
    type Value = Duration;

    const EXPECTED: &'static str = "a duration such as `10s`";

    fn from_text(text: &str) -> Result<Duration, String> {
        let (min, max) = (Duration::from_millis(MIN), Duration::from_millis(MAX));
        match parse_duration(text)? {
            duration if duration < min => Err(format!("is too short; write at least `{}`", format_duration(min))),
            duration if duration > max => Err(format!("is too long; write at most `{}`", format_duration(max))),
            duration => Ok(duration),
        }
    }

    fn from_integer(number: i64) -> Result<Duration, String> {
        Err(format!("has no unit; write `{number}s` or `{number}ms`"))
    }

    fn pattern() -> &'static str {
        r"^[0-9]+(\.[0-9]+)?(ms|s|m|h|d)$"
    }
}

/// A size of `MIN` to `MAX` bytes.
pub(super) struct Size<const MIN: usize, const MAX: usize>;

impl<const MIN: usize, const MAX: usize> Kind for Size<MIN, MAX> {
    type Value = usize;

    const EXPECTED: &'static str = "a size such as `2MiB`";
    const NUMERIC: bool = true;

    fn from_text(text: &str) -> Result<usize, String> {
        match parse_size(text)? {
            size if size < MIN => Err(format!("is too small; write at least `{}`", format_size(MIN))),
            size if size > MAX => Err(format!("is too large; write at most `{}`", format_size(MAX))),
            size => Ok(size),
        }
    }

    fn pattern() -> &'static str {
        "^[0-9]+(KiB|MiB|GiB)?$"
    }
}

/// A number from `MIN` to `MAX`.
pub(super) struct Count<const MIN: usize, const MAX: usize>;

impl<const MIN: usize, const MAX: usize> Kind for Count<MIN, MAX> {
    type Value = usize;

    const EXPECTED: &'static str = "a whole number";
    const NUMERIC: bool = true;

    fn from_text(text: &str) -> Result<usize, String> {
        let count = text.parse().ok().filter(|count| (MIN..=MAX).contains(count));
        count.ok_or_else(|| format!("does not fit here; write a whole number from {MIN} to {MAX}"))
    }

    fn pattern() -> &'static str {
        "^[0-9]+$"
    }
}

/// Where to listen.
pub(super) struct Address;

impl Kind for Address {
    type Value = SocketAddr;

    const EXPECTED: &'static str = "an address such as `127.0.0.1:7280`";

    fn from_text(text: &str) -> Result<SocketAddr, String> {
        text.parse().map_err(|_| "is not an address; write IP:PORT, such as `127.0.0.1:7280` or `[::]:7280`".into())
    }

    fn pattern() -> &'static str {
        r"^(\[.+\]|[0-9.]+):[0-9]+$"
    }
}

/// Where a target lives.
pub(super) struct Url;

impl Kind for Url {
    type Value = BaseUrl;

    const EXPECTED: &'static str = "a URL such as `http://127.0.0.1:7243`";

    fn from_text(text: &str) -> Result<BaseUrl, String> {
        BaseUrl::parse(text).map_err(|error| format!("is refused: {error}"))
    }

    fn pattern() -> &'static str {
        "^https?://"
    }
}

/// An endpoint's name, by the rule of Temporal's own registry.
pub(super) struct EndpointName;

impl Kind for EndpointName {
    type Value = Box<str>;

    const EXPECTED: &'static str = "an endpoint's name";
    const FREE_TEXT: bool = true;

    fn from_text(text: &str) -> Result<Box<str>, String> {
        let inner = |c: char| c.is_ascii_alphanumeric() || c == '-';
        let good = text.len() >= 2
            && text.len() <= 200
            && text.chars().all(inner)
            && text.starts_with(|c: char| c.is_ascii_alphabetic())
            && !text.ends_with('-');
        let rule = "write 2 to 200 letters, digits and `-`, a letter first and no `-` last";
        if good { Ok(text.into()) } else { Err(format!("is not an endpoint's name; {rule}")) }
    }

    fn pattern() -> &'static str {
        r"^[a-zA-Z][a-zA-Z0-9\-]*[a-zA-Z0-9]$"
    }
}

/// A namespace, task queue, service or operation: one segment of a URL's path.
pub(super) struct Segment;

impl Kind for Segment {
    type Value = Box<str>;

    const EXPECTED: &'static str = "a name";
    const FREE_TEXT: bool = true;

    fn from_text(text: &str) -> Result<Box<str>, String> {
        match text {
            "" => Err("is not a name; write one, or leave the key out".into()),
            "." | ".." => Err("cannot be a part of a URL's path; write another name".into()),
            text => Ok(text.into()),
        }
    }
}

/// A folder.
pub(super) struct Folder;

impl Kind for Folder {
    type Value = PathBuf;

    const EXPECTED: &'static str = "a folder's path";
    const FREE_TEXT: bool = true;

    fn from_text(text: &str) -> Result<PathBuf, String> {
        if text.is_empty() {
            Err("is not a folder's path; write one, or leave the key out".into())
        } else {
            Ok(text.into())
        }
    }
}

/// A filter for the log's lines.
pub(super) struct LogLevel;

impl Kind for LogLevel {
    type Value = String;

    const EXPECTED: &'static str = "a level such as `info`";

    /// A bare word is also a filter of `tracing-subscriber` (a target at every level), but here rather a typing error.
    fn from_text(text: &str) -> Result<String, String> {
        let is_level = |word: &str| LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word));
        let wrong = text.split(',').map(str::trim).find(|part| !part.contains(['=', '[']) && !is_level(part));
        if wrong.is_none() && tracing_subscriber::EnvFilter::builder().parse(text).is_ok() {
            return Ok(text.to_owned());
        }
        let hint = wrong.and_then(|word| did_you_mean(word, LEVELS));
        let hint = hint.unwrap_or_else(|| "; write `info`, or `info,nexus_gateway=debug`".into());
        Err(format!("is not a log level{hint}"))
    }
}

/// Where the access log or the audit log goes.
pub(super) struct LogPlace;

impl Kind for LogPlace {
    type Value = LogTarget;

    const EXPECTED: &'static str = "`stdout` or a file's path";

    /// A path has a `/`, so that a mistyped `stdout` does not become a file.
    fn from_text(text: &str) -> Result<LogTarget, String> {
        match text {
            "stdout" => Ok(LogTarget::Stdout),
            path if path.contains('/') && !path.ends_with('/') => Ok(LogTarget::File(path.into())),
            _ => Err("is not a place for a log; write `stdout`, or a file's path with a `/` in it".into()),
        }
    }

    fn pattern() -> &'static str {
        "^stdout$|/[^/]+$"
    }
}
