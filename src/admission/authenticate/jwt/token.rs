//! A token as it is shown: three parts, of which nothing is believed yet (RFC 7515 §3.1, RFC 7519).

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::{Algorithm, ClaimPath};

/// Longest token that is looked at, in bytes.
pub(super) const MAX_TOKEN: usize = 8 << 10;

/// A token, read but not checked.
pub(super) struct Token<'a> {
    /// What is signed.
    pub(super) message: &'a str,
    /// In base64url.
    pub(super) signature: &'a str,
    pub(super) algorithm: Algorithm,
    /// Which key it says it is signed by.
    pub(super) key: Option<String>,
    claims: Map<String, Value>,
}

/// Whether a text has the form of a token: three parts in base64url, with dots between. No API key has dots.
pub(in crate::admission::authenticate) fn is_token(text: &str) -> bool {
    let part = |part: &str| part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    text.split('.').count() == 3 && text.split('.').all(part)
}

impl<'a> Token<'a> {
    /// The token of this text. Of the header only `alg` and `kid` say anything here: a key that a token brings along
    /// (`jwk`, `x5c`) or points to (`jku`, `x5u`) is nobody's but the sender's. `crit` names what must be understood, and
    /// nothing of that is.
    pub(super) fn read(text: &'a str) -> Result<Self, &'static str> {
        if text.len() > MAX_TOKEN {
            return Err("it is too long");
        }
        if !is_token(text) {
            return Err("it has not the form of a token");
        }
        let (message, signature) = text.rsplit_once('.').ok_or("it has not the form of a token")?;
        let (header, claims) = message.split_once('.').ok_or("it has not the form of a token")?;
        let header = object(header).ok_or("its header is no JSON object in base64url")?;
        if header.contains_key("crit") {
            return Err("its header has `crit`");
        }
        let algorithm = header.get("alg").and_then(Value::as_str).and_then(Algorithm::named);
        let key = match header.get("kid") {
            None => None,
            Some(Value::String(key)) => Some(key.clone()),
            Some(_) => return Err("its `kid` is no text"),
        };
        let algorithm = algorithm.ok_or("its algorithm is none that is taken")?;
        let claims = object(claims).ok_or("its claims are no JSON object in base64url")?;
        Ok(Self { message, signature, algorithm, key, claims })
    }

    /// Who it says has made it.
    pub(super) fn issuer(&self) -> Result<&str, &'static str> {
        self.claims.get("iss").and_then(Value::as_str).ok_or("it has no `iss` that is a text")
    }

    /// Whether one of `expected` is among those that it is for (RFC 7519 §4.1.3).
    pub(super) fn is_for(&self, expected: &[Box<str>]) -> Result<(), &'static str> {
        let wanted = |audience: &str| expected.iter().any(|expected| **expected == *audience);
        let found = match self.claims.get("aud") {
            Some(Value::String(audience)) => wanted(audience),
            Some(Value::Array(list)) => {
                let all: Option<Vec<&str>> = list.iter().map(Value::as_str).collect();
                all.ok_or("its `aud` has more than texts")?.into_iter().any(wanted)
            }
            _ => return Err("it has no `aud` that is a text or a list of texts"),
        };
        if found { Ok(()) } else { Err("it is for another audience") }
    }

    /// Whether it holds at `now`, the time since 1970, give or take `leeway`; until when it does, in seconds.
    pub(super) fn holds(&self, now: Duration, leeway: Duration) -> Result<f64, &'static str> {
        let (now, leeway) = (now.as_secs_f64(), leeway.as_secs_f64());
        let until = self.time("exp")?.ok_or("it has no `exp`")? + leeway;
        if now >= until {
            return Err("it has expired");
        }
        if self.time("nbf")?.is_some_and(|from| now + leeway < from) {
            return Err("it does not hold yet");
        }
        if self.time("iat")?.is_some_and(|made| now + leeway < made) {
            return Err("it is from the future");
        }
        Ok(until)
    }

    /// A time in seconds since 1970.
    fn time(&self, name: &str) -> Result<Option<f64>, &'static str> {
        match self.claims.get(name) {
            None => Ok(None),
            Some(Value::Number(number)) => {
                number.as_f64().filter(|time| time.is_finite()).map(Some).ok_or("one of its times is no number")
            }
            Some(_) => Err("one of its times is no number"),
        }
    }

    /// The text of a claim; none where there is no such claim.
    pub(super) fn text(&self, path: &ClaimPath) -> Result<Option<&str>, &'static str> {
        let Some((first, rest)) = path.names().split_first() else { return Ok(None) };
        let mut value = self.claims.get(&**first);
        for name in rest {
            value = value.and_then(|value| value.as_object()?.get(&**name));
        }
        match value {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err("a claim that says who the caller is, is no text"),
        }
    }
}

fn object(part: &str) -> Option<Map<String, Value>> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}
