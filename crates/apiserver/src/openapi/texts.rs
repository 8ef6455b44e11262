//! What the documents say in words: packed by the `api-table` generator, opened only while a document is made.

use std::collections::HashMap;
use std::io::Read;

use api::{Map, Value};
use serde::Deserialize;

static PACKED: &[u8] = include_bytes!("texts.json.gz");

/// Descriptions of types, fields and parameters.
#[derive(Default, Deserialize)]
pub struct Texts {
    /// By type, then by field; the type's own under the empty name.
    definitions: HashMap<String, HashMap<String, String>>,
    /// `x-kubernetes-unions` of types.
    unions: Map<String, Value>,
    /// By the names that the published document has for them.
    parameters: Map<String, Value>,
}

impl Texts {
    /// Without the texts where they cannot be read, which a test rules out.
    pub fn open() -> Texts {
        let mut text = String::new();
        match flate2::read::GzDecoder::new(PACKED).read_to_string(&mut text) {
            Ok(_) => serde_json::from_str(&text).unwrap_or_default(),
            Err(_) => Texts::default(),
        }
    }

    /// The description of a type's field, or of the type itself where the field's name is empty.
    pub fn of(&self, definition: &str, field: &str) -> Option<&str> {
        self.definitions.get(definition)?.get(field).map(String::as_str)
    }

    pub fn union(&self, definition: &str) -> Option<&Value> {
        self.unions.get(definition)
    }

    /// The names of all parameters.
    pub fn parameters(&self) -> impl Iterator<Item = &str> {
        self.parameters.keys().map(String::as_str)
    }

    /// A parameter as OpenAPI v2 writes it.
    pub fn parameter(&self, id: &str) -> Value {
        self.parameters.get(id).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_texts_can_be_opened() {
        let texts = Texts::open();
        let pod = texts.of("io.k8s.api.core.v1.Pod", "").expect("a description");
        assert!(pod.starts_with("Pod is a collection of containers"), "{pod}");
        assert_eq!(texts.parameter("watch-XNNPZGbK")["name"], "watch");
        assert!(texts.union("io.k8s.api.core.v1.SeccompProfile").is_some());
    }
}
