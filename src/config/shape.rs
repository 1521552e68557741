//! The shapes of the file that serde does not derive: mappings that keep their order, and two ways to write one thing.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{self, Deserializer, Visitor};

use super::file::{AllowKeys, DiscoverKeys};
use super::value::{AllowedUrl, Checked, Kind, Url};
use crate::nexus::BaseUrl;

/// A mapping with keys of the user's choice, in the order of the file.
pub(super) struct Named<T>(pub(super) Vec<(String, Option<T>)>);

/// `url: X` or `url: [X, Y]`.
#[derive(JsonSchema)]
#[serde(untagged)]
pub(super) enum Urls {
    One(Checked<Url>),
    Several(Vec<Option<Checked<Url>>>),
}

/// `discover: true` or `discover: { every: 5s }`.
#[derive(JsonSchema)]
#[serde(untagged)]
pub(super) enum Discover {
    Switch(bool),
    Keys(DiscoverKeys),
}

/// `http://HOST:PORT` or `{ url: http://HOST:PORT, private: true }`.
#[derive(JsonSchema)]
#[serde(untagged)]
pub(super) enum Allow {
    Url(Checked<AllowedUrl>),
    Keys(AllowKeys),
}

impl Urls {
    /// Each with its number where it stands in a list; an empty item has no URL.
    pub(super) fn into_vec(self) -> Vec<(Option<usize>, Option<BaseUrl>)> {
        match self {
            Self::One(url) => vec![(None, Some(url.0))],
            Self::Several(urls) => {
                urls.into_iter().enumerate().map(|(index, url)| (Some(index), url.map(|url| url.0))).collect()
            }
        }
    }
}

/// `audience: X` or `audience: [X, Y]`.
pub(super) struct OneOrMore<K: Kind>(pub(super) Vec<Option<Checked<K>>>);

impl<'de, K: Kind> Deserialize<'de> for OneOrMore<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OneOrMoreVisitor(PhantomData::<K>)).map(Self)
    }
}

struct OneOrMoreVisitor<K>(PhantomData<K>);

impl<'de, K: Kind> Visitor<'de> for OneOrMoreVisitor<K> {
    type Value = Vec<Option<Checked<K>>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, or a list of them,", K::EXPECTED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        K::from_text(text).map(|value| vec![Some(Checked(value))]).map_err(E::custom)
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(list))
    }
}

impl<K: Kind> JsonSchema for OneOrMore<K> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("OneOrMore{}", K::EXPECTED).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = Checked::<K>::json_schema(generator);
        json_schema!({ "anyOf": [one, { "type": "array", "items": one }] })
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(NamedVisitor(PhantomData))
    }
}

struct NamedVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for NamedVisitor<T> {
    type Value = Named<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping of names, each with its own keys below,")
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Named<T>, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Named(entries))
    }
}

impl<T: JsonSchema> JsonSchema for Named<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Named{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        BTreeMap::<String, Option<T>>::json_schema(generator)
    }
}

impl<'de> Deserialize<'de> for Urls {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UrlsVisitor)
    }
}

struct UrlsVisitor;

impl<'de> Visitor<'de> for UrlsVisitor {
    type Value = Urls;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, or a list of them,", Url::EXPECTED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Urls, E> {
        Url::from_text(text).map(|url| Urls::One(Checked(url))).map_err(E::custom)
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, list: A) -> Result<Urls, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(list)).map(Urls::Several)
    }
}

/// `retry: off` or `retry: { attempts: 3 }`.
pub(super) enum Toggled<T> {
    Off,
    Keys(T),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Toggled<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ToggledVisitor(PhantomData))
    }
}

struct ToggledVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ToggledVisitor<T> {
    type Value = Toggled<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`off` or a mapping of keys")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Toggled<T>, E> {
        if text == "off" { Ok(Toggled::Off) } else { Err(E::invalid_type(de::Unexpected::Str(text), &self)) }
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Toggled<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Toggled::Keys)
    }
}

impl<T: JsonSchema> JsonSchema for Toggled<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Toggled{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "const": "off" }, generator.subschema_for::<T>()] })
    }
}

/// `park: off`, `park: on` or `park: { max: 1000 }`; also `false` and `true`.
pub(super) struct Switched<T>(pub(super) Option<T>);

impl<'de, T: Default + Deserialize<'de>> Deserialize<'de> for Switched<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SwitchedVisitor(PhantomData)).map(Self)
    }
}

struct SwitchedVisitor<T>(PhantomData<T>);

impl<'de, T: Default + Deserialize<'de>> Visitor<'de> for SwitchedVisitor<T> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`on`, `off` or a mapping of keys")
    }

    fn visit_bool<E: de::Error>(self, on: bool) -> Result<Option<T>, E> {
        Ok(on.then(T::default))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Option<T>, E> {
        match text {
            "on" => Ok(Some(T::default())),
            "off" => Ok(None),
            _ => Err(E::invalid_type(de::Unexpected::Str(text), &self)),
        }
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Option<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Some)
    }
}

impl<T: JsonSchema> JsonSchema for Switched<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Switched{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "enum": ["on", "off", true, false] }, generator.subschema_for::<T>()] })
    }
}

impl<'de> Deserialize<'de> for Discover {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DiscoverVisitor)
    }
}

struct DiscoverVisitor;

impl<'de> Visitor<'de> for DiscoverVisitor {
    type Value = Discover;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`true`, `false` or a mapping such as `{ every: 5s }`")
    }

    fn visit_bool<E: de::Error>(self, on: bool) -> Result<Discover, E> {
        Ok(Discover::Switch(on))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Discover, A::Error> {
        DiscoverKeys::deserialize(MapAccessDeserializer::new(map)).map(Discover::Keys)
    }
}

impl<'de> Deserialize<'de> for Allow {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AllowVisitor)
    }
}

struct AllowVisitor;

impl<'de> Visitor<'de> for AllowVisitor {
    type Value = Allow;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, or a mapping of `url`, `private` and `tls`,", AllowedUrl::EXPECTED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Allow, E> {
        AllowedUrl::from_text(text).map(|url| Allow::Url(Checked(url))).map_err(E::custom)
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Allow, A::Error> {
        AllowKeys::deserialize(MapAccessDeserializer::new(map)).map(Allow::Keys)
    }
}
