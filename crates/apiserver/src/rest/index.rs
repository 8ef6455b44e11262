//! What selectors and tokens want to know of a stored object, picked out of its bytes without making a tree of it.

use std::fmt;

use api::kind::{Kind, Text};
use api::{Map, Value};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use store::Entry;

use crate::clock;

/// Labels and selectable fields of one revision of an object. Kept in the entry's memo.
#[derive(Debug, Default)]
pub struct Index {
    pub labels: Option<Map<String, Value>>,
    /// In the order of the stored kind's `selectable`.
    pub fields: Vec<String>,
}

/// The index of an entry; made once a revision.
pub fn index<'e>(entry: &'e Entry, stored: &Kind) -> &'e Index {
    entry.memo(|entry| {
        let first = stored.selectable.iter().map(|s| s.path.as_ref());
        let otherwise = stored.selectable.iter().map(|s| s.otherwise.as_ref()).filter(|path| !path.is_empty());
        let paths: Vec<&[Text]> = first.chain(otherwise).collect();
        let mut picked = Picked { fields: vec![None; paths.len()], labels: None };
        pick(&entry.value, &paths, true, &mut picked);
        let mut others = picked.fields.split_off(stored.selectable.len()).into_iter();
        let fields = picked.fields.into_iter().zip(stored.selectable.iter()).map(|(field, selectable)| {
            let other = if selectable.otherwise.is_empty() { None } else { others.next().flatten() };
            field.filter(|text| !text.is_empty()).or(other).unwrap_or_else(|| selectable.default.to_string())
        });
        Index { labels: picked.labels, fields: fields.collect() }
    })
}

/// A few facts of an object's metadata.
#[derive(Debug, Default)]
pub struct Meta([Option<String>; 2]);

impl Meta {
    pub fn uid(&self) -> &str {
        self.0[0].as_deref().unwrap_or("")
    }

    /// When the object was asked to go, in seconds since 1970.
    pub fn deleted(&self) -> Option<i64> {
        self.0[1].as_deref().and_then(clock::parse)
    }
}

/// Reads uid and deletion time.
pub fn meta(stored: &[u8]) -> Meta {
    const UID: &[Text] = &[Text::Borrowed("metadata"), Text::Borrowed("uid")];
    const DELETED: &[Text] = &[Text::Borrowed("metadata"), Text::Borrowed("deletionTimestamp")];
    let mut picked = Picked { fields: vec![None; 2], labels: None };
    pick(stored, &[UID, DELETED], false, &mut picked);
    let mut fields = picked.fields.into_iter();
    Meta([fields.next().flatten(), fields.next().flatten()])
}

struct Picked {
    fields: Vec<Option<String>>,
    labels: Option<Map<String, Value>>,
}

/// Fills in what is found; damaged bytes give what came before the damage.
fn pick(stored: &[u8], paths: &[&[Text]], labels: bool, picked: &mut Picked) {
    let wanted: Vec<(usize, &[Text])> = paths.iter().copied().enumerate().collect();
    let labels = if labels { Labels::Below(0) } else { Labels::No };
    let mut deserializer = serde_json::Deserializer::from_slice(stored);
    let _ = Pick { wanted, labels, picked }.deserialize(&mut deserializer);
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Labels {
    No,
    /// `metadata.labels` lies below; this is the depth.
    Below(u8),
}

/// Visits one value below which something is wanted.
struct Pick<'p> {
    wanted: Vec<(usize, &'p [Text])>,
    labels: Labels,
    picked: &'p mut Picked,
}

impl<'de> DeserializeSeed<'de> for Pick<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Pick<'_> {
    /// A scalar: every path that ends here gets it.
    fn scalar(self, text: impl fmt::Display) {
        for (index, path) in self.wanted {
            if path.is_empty() {
                self.picked.fields[index] = Some(text.to_string());
            }
        }
    }
}

impl<'de> Visitor<'de> for Pick<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.scalar(value);
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.scalar(value);
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.scalar(value);
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.scalar(value);
        Ok(())
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        self.scalar(value);
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<std::borrow::Cow<str>>()? {
            let wanted: Vec<_> = self
                .wanted
                .iter()
                .filter_map(|(index, path)| {
                    path.split_first().filter(|(first, _)| **first == *key).map(|(_, p)| (*index, p))
                })
                .collect();
            let labels = match self.labels {
                Labels::Below(0) if key == "metadata" => Labels::Below(1),
                Labels::Below(1) if key == "labels" => {
                    self.picked.labels = map.next_value()?;
                    continue;
                }
                _ => Labels::No,
            };
            if wanted.is_empty() && labels == Labels::No {
                map.next_value::<IgnoredAny>()?;
            } else {
                map.next_value_seed(Pick { wanted, labels, picked: self.picked })?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_fields_are_picked_out_of_stored_bytes() {
        let bytes = br#"{"kind":"Pod","metadata":{"labels":{"a":"b"},"uid":"u","x":[1,{"y":2}]},
            "spec":{"nodeName":"n\"1","hostNetwork":true,"deep":{"er":{}}},"status":{"n":3}}"#;
        let paths: Vec<Vec<Text>> = ["spec.nodeName", "spec.hostNetwork", "status.n", "status.absent"]
            .iter()
            .map(|p| p.split('.').map(Text::Borrowed).collect())
            .collect();
        let paths: Vec<&[Text]> = paths.iter().map(Vec::as_slice).collect();
        let mut picked = Picked { fields: vec![None; 4], labels: None };
        pick(bytes, &paths, true, &mut picked);
        let fields: Vec<_> = picked.fields.iter().map(Option::as_deref).collect();
        assert_eq!(fields, [Some("n\"1"), Some("true"), Some("3"), None]);
        assert_eq!(picked.labels.and_then(|l| l.get("a").cloned()), Some(Value::from("b")));
        assert_eq!(meta(bytes).uid(), "u");
    }
}
