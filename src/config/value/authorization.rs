//! Values of `authorization`.

use super::Kind;
use crate::admission::authorize::{MAX_PATTERN, Pattern};

/// A name, or a pattern for names.
pub(in crate::config) struct NamePattern;

impl Kind for NamePattern {
    type Value = Pattern;

    const EXPECTED: &'static str = "a name, or a pattern such as `team-*`,";
    const FREE_TEXT: bool = true;

    fn from_text(text: &str) -> Result<Pattern, String> {
        Pattern::new(text).ok_or_else(|| match text {
            "" => "fits no name; write one, or remove it".into(),
            _ => format!("is too long; write at most {MAX_PATTERN} bytes"),
        })
    }
}

/// An endpoint's name, or a pattern for such names.
pub(in crate::config) struct EndpointPattern;

impl Kind for EndpointPattern {
    type Value = Pattern;

    const EXPECTED: &'static str = "an endpoint's name, or a pattern such as `pay-*`,";
    const FREE_TEXT: bool = true;

    fn from_text(text: &str) -> Result<Pattern, String> {
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '*' | '?');
        if !text.chars().all(is_part) {
            return Err("fits no endpoint's name; write letters, digits, `-`, `*` and `?`".into());
        }
        NamePattern::from_text(text)
    }

    fn pattern() -> &'static str {
        r"^[a-zA-Z0-9*?\-]+$"
    }
}
