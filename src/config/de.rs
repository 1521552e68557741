//! serde over the tree, with errors that know their place.
//!
//! serde stops at the first error. To find them all, what is wrong is recorded and taken out of the tree, and the tree
//! is read again until that succeeds. So no part of the format may be mandatory here: an absent one is `None`.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{self, Deserialize, DeserializeSeed, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;

use super::problem::{Problem, did_you_mean, quoted_list};
use super::tree::{Node, Value, shown_part};

/// After so many, a reader has seen enough, and the work stays bounded.
const MAX_PROBLEMS: usize = 100;

/// Reads a `T` from the tree, without the parts that are wrong: those are reported and taken out of the tree.
pub(super) fn read<T: Default + for<'de> Deserialize<'de>>(root: &mut Node, problems: &mut Vec<Problem>) -> T {
    for _ in 0..MAX_PROBLEMS {
        match Option::<T>::deserialize(&*root) {
            Ok(value) => return value.unwrap_or_default(),
            Err(error) => {
                let Placed { mut problem, is_key } = error.place(root);
                if is_key {
                    root.remove(&problem.key);
                    problem.key = shown_part(&problem.key).map_or(problem.key.clone(), str::to_owned);
                } else {
                    root.clear(&problem.key);
                }
                problems.push(problem);
            }
        }
    }
    T::default()
}

#[derive(Debug)]
pub(super) enum Error {
    /// What is to be said after the value; the place is not known yet.
    Value(String),
    /// An unknown key, and what is to be said after it; the place is not known yet.
    Key(String, String),
    Placed(Placed),
}

#[derive(Debug)]
pub(super) struct Placed {
    problem: Problem,
    is_key: bool,
}

impl Error {
    /// The innermost node that an error passes on its way out is its place.
    fn place(self, node: &Node) -> Placed {
        let (message, is_key) = match self {
            Self::Value(message) => (format!("{} {message}", node.shown()), false),
            Self::Key(_, hint) if shown_part(&node.path).is_some() => (format!("unknown key{hint}"), true),
            Self::Key(name, hint) => (format!("unknown key `{}`{hint}", name.escape_debug()), true),
            Self::Placed(placed) => return placed,
        };
        Placed { problem: Problem::at(&node.place, &node.path, message), is_key }
    }

    fn at(self, node: &Node) -> Self {
        Self::Placed(self.place(node))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(message) => f.write_str(message),
            Self::Key(_, hint) => write!(f, "unknown key{hint}"),
            Self::Placed(placed) => placed.problem.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

/// None of these repeats the value, which may be a secret; [`Error::place`] knows whether it may be shown.
impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::Value(message.to_string())
    }

    fn invalid_type(_: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::Value(format!("stands where {expected} is expected"))
    }

    fn invalid_value(unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::invalid_type(unexpected, expected)
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let all = || format!("; write one of {}", quoted_list(expected.iter().copied()));
        let hint = did_you_mean(variant, expected.iter().copied()).unwrap_or_else(all);
        Self::Value(format!("is unknown{hint}"))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let all = || format!("; the keys here are {}", quoted_list(expected.iter().copied()));
        let hint = did_you_mean(field, expected.iter().copied()).unwrap_or_else(all);
        Self::Key(field.to_owned(), hint)
    }
}

impl<'de> de::Deserializer<'de> for &'de Node {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let visited = match &self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Integer(value) => visitor.visit_i64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Text(text) => visitor.visit_borrowed_str(text),
            Value::List(items) => visitor.visit_seq(Items(items.iter())),
            Value::Map(entries) => visitor.visit_map(Entries { rest: entries.iter(), value: None }),
        };
        visited.map_err(|error: Error| error.at(self))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if matches!(self.value, Value::Null) { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.value {
            Value::Bool(value) => visitor.visit_bool(*value),
            _ => Err(Error::Value("stands where `true` or `false` is expected".into()).at(self)),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if matches!(self.value, Value::List(_)) {
            return self.deserialize_any(visitor);
        }
        Err(Error::Value("stands where a list is expected; begin each of its items with `- `".into()).at(self))
    }

    /// Derived code would also take a list, its items in the order of the fields.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        if matches!(self.value, Value::Map(_)) {
            return self.deserialize_any(visitor);
        }
        let keys = quoted_list(fields.iter().copied());
        Err(Error::Value(format!("stands where a mapping is expected; its keys are {keys}")).at(self))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let visited = match &self.value {
            Value::Text(text) => visitor.visit_enum(IntoDeserializer::<Error>::into_deserializer(text.as_str())),
            _ => {
                Err(Error::Value(format!("stands where one of {} is expected", quoted_list(variants.iter().copied()))))
            }
        };
        visited.map_err(|error| error.at(self))
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        unit unit_struct newtype_struct tuple tuple_struct map identifier ignored_any
    }
}

struct Items<'de>(std::slice::Iter<'de, Node>);

impl<'de> de::SeqAccess<'de> for Items<'de> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        self.0.next().map(|node| seed.deserialize(node)).transpose()
    }
}

struct Entries<'de> {
    rest: std::slice::Iter<'de, (String, Node)>,
    value: Option<&'de Node>,
}

impl<'de> de::MapAccess<'de> for Entries<'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some((key, node)) = self.rest.next() else { return Ok(None) };
        self.value = Some(node);
        let key: StrDeserializer<'de, Error> = key.as_str().into_deserializer();
        seed.deserialize(key).map(Some).map_err(|error| error.at(node))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        match self.value.take() {
            Some(node) => seed.deserialize(node),
            None => Err(de::Error::custom("has no value")),
        }
    }
}
