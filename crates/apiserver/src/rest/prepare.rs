//! What happens to every object on its way to the store: defaults, admission, the strategy's preparation, system fields,
//! validation and field ownership.

use api::apply::{self, Ctx};
use api::kind::Context;
use api::validation::Errors;
use api::validation::metadata::managed_fields;
use api::{Status, Value};
use rand::Rng;

use super::Call;
use super::metadata::{keep, set, text};
use crate::admission::{Attributes, Operation};
use crate::clock;

/// What makes the new object of the old one: the whole of the write's own logic.
pub struct Change<'c> {
    pub call: &'c Call,
    pub subresource: &'c str,
    pub now: String,
    /// Managed fields were already made, by apply.
    pub tracked: bool,
    /// How admission sees the object, where that is not as it is.
    pub shown: Option<&'static Shown>,
}

/// A subresource of another kind that is a part of the object: `scale`. Admission is shown that kind.
pub struct Shown {
    pub subresource: &'static str,
    /// The subresource's object.
    pub show: fn(&Value) -> Value,
    /// Puts what it says into the object.
    pub take: fn(&mut Value, &Value),
}

impl<'c> Change<'c> {
    pub fn new(call: &'c Call) -> Self {
        Change { call, subresource: &call.info.subresource, now: clock::now(), tracked: false, shown: None }
    }

    fn context(&self) -> Context<'_> {
        let user = &self.call.user;
        Context { now: &self.now, user: &user.name, groups: &user.groups, uid: &user.uid, extra: &user.extra }
    }

    fn attributes(&self, operation: Operation) -> Attributes<'_> {
        Attributes::new(self.call, operation, self.shown.map_or(self.subresource, |shown| shown.subresource))
    }

    /// Records who changed what.
    pub fn track(&self, old: Option<&Value>, new: &mut Value) {
        if self.tracked {
            return;
        }
        let manager = self.call.manager();
        let context = Ctx {
            schema: &self.call.kind.schema,
            api_version: &self.call.kind.api_version(),
            manager: &manager,
            subresource: self.subresource,
            now: &self.now,
        };
        apply::track_update(old, new, &context);
    }

    /// Records who made the object: its fields and their defaults, not what admission adds, nor a status that a create may
    /// not set.
    fn track_new(&self, object: &mut Value) {
        let reset = self.call.kind.subresource("status").is_some();
        let status = object.as_object_mut().filter(|_| reset).and_then(|fields| fields.remove("status"));
        self.track(None, object);
        if let (Some(fields), Some(status)) = (object.as_object_mut(), status) {
            fields.insert("status".to_owned(), status);
        }
    }

    /// Prepares a new object; it then is as it will be stored. Warnings are added to `warnings`.
    pub async fn create(&self, object: &mut Value, warnings: &mut Vec<String>) -> Result<(), Status> {
        let Call { kind, server, .. } = self.call;
        place(self.call, object)?;
        if text(object, "name").is_empty() {
            let generate = text(object, "generateName").to_owned();
            if !generate.is_empty() {
                set(object, "name", generated(&generate));
            }
        }
        for field in ["resourceVersion", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"] {
            set(object, field, Value::Null);
        }
        kind.strategy.default(object);
        let mut errors = Errors::default();
        if !self.tracked {
            managed_fields(object, &mut errors);
        }
        self.track_new(object);
        server.admission.mutate(&self.attributes(Operation::Create), None, object).await?;
        set(object, "uid", uuid::Uuid::new_v4().to_string());
        set(object, "creationTimestamp", self.now.as_str());
        kind.strategy.prepare_create(object, &self.context());
        set(object, "generation", if kind.strategy.has_generation() { Value::from(1) } else { Value::Null });
        kind.validate_create(object, &mut errors);
        errors.into_result(&kind.group, &kind.kind, text(object, "name"))?;
        safe_name(self.call, text(object, "name"))?;
        let attributes = self.attributes(Operation::Create);
        server.admission.validate(&attributes, None, object).await?;
        warnings.extend(attributes.take_warnings());
        warnings.extend(kind.strategy.warnings(None, object));
        Ok(())
    }

    /// Prepares the successor of a stored object.
    pub async fn update(&self, old: &Value, new: &mut Value, warnings: &mut Vec<String>) -> Result<(), Status> {
        let Call { kind, server, .. } = self.call;
        place(self.call, new)?;
        for field in [
            "name",
            "uid",
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "resourceVersion",
            "generateName",
        ] {
            keep(old, new, field);
        }
        set(new, "selfLink", Value::Null);
        kind.strategy.default(new);
        self.mutate(old, new).await?;
        if self.subresource.is_empty() {
            kind.strategy.prepare_update(old, new, &self.context());
        } else {
            kind.strategy.prepare_subresource_update(self.subresource, old, new, &self.context());
            if self.subresource == "status" {
                kind.strategy.kept_by_status().iter().for_each(|field| keep(old, new, field));
            }
        }
        keep(old, new, "generation");
        if kind.strategy.has_generation() && self.subresource != "status" && !self.same(old, new) {
            let generation = old["metadata"]["generation"].as_i64().unwrap_or(0);
            set(new, "generation", generation + 1);
        }
        let mut errors = Errors::default();
        if !self.tracked {
            managed_fields(new, &mut errors);
        }
        self.track(Some(old), new);
        if self.subresource.is_empty() {
            kind.validate_update(old, new, &mut errors);
        } else {
            kind.validate_subresource_update(self.subresource, old, new, &mut errors);
        }
        errors.into_result(&kind.group, &kind.kind, text(old, "name"))?;
        let attributes = self.attributes(Operation::Update);
        match self.shown {
            None => server.admission.validate(&attributes, Some(old), new).await?,
            Some(shown) => server.admission.validate(&attributes, Some(&(shown.show)(old)), &(shown.show)(new)).await?,
        }
        warnings.extend(attributes.take_warnings());
        warnings.extend(kind.strategy.warnings(Some(old), new));
        Ok(())
    }

    /// Whether nothing differs that the generation counts.
    fn same(&self, old: &Value, new: &Value) -> bool {
        let annotated = self.call.kind.strategy.annotations_count();
        same_spec(old, new) && (!annotated || same_annotations(old, new))
    }

    /// What admission changes of an update.
    async fn mutate(&self, old: &Value, new: &mut Value) -> Result<(), Status> {
        let (admission, attributes) = (&self.call.server.admission, self.attributes(Operation::Update));
        let Some(shown) = self.shown else { return admission.mutate(&attributes, Some(old), new).await };
        let mut seen = (shown.show)(new);
        admission.mutate(&attributes, Some(&(shown.show)(old)), &mut seen).await?;
        (shown.take)(new, &seen);
        Ok(())
    }
}

/// The object lies where the path says, and says so itself.
fn place(call: &Call, object: &mut Value) -> Result<(), Status> {
    if !call.kind.namespaced {
        set(object, "namespace", Value::Null);
        return Ok(());
    }
    let own = text(object, "namespace");
    if own.is_empty() {
        set(object, "namespace", call.info.namespace.as_str());
    } else if own != call.info.namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

/// A name becomes a part of a key: whatever a kind allows, this much is never.
fn safe_name(call: &Call, name: &str) -> Result<(), Status> {
    let mut errors = Errors::default();
    if name.is_empty() {
        errors.required("metadata.name", "name or generateName is required");
    } else if name == "." || name == ".." || name.contains(['/', '%']) {
        errors.invalid("metadata.name", name, "may not contain '/' or '%' and may not be '.' or '..'");
    }
    errors.into_result(&call.kind.group, &call.kind.kind, name)
}

/// Five characters that spell no words, behind the prefix, as upstream's name generator.
pub fn generated(prefix: &str) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut rng = rand::rng();
    let mut name: String = prefix.chars().take(58).collect();
    name.extend((0..5).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())])));
    name
}

fn same_annotations(old: &Value, new: &Value) -> bool {
    let of = |object: &Value| object["metadata"]["annotations"].as_object().filter(|all| !all.is_empty()).cloned();
    of(old) == of(new)
}

/// Whether nothing but metadata and status differs.
fn same_spec(old: &Value, new: &Value) -> bool {
    let (Some(old), Some(new)) = (old.as_object(), new.as_object()) else { return false };
    let counts = |key: &str| !matches!(key, "metadata" | "status" | "kind" | "apiVersion");
    let left = old.iter().filter(|(key, _)| counts(key));
    let right = new.iter().filter(|(key, _)| counts(key));
    left.eq(right)
}
