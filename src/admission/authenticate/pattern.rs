//! Patterns that read a caller's name, and perhaps its namespace, out of a longer text.
//!
//! `spiffe://example.org/ns/{namespace}/sa/{name}` takes a text apart at what is literal in it. Each placeholder stands for
//! at least one character, ends at the first character that the pattern goes on with, and has no `/` and no `:` where the
//! pattern itself is parted by such. So a text fits in one way or in none, and no two texts give the same caller.

use std::fmt;
use std::sync::Arc;

use super::{is_name, is_printable};

/// Longest pattern, in bytes.
pub const MAX_PATTERN: usize = 512;
/// Longest text that is looked at, in bytes.
const MAX_TEXT: usize = 1024;

/// A text with `{name}`, and `{namespace}` or not.
#[derive(Clone, PartialEq, Eq)]
pub struct IdentityPattern {
    text: Box<str>,
    parts: Box<[Part]>,
    separators: [Option<char>; 2],
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(Box<str>),
    Name,
    Namespace,
}

/// What a text says by a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// The caller's name.
    pub name: Arc<str>,
    /// Its namespace, where the pattern has one.
    pub namespace: Option<Arc<str>>,
}

impl IdentityPattern {
    /// Reads a pattern; an error says what is wrong with it, and what to write instead.
    pub fn new(text: &str) -> Result<Self, String> {
        if text.len() > MAX_PATTERN {
            return Err(format!("is longer than {MAX_PATTERN} bytes"));
        }
        if !text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return Err("has a character that is not printable ASCII".into());
        }
        let parts = parse(text)?;
        let count = |wanted: &Part| parts.iter().filter(|part| *part == wanted).count();
        match (count(&Part::Name), count(&Part::Namespace)) {
            (1, 0 | 1) => {}
            (0, _) => return Err("does not say where the name stands; write `{name}` there".into()),
            _ => return Err("has a placeholder twice; write `{name}` and `{namespace}` once each".into()),
        }
        if parts.windows(2).any(|pair| !pair.iter().any(|part| matches!(part, Part::Literal(_)))) {
            return Err("has nothing between `{name}` and `{namespace}`; write what parts them".into());
        }
        let has =
            |separator: char| parts.iter().any(|part| matches!(part, Part::Literal(text) if text.contains(separator)));
        let separators = ['/', ':'].map(|separator| has(separator).then_some(separator));
        Ok(Self { text: text.into(), parts: parts.into(), separators })
    }

    /// The pattern that takes any text for a name.
    ///
    /// # Panics
    /// Never: it is a good pattern.
    pub fn whole() -> Self {
        Self::new("{name}").expect("a pattern")
    }

    /// Whether it says which namespace a caller calls from.
    pub fn has_namespace(&self) -> bool {
        self.parts.contains(&Part::Namespace)
    }

    /// What `text` says, if it fits and nobody is called anything by it that nobody may be called.
    pub fn read(&self, text: &str) -> Option<Read> {
        if text.len() > MAX_TEXT {
            return None;
        }
        let (mut rest, mut name, mut namespace) = (text, None, None);
        for (at, part) in self.parts.iter().enumerate() {
            if let Part::Literal(literal) = part {
                rest = rest.strip_prefix(&**literal)?;
                continue;
            }
            let end = match self.parts.get(at + 1) {
                Some(Part::Literal(next)) => rest.find(next.chars().next()?)?,
                _ => rest.len(),
            };
            let (value, after) = rest.split_at(end);
            if value.contains(|c| self.separators.contains(&Some(c))) {
                return None;
            }
            rest = after;
            *(if *part == Part::Name { &mut name } else { &mut namespace }) = Some(value);
        }
        let good = rest.is_empty() && name.is_some_and(is_name) && namespace.is_none_or(is_printable);
        let name = name.filter(|_| good)?;
        Some(Read { name: name.into(), namespace: namespace.map(Into::into) })
    }
}

impl fmt::Display for IdentityPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for IdentityPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdentityPattern({})", self.text)
    }
}

fn parse(text: &str) -> Result<Vec<Part>, String> {
    let (mut parts, mut rest) = (Vec::new(), text);
    while let Some((literal, after)) = rest.split_once('{') {
        let (placeholder, after) = after.split_once('}').ok_or("has a `{` without a `}`; write `{name}`")?;
        push_literal(&mut parts, literal)?;
        parts.push(match placeholder {
            "name" => Part::Name,
            "namespace" => Part::Namespace,
            _ => return Err("has an unknown placeholder; write `{name}` or `{namespace}`".into()),
        });
        rest = after;
    }
    push_literal(&mut parts, rest)?;
    Ok(parts)
}

fn push_literal(parts: &mut Vec<Part>, text: &str) -> Result<(), String> {
    if text.contains('}') {
        return Err("has a `}` without a `{`; write `{name}`".into());
    }
    if !text.is_empty() {
        parts.push(Part::Literal(text.into()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(pattern: &str, text: &str) -> Option<(String, Option<String>)> {
        let read = IdentityPattern::new(pattern).unwrap().read(text)?;
        Some((read.name.to_string(), read.namespace.map(|namespace| namespace.to_string())))
    }

    #[expect(clippy::unnecessary_wraps, reason = "it stands beside what may be none")]
    fn said(name: &str, namespace: &str) -> Option<(String, Option<String>)> {
        Some((name.to_owned(), (!namespace.is_empty()).then(|| namespace.to_owned())))
    }

    #[test]
    fn a_text_fits_or_not() {
        let spiffe = "spiffe://a.example/ns/{namespace}/sa/{name}";
        let account = "system:serviceaccount:{namespace}:{name}";
        for (pattern, text, expected) in [
            (spiffe, "spiffe://a.example/ns/shop/sa/orders", said("orders", "shop")),
            (spiffe, "spiffe://a.example/ns/shop/sa/orders/more", None),
            (spiffe, "spiffe://a.example/ns/shop/x/sa/orders", None),
            (spiffe, "spiffe://a.example/ns//sa/orders", None),
            (spiffe, "spiffe://a.example/ns/shop/sa/", None),
            (spiffe, "spiffe://a.example/ns/shop/sa/anonymous", None),
            (spiffe, "spiffe://b.example/ns/shop/sa/orders", None),
            (spiffe, "spiffe://a.example.evil/ns/shop/sa/orders", None),
            (spiffe, "xspiffe://a.example/ns/shop/sa/orders", None),
            (spiffe, "SPIFFE://a.example/ns/shop/sa/orders", None),
            (account, "system:serviceaccount:shop:orders", said("orders", "shop")),
            (account, "system:serviceaccount:shop:orders:x", None),
            (account, "system:serviceaccount:shop", None),
            ("{name}.{namespace}.svc", "orders.shop.svc", said("orders", "shop")),
            ("{name}.{namespace}.svc", "a.orders.shop.svc", None),
            ("{name}.{namespace}.svc", "orders.shop.svc.evil", None),
            ("team-{name}", "team-a-b", said("a-b", "")),
            ("CN={name}, O=Example", "CN=orders, O=Example", said("orders", "")),
            ("CN={name}, O=Example", "CN=orders, O=Other, O=Example", None),
            ("{name}", "spiffe://a/b:c", said("spiffe://a/b:c", "")),
            ("{name}", "", None),
            ("{name}", "a\nb", None),
            ("{name}", " a", None),
            ("{name}", "é", None),
        ] {
            assert_eq!(read(pattern, text), expected, "{pattern} {text}");
        }
        assert_eq!(read("{name}", &"x".repeat(256)).map(|(name, _)| name.len()), Some(256));
        assert_eq!(read("{name}", &"x".repeat(257)), None);
    }

    #[test]
    fn bad_patterns_are_refused() {
        for bad in [
            "",
            "a",
            "{namespace}",
            "{name}{namespace}",
            "{name}/{name}",
            "{nam}",
            "{name",
            "name}",
            "{{name}}",
            "é{name}",
        ] {
            assert!(IdentityPattern::new(bad).is_err(), "{bad}");
        }
        assert!(IdentityPattern::new(&format!("{{name}}{}", "x".repeat(506))).is_ok());
        assert!(IdentityPattern::new(&format!("{{name}}{}", "x".repeat(507))).is_err());
    }

    fn patterns() -> impl Strategy<Value = String> {
        let parts = prop::sample::select(vec!["{name}", "{namespace}", "/", ":", ".", "a", "ns/", ", O="]);
        prop::collection::vec(parts, 0..8).prop_map(|parts| parts.concat())
    }

    proptest! {
        /// What is read is all that varies: put back into the pattern it gives the text.
        #[test]
        fn nothing_of_a_text_is_lost(pattern in patterns(), text in "[a:/., O=ns]{0,20}") {
            let Ok(parsed) = IdentityPattern::new(&pattern) else { return Ok(()) };
            let Some(read) = parsed.read(&text) else { return Ok(()) };
            let namespace = read.namespace.as_deref().unwrap_or_default();
            let filled = pattern.replace("{namespace}", namespace);
            prop_assert_eq!(filled.replace("{name}", &read.name), text);
        }

        #[test]
        fn what_has_no_separators_is_found_again(name in "[a-z0-9]{1,20}", namespace in "[a-z0-9]{1,20}") {
            prop_assume!(name != "anonymous");
            for pattern in ["spiffe://t/ns/{namespace}/sa/{name}", "{name}.{namespace}.svc", "({namespace}) {name}"] {
                let text = pattern.replace("{namespace}", &namespace).replace("{name}", &name);
                prop_assert_eq!(read(pattern, &text), said(&name, &namespace));
            }
        }

        #[test]
        fn any_pattern_and_any_text_will_do(pattern in "\\PC{0,40}", text in "\\PC{0,40}") {
            if let Ok(pattern) = IdentityPattern::new(&pattern) {
                let _ = pattern.read(&text);
            }
        }
    }
}
