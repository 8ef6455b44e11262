//! JSON in. (JSON out is `serde_json`.)

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::map::Entry;

use super::{DecodeError, Decoded, MAX_DEPTH};
use crate::schema::{MAX_STRICT_ERRORS, Path};
use crate::{Map, Value};

/// Decodes one JSON value that nests at most [`MAX_DEPTH`] deep. Of a key given twice the last value counts.
pub fn decode(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    reader.disable_recursion_limit();
    let mut duplicates = Vec::new();
    let tree = Tree { path: Path::ROOT, depth: 0, duplicates: &mut duplicates }.deserialize(&mut reader);
    match tree.and_then(|value| reader.end().map(|()| value)) {
        Ok(value) => Ok(Decoded { value, duplicates }),
        // Go's words where clients know them.
        Err(error) if error.is_eof() => Err(DecodeError("unexpected end of JSON input".to_owned())),
        Err(error) => Err(DecodeError(error.to_string())),
    }
}

/// One value on its way in, with where it is.
pub(super) struct Tree<'a> {
    pub path: Path<'a>,
    pub depth: usize,
    pub duplicates: &'a mut Vec<String>,
}

impl Tree<'_> {
    fn deeper<E: Error>(&self) -> Result<usize, E> {
        if self.depth < MAX_DEPTH { Ok(self.depth + 1) } else { Err(E::custom("exceeded max depth")) }
    }
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let depth = self.deeper()?;
        let mut list = Vec::new();
        loop {
            let path = self.path.index(list.len());
            match items.next_element_seed(Tree { path, depth, duplicates: self.duplicates })? {
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let depth = self.deeper()?;
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let path = self.path.key(&key);
            let value = entries.next_value_seed(Tree { path, depth, duplicates: self.duplicates })?;
            match map.entry(key) {
                Entry::Vacant(entry) => {
                    entry.insert(value);
                }
                Entry::Occupied(mut entry) => {
                    if self.duplicates.len() < MAX_STRICT_ERRORS {
                        self.duplicates.push(format!("duplicate field \"{}\"", self.path.key(entry.key())));
                    }
                    entry.insert(value);
                }
            }
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn duplicate_fields_are_named_with_their_paths_and_the_last_one_counts() {
        let text = br#"{"spec":{"replicas":1,"containers":[{"name":"a"},{"name":"b","name":"c"}],"replicas":2}}"#;
        let decoded = decode(text).expect("valid");
        assert_eq!(decoded.value, json!({"spec": {"replicas": 2, "containers": [{"name": "a"}, {"name": "c"}]}}));
        assert_eq!(
            decoded.duplicates,
            ["duplicate field \"spec.containers[1].name\"", "duplicate field \"spec.replicas\""]
        );
    }

    #[test]
    fn numbers_keep_their_value() {
        let decoded =
            decode(b"[9223372036854775807,-9223372036854775808,18446744073709551615,1e3,0.5]").expect("valid");
        assert_eq!(decoded.value, json!([i64::MAX, i64::MIN, u64::MAX, 1000.0, 0.5]));
    }

    #[test]
    fn bad_input_is_an_error_and_never_a_panic() {
        let deep = "[".repeat(100_000);
        let closed = format!("{}{}", "[".repeat(MAX_DEPTH + 1), "]".repeat(MAX_DEPTH + 1));
        for text in ["", "{", "{\"a\":1}x", "nul", "{\"a\" 1}", "[1,]", "\"\\ud800\"", &deep, &closed] {
            assert!(decode(text.as_bytes()).is_err(), "{}", &text[..text.len().min(20)]);
        }
        assert!(decode(b"\"\xff\"").is_err());
        assert_eq!(decode(b"{\"a\":").expect_err("cut off").0, "unexpected end of JSON input");
        let fits = format!("{}{}", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH));
        assert!(decode(fits.as_bytes()).is_ok());
    }
}
