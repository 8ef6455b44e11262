//! What the server knows of a kind: its descriptor, its strategy, and the registry of all kinds.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::schema::StructRef;
use crate::validation::{Errors, NameRule, object_meta, object_meta_update};

/// Text that is static for a built-in kind and owned for one that a custom resource definition made.
pub type Text = Cow<'static, str>;

/// A served version of a kind. Everything generic in the server is directed by it.
#[derive(Clone)]
pub struct Kind {
    /// Empty for the core group.
    pub group: Text,
    pub version: Text,
    pub kind: Text,
    /// Lower-case plural, the path's segment: `pods`.
    pub plural: Text,
    pub singular: Text,
    /// `PodList`.
    pub list_kind: Text,
    pub short_names: Cow<'static, [Text]>,
    /// `all` for kinds that `kubectl get all` lists.
    pub categories: Cow<'static, [Text]>,
    pub namespaced: bool,
    /// Discovery's verbs: create, delete, deletecollection, get, list, patch, update, watch. A kind that is only
    /// created and never stored (TokenReview, SubjectAccessReview, Binding) has just `create`.
    pub verbs: Cow<'static, [Text]>,
    pub subresources: Cow<'static, [Subresource]>,
    /// Where its objects are kept. Kinds that share it are versions or aliases of one another.
    pub storage: Storage,
    pub schema: StructRef,
    /// The table that `kubectl get` prints.
    pub columns: Cow<'static, [Column]>,
    /// Fields that a field selector may name beyond `metadata.name` and `metadata.namespace`.
    pub selectable: Cow<'static, [Selectable]>,
    pub strategy: Arc<dyn Strategy>,
}

/// The key space and the version in which objects are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
    /// As upstream's keys: `pods` for `/registry/pods/<namespace>/<name>`, `services/specs`, `leases`,
    /// `apiregistration.k8s.io/apiservices`.
    pub prefix: Text,
    /// `apiVersion` and `kind` of what is stored (`apps/v1`, `Deployment`).
    pub api_version: Text,
    pub kind: Text,
}

/// A subresource with its own path under an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subresource {
    /// `status`, `scale`, `binding`, `log`, ...
    pub name: Text,
    /// Group, version and kind of what is sent and answered, as discovery names it; the group and version are empty
    /// where they are the parent's.
    pub group: Text,
    pub version: Text,
    pub kind: Text,
    pub verbs: Cow<'static, [Text]>,
}

/// One column of a kind's table, without its cells: [`Strategy::cells`] makes those in the same order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: Text,
    /// OpenAPI type: `string`, `integer`, `date`, ...
    pub kind: Text,
    /// OpenAPI format; `name` for the name's column.
    pub format: Text,
    /// 0 is always shown, 1 with `-o wide`.
    pub priority: i32,
    pub description: Text,
}

/// A field that field selectors may name.
#[derive(Clone, Debug)]
pub struct Selectable {
    /// As the selector writes it: `spec.nodeName`.
    pub name: Text,
    /// Where the value is; normally the same path split at its dots.
    pub path: Cow<'static, [Text]>,
    /// Where the value is when there is none at `path`, as for the source of events; empty for nowhere else.
    pub otherwise: Cow<'static, [Text]>,
    /// What an absent field reads as.
    pub default: Text,
}

/// What is going on with the object, as far as a strategy wants to know.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The time now, in RFC 3339 with seconds.
    pub now: &'a str,
    /// The authenticated user's name.
    pub user: &'a str,
    /// The groups of that user.
    pub groups: &'a [String],
    /// The uid of that user, where whoever authenticated it says one.
    pub uid: &'a str,
    /// What else is known of that user.
    pub extra: &'a BTreeMap<String, Vec<String>>,
}

/// What a kind adds to the generic path. Every method has the generic behaviour as its default, so that a kind states only its
/// own. All are pure; an object already has its defaults and its metadata, the name and the uid too, when it is prepared or
/// validated (a job selects its pods by its uid).
pub trait Strategy: Send + Sync {
    /// Fills in the defaults that upstream's `SetDefaults_*` functions fill in. Must be idempotent.
    fn default(&self, _object: &mut Value) {}

    /// What a create may not set (normally `status`) is dropped; initial state is set.
    fn prepare_create(&self, object: &mut Value, _context: &Context) {
        clear_status(object);
    }

    /// What an update of the main resource may not touch (normally `status`) is put back from `old`.
    fn prepare_update(&self, old: &Value, new: &mut Value, _context: &Context) {
        keep(old, new, "status");
    }

    /// What an update of a subresource (`status` and those of the kind's own) may not touch is put back from `old`:
    /// for `status`, everything but the status and the metadata that upstream lets through.
    fn prepare_subresource_update(&self, _subresource: &str, old: &Value, new: &mut Value, _context: &Context) {
        let status = new.get("status").cloned();
        let metadata = new.get("metadata").cloned();
        *new = old.clone();
        if let (Some(map), Some(metadata)) = (new.as_object_mut(), metadata) {
            map.insert("metadata".to_owned(), metadata);
            match status {
                Some(status) => map.insert("status".to_owned(), status),
                None => map.remove("status"),
            };
        }
    }

    /// Metadata that an update of the status may not touch, as upstream's strategy of that kind puts it back.
    fn kept_by_status(&self) -> &'static [&'static str] {
        &[]
    }

    /// What the object's name must look like.
    fn name_rule(&self) -> NameRule {
        NameRule::Subdomain
    }

    /// Errors of the whole object beyond its schema's types and its metadata.
    fn validate(&self, _object: &Value, _errors: &mut Errors) {}

    /// Errors that only a new object can have. [`Strategy::validate`] is called too.
    fn validate_new(&self, _object: &Value, _errors: &mut Errors) {}

    /// Errors of a change, immutable fields above all. [`Strategy::validate`] is called too.
    fn validate_update(&self, _old: &Value, _new: &Value, _errors: &mut Errors) {}

    /// Errors of a subresource's update.
    fn validate_subresource_update(&self, _subresource: &str, _old: &Value, _new: &Value, _errors: &mut Errors) {}

    /// Texts for `Warning` headers.
    fn warnings(&self, _old: Option<&Value>, _new: &Value) -> Vec<String> {
        Vec::new()
    }

    /// What to write instead of a field that the schema does not know, for those that many manifests still have. `unknown` is the
    /// complaint: `unknown field "spec.foo"`.
    fn hint(&self, _unknown: &str) -> Option<&'static str> {
        None
    }

    /// Whether a change of the spec counts in `metadata.generation`.
    fn has_generation(&self) -> bool {
        false
    }

    /// Whether a change of the annotations counts too.
    fn annotations_count(&self) -> bool {
        false
    }

    /// What every answer for a kind that is going away warns of.
    fn deprecation(&self) -> Option<&'static str> {
        None
    }

    /// Upstream's words for a field selector that the kind does not know.
    fn unknown_selector(&self, label: &str) -> String {
        format!("field label not supported: {label}")
    }

    /// Whether PUT may create (upstream's `AllowCreateOnUpdate`).
    fn create_on_update(&self) -> bool {
        false
    }

    /// Whether an update must carry a resourceVersion (upstream's `AllowUnconditionalUpdate` is false).
    fn conditional_update(&self) -> bool {
        false
    }

    /// The grace period, in seconds, that a delete of this object gets; `None` where the kind knows none and goes at
    /// once. `asked` is the request's `gracePeriodSeconds`.
    fn grace_period(&self, _object: &Value, _asked: Option<i64>) -> Option<i64> {
        None
    }

    /// From the stored version into this kind's version, and back. Identity for kinds with one version.
    #[expect(clippy::wrong_self_convention, reason = "the strategy converts; it is not made")]
    fn from_storage(&self, _object: &mut Value) {}
    fn to_storage(&self, _object: &mut Value) {}

    /// The table's cells for the columns, in their order. `now` is seconds since 1970.
    fn cells(&self, object: &Value, _now: i64) -> Vec<Value> {
        vec![object["metadata"]["name"].clone(), object["metadata"]["creationTimestamp"].clone()]
    }
}

/// For [`Strategy::kept_by_status`]: all metadata that is anybody's to change.
pub const ALL_METADATA: &[&str] = &["labels", "annotations", "finalizers", "ownerReferences"];

/// The strategy of a kind that has nothing of its own.
pub struct Plain;

impl Strategy for Plain {}

/// Empties the status of a new object, where its kind has one.
pub fn clear_status(object: &mut Value) {
    if let Some(status) = object.get_mut("status") {
        *status = Value::Object(serde_json::Map::new());
    }
}

/// Puts a top-level field of `new` back as it is in `old`.
pub fn keep(old: &Value, new: &mut Value, field: &str) {
    let Some(map) = new.as_object_mut() else { return };
    match old.get(field) {
        Some(value) => map.insert(field.to_owned(), value.clone()),
        None => map.remove(field),
    };
}

impl Kind {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_string() } else { format!("{}/{}", self.group, self.version) }
    }

    /// Whether discovery lists the verb.
    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }

    /// Every error of a new object: its metadata's, then its strategy's.
    pub fn validate_create(&self, object: &Value, errors: &mut Errors) {
        object_meta(object, self.namespaced, self.strategy.name_rule(), errors);
        self.strategy.validate(object, errors);
        self.strategy.validate_new(object, errors);
    }

    /// Every error of an update of the main resource.
    pub fn validate_update(&self, old: &Value, new: &Value, errors: &mut Errors) {
        // A name that was accepted once stays acceptable.
        object_meta(new, self.namespaced, NameRule::Own, errors);
        object_meta_update(old, new, errors);
        self.strategy.validate(new, errors);
        self.strategy.validate_update(old, new, errors);
    }

    /// Every error of an update through a subresource.
    pub fn validate_subresource_update(&self, subresource: &str, old: &Value, new: &Value, errors: &mut Errors) {
        object_meta(new, self.namespaced, NameRule::Own, errors);
        object_meta_update(old, new, errors);
        self.strategy.validate_subresource_update(subresource, old, new, errors);
    }

    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }
}

/// All kinds that are served, changed as a whole: readers hold an `Arc<Registry>`, a change makes a new one.
#[derive(Clone, Default)]
pub struct Registry {
    /// By group, version and plural, which is discovery's order too.
    kinds: BTreeMap<(Text, Text, Text), Arc<Kind>>,
}

impl Registry {
    /// Every built-in kind of the reference version.
    pub fn builtin() -> Self {
        let mut registry = Registry::default();
        for kind in crate::kinds::all() {
            registry.insert(kind);
        }
        registry
    }

    pub fn insert(&mut self, kind: Kind) {
        let key = (kind.group.clone(), kind.version.clone(), kind.plural.clone());
        self.kinds.insert(key, Arc::new(kind));
    }

    pub fn remove(&mut self, group: &str, version: &str, plural: &str) -> Option<Arc<Kind>> {
        self.kinds.remove(&(group.to_owned().into(), version.to_owned().into(), plural.to_owned().into()))
    }

    /// The kind behind `/apis/<group>/<version>/<plural>`.
    pub fn get(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Kind>> {
        // Cow<str> borrows as str only one at a time, so a tuple of borrowed Cows is the key.
        self.kinds.get(&(Cow::Owned(group.to_owned()), Cow::Owned(version.to_owned()), Cow::Owned(plural.to_owned())))
    }

    /// The kind that an object's `apiVersion` and `kind` name.
    pub fn by_kind(&self, api_version: &str, kind: &str) -> Option<&Arc<Kind>> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        self.kinds.values().find(|k| k.group == group && k.version == version && k.kind == kind)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Kind>> {
        self.kinds.values()
    }
}
