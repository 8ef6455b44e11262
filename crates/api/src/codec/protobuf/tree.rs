//! What can be encoded: trees of values, and stored JSON that is read without copying its texts.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Serialize, Serializer};

use crate::Value;

/// A value of JSON's shape.
pub trait Tree: Serialize + Sized {
    /// The field of an object; none of anything else.
    fn field(&self, key: &str) -> Option<&Self>;
    /// The items of a list.
    fn items(&self) -> Option<&[Self]>;
    /// The entries of an object, in the order of their keys.
    fn entries(&self) -> Option<impl Iterator<Item = (&str, &Self)>>;
    fn text(&self) -> Option<&str>;
    fn integer(&self) -> Option<i64>;
    fn double(&self) -> Option<f64>;
    fn flag(&self) -> Option<bool>;
    fn is_null(&self) -> bool;
}

impl Tree for Value {
    fn field(&self, key: &str) -> Option<&Self> {
        self.get(key)
    }

    fn items(&self) -> Option<&[Self]> {
        self.as_array().map(Vec::as_slice)
    }

    fn entries(&self) -> Option<impl Iterator<Item = (&str, &Self)>> {
        self.as_object().map(|map| map.iter().map(|(key, value)| (key.as_str(), value)))
    }

    fn text(&self) -> Option<&str> {
        self.as_str()
    }

    fn integer(&self) -> Option<i64> {
        self.as_i64()
    }

    fn double(&self) -> Option<f64> {
        self.as_f64()
    }

    fn flag(&self) -> Option<bool> {
        self.as_bool()
    }

    fn is_null(&self) -> bool {
        Value::is_null(self)
    }
}

/// A tree that borrows its texts from the JSON that it was read from.
#[derive(Debug)]
pub enum Node<'j> {
    Null,
    Flag(bool),
    Integer(i64),
    Unsigned(u64),
    Double(f64),
    Text(Cow<'j, str>),
    List(Vec<Node<'j>>),
    /// Sorted by key.
    Object(Vec<(Cow<'j, str>, Node<'j>)>),
}

impl<'j> Node<'j> {
    /// Reads JSON that this server has written.
    pub fn read(json: &'j [u8]) -> serde_json::Result<Self> {
        let mut reader = serde_json::Deserializer::from_slice(json);
        reader.disable_recursion_limit();
        Reading.deserialize(&mut reader)
    }

    /// Sets a field of an object.
    pub fn set(&mut self, key: &'j str, value: Node<'j>) {
        if let Node::Object(fields) = self {
            match fields.binary_search_by(|(known, _)| (**known).cmp(key)) {
                Ok(at) => fields[at].1 = value,
                Err(at) => fields.insert(at, (Cow::Borrowed(key), value)),
            }
        }
    }

    pub fn field_mut(&mut self, key: &str) -> Option<&mut Self> {
        let Node::Object(fields) = self else { return None };
        let at = fields.binary_search_by(|(known, _)| (**known).cmp(key)).ok()?;
        Some(&mut fields[at].1)
    }
}

impl Tree for Node<'_> {
    fn field(&self, key: &str) -> Option<&Self> {
        let Node::Object(fields) = self else { return None };
        let at = fields.binary_search_by(|(known, _)| (**known).cmp(key)).ok()?;
        Some(&fields[at].1)
    }

    fn items(&self) -> Option<&[Self]> {
        if let Node::List(items) = self { Some(items) } else { None }
    }

    fn entries(&self) -> Option<impl Iterator<Item = (&str, &Self)>> {
        if let Node::Object(fields) = self { Some(fields.iter().map(|(key, value)| (&**key, value))) } else { None }
    }

    fn text(&self) -> Option<&str> {
        if let Node::Text(text) = self { Some(text) } else { None }
    }

    fn integer(&self) -> Option<i64> {
        if let Node::Integer(number) = self { Some(*number) } else { None }
    }

    fn double(&self) -> Option<f64> {
        match self {
            Node::Integer(number) => Some(*number as f64),
            Node::Unsigned(number) => Some(*number as f64),
            Node::Double(number) => Some(*number),
            _ => None,
        }
    }

    fn flag(&self) -> Option<bool> {
        if let Node::Flag(flag) = self { Some(*flag) } else { None }
    }

    fn is_null(&self) -> bool {
        matches!(self, Node::Null)
    }
}

impl Serialize for Node<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Node::Null => serializer.serialize_unit(),
            Node::Flag(flag) => serializer.serialize_bool(*flag),
            Node::Integer(number) => serializer.serialize_i64(*number),
            Node::Unsigned(number) => serializer.serialize_u64(*number),
            Node::Double(number) => serializer.serialize_f64(*number),
            Node::Text(text) => serializer.serialize_str(text),
            Node::List(items) => serializer.collect_seq(items),
            Node::Object(fields) => serializer.collect_map(fields.iter().map(|(key, value)| (key, value))),
        }
    }
}

struct Reading;

impl<'j> DeserializeSeed<'j> for Reading {
    type Value = Node<'j>;
    fn deserialize<D: Deserializer<'j>>(self, deserializer: D) -> Result<Node<'j>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// A key without copying it where it has no escapes.
struct Key;

impl<'j> DeserializeSeed<'j> for Key {
    type Value = Cow<'j, str>;
    fn deserialize<D: Deserializer<'j>>(self, deserializer: D) -> Result<Cow<'j, str>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'j> Visitor<'j> for Key {
    type Value = Cow<'j, str>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, text: &'j str) -> Result<Cow<'j, str>, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Cow<'j, str>, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
}

impl<'j> Visitor<'j> for Reading {
    type Value = Node<'j>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Node<'j>, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Node<'j>, E> {
        Ok(Node::Flag(flag))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Node<'j>, E> {
        Ok(Node::Integer(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Node<'j>, E> {
        Ok(i64::try_from(number).map_or(Node::Unsigned(number), Node::Integer))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Node<'j>, E> {
        Ok(Node::Double(number))
    }

    fn visit_borrowed_str<E>(self, text: &'j str) -> Result<Node<'j>, E> {
        Ok(Node::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Node<'j>, E> {
        Ok(Node::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'j>>(self, mut seq: A) -> Result<Node<'j>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(Reading)? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'j>>(self, mut map: A) -> Result<Node<'j>, A::Error> {
        let mut fields: Vec<(Cow<'j, str>, Node<'j>)> = Vec::new();
        while let Some(key) = map.next_key_seed(Key)? {
            fields.push((key, map.next_value_seed(Reading)?));
        }
        if !fields.is_sorted_by(|a, b| a.0 <= b.0) {
            fields.sort_by(|a, b| a.0.cmp(&b.0));
        }
        Ok(Node::Object(fields))
    }
}
