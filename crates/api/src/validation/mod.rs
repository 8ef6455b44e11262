//! Validation: field paths and errors in upstream's wording, and the syntaxes that many kinds share.

pub mod conditions;
pub mod cron;
pub mod domains;
pub mod labels;
pub mod metadata;
pub mod names;
pub mod net;
pub mod path;

use std::fmt::Display;

use serde_json::Value;

pub use conditions::conditions;
pub use labels::label_selector;
pub use metadata::{object_meta, object_meta_update};
pub use names::NameRule;
pub use path::Path;

use crate::kinds::access::{at, list};
use crate::status::{Cause, Details, Reason, Status, qualified};

/// Upstream's words for a field that may not change.
pub const IMMUTABLE: &str = "field is immutable";

/// Upstream's words for a number below zero.
pub const NOT_NEGATIVE: &str = "must be greater than or equal to 0";

/// Field errors collected while an object is validated. Fields are paths as `spec.containers[0].name`.
#[derive(Debug, Default)]
pub struct Errors {
    causes: Vec<Cause>,
}

/// A rejected value as an error shows it: texts quoted, numbers and flags plain, the rest as JSON.
pub struct Bad(String);

impl From<&str> for Bad {
    fn from(text: &str) -> Self {
        Bad(format!("{text:?}"))
    }
}

impl From<i64> for Bad {
    fn from(number: i64) -> Self {
        Bad(number.to_string())
    }
}

impl From<&Value> for Bad {
    fn from(value: &Value) -> Self {
        match value {
            Value::Null => Bad("null".to_owned()),
            Value::String(text) => Bad::from(text.as_str()),
            other => Bad(other.to_string()),
        }
    }
}

impl Errors {
    pub fn is_empty(&self) -> bool {
        self.causes.is_empty()
    }

    /// The errors so far.
    pub fn causes(&self) -> &[Cause] {
        &self.causes
    }

    /// Adds an error. `reason` is upstream's cause type (`FieldValueInvalid`), `message` its whole text without the path.
    pub fn push(&mut self, reason: &str, field: &str, message: String) {
        self.causes.push(Cause { reason: reason.to_owned(), message, field: field.to_owned() });
    }

    fn add(&mut self, reason: &str, field: impl Display, what: &str, value: Option<Bad>, detail: impl Display) {
        let mut message = what.to_owned();
        if let Some(Bad(value)) = value {
            message = format!("{message}: {value}");
        }
        let detail = detail.to_string();
        if !detail.is_empty() {
            message = format!("{message}: {detail}");
        }
        self.push(reason, &field.to_string(), message);
    }

    /// `Invalid value: "x": why`.
    pub fn invalid(&mut self, field: impl Display, value: impl Into<Bad>, detail: impl Display) {
        self.add("FieldValueInvalid", field, "Invalid value", Some(value.into()), detail);
    }

    /// `Invalid value: why`: what is there is not shown.
    pub fn invalid_as_a_whole(&mut self, field: impl Display, detail: impl Display) {
        self.add("FieldValueInvalid", field, "Invalid value", None, detail);
    }

    /// `Required value: why`; the reason may be empty.
    pub fn required(&mut self, field: impl Display, detail: impl Display) {
        self.add("FieldValueRequired", field, "Required value", None, detail);
    }

    /// `Unsupported value: "x": supported values: "a", "b"`.
    pub fn not_supported(&mut self, field: impl Display, value: impl Into<Bad>, supported: &[&str]) {
        let quoted: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        let detail = if quoted.is_empty() { String::new() } else { format!("supported values: {}", quoted.join(", ")) };
        self.add("FieldValueNotSupported", field, "Unsupported value", Some(value.into()), detail);
    }

    /// `Forbidden: why`.
    pub fn forbidden(&mut self, field: impl Display, detail: impl Display) {
        self.add("FieldValueForbidden", field, "Forbidden", None, detail);
    }

    /// `Duplicate value: "x"`.
    pub fn duplicate(&mut self, field: impl Display, value: impl Into<Bad>) {
        self.add("FieldValueDuplicate", field, "Duplicate value", Some(value.into()), "");
    }

    /// `Not found: "x"`: the value refers to something that is not there.
    pub fn not_found(&mut self, field: impl Display, value: impl Into<Bad>) {
        self.add("FieldValueNotFound", field, "Not found", Some(value.into()), "");
    }

    /// `Too long: may not be more than N bytes`.
    pub fn too_long(&mut self, field: impl Display, max: usize) {
        self.add("FieldValueTooLong", field, "Too long", None, format!("may not be more than {max} bytes"));
    }

    /// `Too many: 5: must have at most 3 items`.
    pub fn too_many(&mut self, field: impl Display, actual: usize, max: usize) {
        let detail = format!("must have at most {max} item{}", if max == 1 { "" } else { "s" });
        self.add("FieldValueTooMany", field, "Too many", Some(Bad(actual.to_string())), detail);
    }

    /// One `Invalid value` for each message.
    pub fn all_invalid(&mut self, field: impl Display, value: &str, messages: Vec<String>) {
        for message in messages {
            self.invalid(&field, value, message);
        }
    }

    /// The text must be one of those given; `Required value` where it is absent or empty.
    pub fn one_of(&mut self, field: impl Display, value: &Value, supported: &[&str]) {
        match value.as_str() {
            None | Some("") => self.required(field, ""),
            Some(text) if supported.contains(&text) => {}
            Some(text) => self.not_supported(field, text, supported),
        }
    }

    /// As [`Errors::one_of`], and what is absent or empty is not supported either.
    pub fn one_of_supported(&mut self, field: impl Display, value: &Value, supported: &[&str]) {
        let text = value.as_str().unwrap_or_default();
        if !supported.contains(&text) {
            self.not_supported(field, text, supported);
        }
    }

    /// As [`Errors::one_of`], and absent is fine.
    pub fn one_of_if_set(&mut self, field: impl Display, value: &Value, supported: &[&str]) {
        if let Some(text) = value.as_str()
            && !supported.contains(&text)
        {
            self.not_supported(field, text, supported);
        }
    }

    /// The number, if there, may not be negative.
    pub fn not_negative(&mut self, field: impl Display, value: &Value) {
        self.at_least(field, value, 0);
    }

    /// The number, if there, may not be below the least.
    pub fn at_least(&mut self, field: impl Display, value: &Value, least: i64) {
        if let Some(number) = value.as_i64()
            && number < least
        {
            self.invalid(field, number, format!("must be greater than or equal to {least}"));
        }
    }

    /// The field at the dotted path must be what it was.
    pub fn immutable(&mut self, old: &Value, new: &Value, path: &str) {
        let (was, is) = (at(old, path), at(new, path));
        if was != is {
            self.invalid(path, is, IMMUTABLE);
        }
    }

    /// The items of a list must differ in what `key` says of them; `field` is the list's path.
    pub fn unique<'v>(&mut self, object: &'v Value, name: &str, parent: &Path, key: impl Fn(&'v Value) -> &'v str) {
        let items = list(object, name);
        for (index, item) in items.iter().enumerate() {
            let this = key(item);
            if !this.is_empty() && items[..index].iter().any(|other| key(other) == this) {
                self.duplicate(parent.child(name).index(index), this);
            }
        }
    }

    /// Every field of the object but its metadata and status must be what it was.
    pub fn immutable_except(&mut self, old: &Value, new: &Value, changeable: &[&str]) {
        for (field, value) in new.as_object().into_iter().flatten() {
            let generic = matches!(field.as_str(), "metadata" | "status" | "apiVersion" | "kind");
            if !generic && !changeable.contains(&field.as_str()) && old.get(field) != Some(value) {
                self.invalid(field, value, IMMUTABLE);
            }
        }
        for (field, _) in old.as_object().into_iter().flatten() {
            let generic = matches!(field.as_str(), "metadata" | "status" | "apiVersion" | "kind");
            if !generic && !changeable.contains(&field.as_str()) && new.get(field).is_none() {
                self.invalid(field, &Value::Null, IMMUTABLE);
            }
        }
    }

    /// The `Invalid` status for the object, or `Ok` where there are no errors.
    pub fn into_result(self, group: &str, kind: &str, name: &str) -> Result<(), Status> {
        if self.causes.is_empty() {
            return Ok(());
        }
        let mut texts: Vec<String> = Vec::new();
        for cause in &self.causes {
            let text = format!("{}: {}", cause.field, cause.message);
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
        let list = if texts.len() == 1 { texts.remove(0) } else { format!("[{}]", texts.join(", ")) };
        let message = format!("{} {name:?} is invalid: {list}", qualified(group, kind));
        let details = Details {
            name: name.to_owned(),
            group: group.to_owned(),
            kind: kind.to_owned(),
            causes: self.causes,
            ..Details::default()
        };
        Err(Status { details: Some(Box::new(details)), ..Status::new(Reason::Invalid, message) })
    }
}

/// The data of an object that was marked `immutable`, which is for good.
pub fn frozen(old: &Value, new: &Value, fields: &[&str], errors: &mut Errors) {
    if at(old, "immutable") != &Value::Bool(true) {
        return;
    }
    for field in ["immutable"].iter().chain(fields) {
        if at(old, field) != at(new, field) {
            errors.forbidden(field, "field is immutable when `immutable` is set");
        }
    }
}

/// A number that is not negative, or a percentage up to 100. Answers the number, of whichever kind.
pub fn percent_or_number(value: &Value, path: &Path, errors: &mut Errors) -> Option<i64> {
    match value {
        Value::String(text) => {
            let messages = names::percent(text);
            if !messages.is_empty() {
                errors.all_invalid(path, text, messages);
                return None;
            }
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(i64::MAX);
            if percent > 100 {
                errors.invalid(path, value, "must not be greater than 100%");
            }
            Some(percent)
        }
        Value::Null => None,
        other => {
            errors.not_negative(path, other);
            other.as_i64()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn errors_read_as_upstreams() {
        let mut errors = Errors::default();
        errors.invalid("spec.replicas", -1, NOT_NEGATIVE);
        errors.required("spec.selector", "");
        errors.not_supported("spec.type", "x", &["a", "b"]);
        errors.invalid("spec.x", &json!({"a": 1}), IMMUTABLE);
        errors.too_many("spec.y", 5, 3);
        let texts: Vec<&str> = errors.causes().iter().map(|c| c.message.as_str()).collect();
        assert_eq!(
            texts,
            [
                "Invalid value: -1: must be greater than or equal to 0",
                "Required value",
                "Unsupported value: \"x\": supported values: \"a\", \"b\"",
                "Invalid value: {\"a\":1}: field is immutable",
                "Too many: 5: must have at most 3 items",
            ]
        );
        let status = errors.into_result("apps", "Deployment", "web").expect_err("errors");
        assert!(status.message.starts_with("Deployment.apps \"web\" is invalid: [spec.replicas: Invalid value: -1"));
    }
}
