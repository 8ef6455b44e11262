//! What a plugin is told of the request that it admits, beside the objects.

use api::{Status, Value};
use client::Identity;
use parking_lot::Mutex;

use crate::rest::Call;

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    /// A stream to a pod, or a request through a proxy.
    Connect,
}

impl Operation {
    /// As upstream's messages and webhooks spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        }
    }
}

/// The request that is admitted. The objects are given beside it: `old` and `object`, which is the options of a stream, and nothing
/// that may be changed for a delete.
pub struct Attributes<'c> {
    pub call: &'c Call,
    pub operation: Operation,
    pub subresource: &'c str,
    warnings: Mutex<Vec<String>>,
}

impl<'c> Attributes<'c> {
    pub fn new(call: &'c Call, operation: Operation, subresource: &'c str) -> Self {
        Attributes { call, operation, subresource, warnings: Mutex::default() }
    }

    /// Who asks.
    pub fn user(&self) -> &Identity {
        &self.call.user
    }

    pub fn namespace(&self) -> &str {
        &self.call.info.namespace
    }

    /// The path's name, or where it has none the object's.
    pub fn name<'o>(&'o self, object: &'o Value) -> &'o str {
        let text = |field: &str| object["metadata"][field].as_str().filter(|text| !text.is_empty());
        let own = Some(self.call.info.name.as_str()).filter(|name| !name.is_empty());
        own.or(text("name")).or(text("generateName")).unwrap_or("Unknown")
    }

    /// Group, version and kind of the object that is sent: of a subresource its own.
    pub fn kind(&self) -> (&str, &str, &str) {
        let kind = &*self.call.kind;
        match kind.subresource(self.subresource) {
            Some(sub) if !sub.version.is_empty() => (&sub.group, &sub.version, &sub.kind),
            Some(sub) => (&kind.group, &kind.version, &sub.kind),
            None => (&kind.group, &kind.version, &kind.kind),
        }
    }

    /// Notes a text for a `Warning` header.
    pub fn warn(&self, text: String) {
        self.warnings.lock().push(text);
    }

    /// What the plugins have noted so far.
    pub fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut *self.warnings.lock())
    }

    /// Whether it is about the main resource of that group and plural.
    pub fn is(&self, group: &str, plural: &str) -> bool {
        self.is_of(group, plural, "")
    }

    /// Whether it is about that subresource.
    pub fn is_of(&self, group: &str, plural: &str, subresource: &str) -> bool {
        self.call.kind.group == group && self.call.kind.plural == plural && self.subresource == subresource
    }

    /// The 403 of a plugin that refuses.
    pub fn forbidden(&self, object: &Value, why: impl std::fmt::Display) -> Status {
        let kind = &self.call.kind;
        Status::forbidden(&kind.group, &kind.plural, self.name(object), &why.to_string())
    }
}
