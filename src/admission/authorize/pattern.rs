//! A name, or many names at once: `*` stands for any characters or none, `?` for one.

use std::fmt;

/// Longest pattern, in bytes.
pub const MAX_PATTERN: usize = 1000;

/// A name or a glob. Case counts, and nothing in a name is special: `*` also stands for `/` and `.`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: Box<str>,
    is_glob: bool,
}

impl Pattern {
    /// What `text` says; none for the empty text, and beyond [`MAX_PATTERN`].
    pub fn new(text: &str) -> Option<Self> {
        let good = !text.is_empty() && text.len() <= MAX_PATTERN;
        good.then(|| Self { text: text.into(), is_glob: text.contains(['*', '?']) })
    }

    /// The name, where it is one.
    pub fn exact(&self) -> Option<&str> {
        (!self.is_glob).then_some(&*self.text)
    }

    /// Whether `name` is the name, or one of those.
    pub fn fits(&self, name: &str) -> bool {
        if self.is_glob { fits_glob(&self.text, name) } else { *self.text == *name }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What an earlier `*` stands for need never be looked at again once the text up to a later one was found: the first place
/// where it was found leaves most for the rest. So this takes at most as many steps as the one has characters times the
/// other, whatever they are.
fn fits_glob(pattern: &str, name: &str) -> bool {
    let (mut pattern, mut name) = (pattern.chars(), name.chars());
    // What follows the last `*`, and where in the name that was tried.
    let mut last = None;
    loop {
        let here = name.clone();
        match (pattern.next(), name.next()) {
            (None, None) => return true,
            (Some('*'), _) => {
                name = here;
                last = Some((pattern.clone(), name.clone()));
            }
            (Some('?'), Some(_)) => {}
            (Some(wanted), Some(found)) if wanted == found => {}
            _ => {
                let Some((after, tried)) = &mut last else { return false };
                if tried.next().is_none() {
                    return false;
                }
                (pattern, name) = (after.clone(), tried.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fits(pattern: &str, name: &str) -> bool {
        Pattern::new(pattern).unwrap().fits(name)
    }

    #[test]
    fn a_pattern_is_a_name_or_stands_for_many() {
        for (pattern, name, expected) in [
            ("orders", "orders", true),
            ("orders", "order", false),
            ("orders", "Orders", false),
            ("*", "", true),
            ("*", "a/b.c", true),
            ("?", "", false),
            ("?", "ü", true),
            ("team-*", "team-", true),
            ("team-*", "team", false),
            ("*-prod", "a-prod-prod", true),
            ("*-prod", "a-prod-test", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("**", "x", true),
            ("*?", "", false),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn a_pattern_has_a_length() {
        assert!(Pattern::new("").is_none() && Pattern::new(&"a".repeat(MAX_PATTERN + 1)).is_none());
        assert!(Pattern::new(&"a".repeat(MAX_PATTERN)).is_some());
    }

    /// Tried one way after the other, this would not end in a lifetime.
    #[test]
    fn many_stars_take_no_more_time_than_one() {
        let pattern = "*a".repeat(300) + "b";
        assert!(!fits(&pattern, &"a".repeat(10_000)));
    }

    /// The definition.
    fn naive(pattern: &[char], name: &[char]) -> bool {
        match (pattern, name) {
            ([], []) => true,
            (['*', rest @ ..], _) => (0..=name.len()).any(|taken| naive(rest, &name[taken..])),
            (['?', rest @ ..], [_, others @ ..]) => naive(rest, others),
            ([wanted, rest @ ..], [found, others @ ..]) => wanted == found && naive(rest, others),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn a_name_fits_as_by_the_definition(pattern in "[ab*?ü]{1,8}", name in "[abü]{0,10}") {
            let (chars, of): (Vec<_>, Vec<_>) = (pattern.chars().collect(), name.chars().collect());
            prop_assert_eq!(fits(&pattern, &name), naive(&chars, &of));
        }

        #[test]
        fn every_name_fits_itself_and_a_star(name in ".{1,50}") {
            prop_assert!(fits(&name, &name) && fits("*", &name));
        }
    }
}
