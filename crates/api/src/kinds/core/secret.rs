//! `v1 Secret`.

use serde_json::{Map, Value};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::configmap::DATA_MAX;
use crate::kind::{Kind, Strategy};
use crate::kinds::access::{at, entries, fill_text, remove, section, text};
use crate::kinds::builder::Builder;
use crate::print::{self, AGE, Cell, NAME};
use crate::validation::{Errors, Path, frozen, names};

pub fn kind() -> Kind {
    Builder::new("", "v1", "Secret", "secrets")
        .namespaced()
        .selectable(&["type"])
        .columns(COLUMNS)
        .strategy(Secret)
        .build()
}

const COLUMNS: &[Cell] =
    &[NAME, Cell::text("Type", "type"), Cell::made("Data", |o| entries(o, "data").count().into()), AGE];

const ACCOUNT: &str = "kubernetes.io/service-account.name";

/// Types and the keys that they must have.
const KEYS: &[(&str, &[&str])] = &[
    ("kubernetes.io/dockercfg", &[".dockercfg"]),
    ("kubernetes.io/dockerconfigjson", &[".dockerconfigjson"]),
    ("kubernetes.io/ssh-auth", &["ssh-privatekey"]),
    ("kubernetes.io/tls", &["tls.crt", "tls.key"]),
];

struct Secret;

impl Strategy for Secret {
    /// `stringData` is a way to write `data` and is never read back.
    fn default(&self, object: &mut Value) {
        fill_text(object, "type", "Opaque");
        let Some(Value::Object(texts)) = remove(object, "stringData") else { return };
        if let Some(data) = section(object, "data") {
            let encode = |text: Value| Value::from(STANDARD.encode(text.as_str().unwrap_or_default()));
            data.extend(texts.into_iter().map(|(key, text)| (key, encode(text))));
        }
    }

    fn validate(&self, object: &Value, errors: &mut Errors) {
        let path = Path::new("data");
        let data = at(object, "data");
        let mut size = 0;
        for (key, value) in entries(object, "data") {
            errors.all_invalid(path.key(key), key, names::config_key(key));
            size += value.as_str().map_or(0, str::len) / 4 * 3;
        }
        if size > DATA_MAX {
            errors.too_long(path, DATA_MAX);
        }
        let kind = text(object, "type");
        for key in KEYS.iter().filter(|(name, _)| *name == kind).flat_map(|(_, keys)| *keys) {
            match data.get(key).and_then(Value::as_str) {
                None => errors.required(path.key(key), ""),
                Some(value) if key.starts_with(".docker") => {
                    let bytes = STANDARD.decode(value).unwrap_or_default();
                    if let Err(why) = serde_json::from_slice::<Map<String, Value>>(&bytes) {
                        errors.invalid(path.key(key), "<secret contents redacted>", why);
                    }
                }
                Some(_) => {}
            }
        }
        match kind {
            "kubernetes.io/service-account-token" => {
                let name = at(object, "metadata.annotations").get(ACCOUNT).and_then(Value::as_str);
                if name.is_none_or(str::is_empty) {
                    errors.required(Path::new("metadata").child("annotations").key(ACCOUNT), "");
                }
            }
            "kubernetes.io/basic-auth" if ["username", "password"].iter().all(|key| data.get(key).is_none()) => {
                errors.required(path.key("username"), "");
                errors.required(path.key("password"), "");
            }
            _ => {}
        }
    }

    fn validate_update(&self, old: &Value, new: &Value, errors: &mut Errors) {
        errors.immutable(old, new, "type");
        frozen(old, new, &["data"], errors);
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn string_data_becomes_data() {
        let mut secret = json!({"data": {"a": "eA=="}, "stringData": {"a": "y", "b": "z"}});
        Secret.default(&mut secret);
        assert_eq!(secret, json!({"type": "Opaque", "data": {"a": "eQ==", "b": "eg=="}}));
    }
}
