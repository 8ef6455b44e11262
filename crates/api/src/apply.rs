//! Field ownership: managed fields on every write, and server-side apply
//! (<https://kubernetes.io/docs/reference/using-api/server-side-apply/>).
//!
//! Pure functions of the stored object, the new one and who writes. A manager's fields are a set in upstream's `FieldsV1` form, and
//! are worked on in that form ([`fields`]): nothing is converted on the way in or out.

mod compare;
mod fields;
mod managers;
mod merge;
mod set;

use compare::Comparison;
use fields::Fields;
use managers::{Entry, Operation};

use crate::schema::{Struct, check, check_config};
use crate::status::{Details, Reason};
use crate::{Map, Status, Value};

/// Who writes what, and when.
#[derive(Clone, Copy, Debug)]
pub struct Ctx<'a> {
    pub schema: &'a Struct,
    /// The version in which the manager writes: `apps/v1`.
    pub api_version: &'a str,
    pub manager: &'a str,
    /// Empty for the main resource.
    pub subresource: &'a str,
    /// RFC 3339 with seconds.
    pub now: &'a str,
}

/// The manager that owns what an object held before its first apply.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// Records in `new` who owns what a create (`old` is `None`), update or patch changed: the writer owns what it added or
/// modified, the others lose that and what it removed. `managedFields` that `new` brings along count; where it brings none those of
/// `old` do; one empty entry takes all away. An object that has none is not tracked until it is applied.
///
/// To be called with defaults filled in and what the writer may not touch put back.
pub fn track_update(old: Option<&Value>, new: &mut Value, ctx: &Ctx) {
    let given = managers::take(new);
    let Value::Object(object) = &*new else { return };
    let Some(old) = old.and_then(Value::as_object) else {
        let fields = set::created(object, ctx);
        let mut entries = managers::decode(given);
        managers::record(&mut entries, &Comparison { changed: fields, removed: Fields::new() }, ctx);
        managers::put(new, entries);
        return;
    };
    if managers::is_reset(&given) {
        return;
    }
    let given = if given.is_empty() { managers::of(old).to_vec() } else { given };
    if given.is_empty() {
        return;
    }
    let comparison = compare::objects(old, object, ctx);
    if comparison.is_empty() {
        managers::put_back(new, given);
        return;
    }
    let mut entries = managers::decode(given);
    managers::record(&mut entries, &comparison, ctx);
    managers::put(new, entries);
}

/// Server-side apply: the object that results from `live` (none: it is created) when `ctx.manager` applies `config`, with its managed
/// fields. What others own and `config` changes is a conflict unless `force`; what the manager applied before and no longer
/// does goes, unless somebody else owns it. The caller defaults, prepares and validates the result like an update's.
///
/// `config` is best what the client sent, checked by [`check_config`]: it may have nulls and zeros.
pub fn apply(live: Option<&Value>, config: &Value, ctx: &Ctx, force: bool) -> Result<Value, Status> {
    let mut config = config.clone();
    if config["apiVersion"].as_str().is_some_and(|version| version != ctx.api_version) {
        let got = config["apiVersion"].as_str().unwrap_or_default();
        return Err(Status::bad_request(format!(
            "Incorrect version specified in apply patch. Specified patch version: {got}, expected: {}",
            ctx.api_version
        )));
    }
    if !managers::take(&mut config).is_empty() {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let unknown = check_config(&mut config, ctx.schema)?.unknown;
    if let Some(path) = unknown.first().and_then(|text| text.split('"').nth(1)) {
        return Err(untypable(&config, &format!(".{path}: field not declared in schema")));
    }
    let Value::Object(config) = &config else { return Err(Status::bad_request("an apply patch must be an object")) };

    let empty = Map::new();
    let before = live.and_then(Value::as_object).unwrap_or(&empty);
    let mut entries = managers::decode(managers::of(before).to_vec());
    if entries.is_empty() && live.is_some() {
        let first = Ctx { manager: BEFORE_FIRST_APPLY, ..*ctx };
        let fields = set::created(before, ctx);
        managers::record(&mut entries, &Comparison { changed: fields, removed: Fields::new() }, &first);
    }
    let applied = set::applied(config, ctx).map_err(|why| untypable(&Value::Object(config.clone()), &why))?;
    let mut merged = merge::objects(before, config, ctx.schema);
    let mut own = match entries.iter().position(|e| e.is(Operation::Apply, ctx)) {
        Some(place) => entries.remove(place),
        None => Entry::new(Operation::Apply, ctx),
    };
    let last = std::mem::replace(&mut own.fields, applied);
    if !last.is_empty() {
        let owned = entries.iter().chain([&own]).fold(Fields::new(), |mut all, entry| {
            fields::unite(&mut all, &entry.fields);
            all
        });
        merged = merge::prune(merged, last, owned, ctx.schema);
    }

    let comparison = compare::objects(before, &merged, ctx);
    let conflicts: Vec<(&Entry, Fields)> = entries
        .iter()
        .map(|entry| (entry, fields::intersection(&entry.fields, &comparison.changed)))
        .filter(|(_, conflict)| !conflict.is_empty())
        .collect();
    if !conflicts.is_empty() && !force {
        return Err(conflict(conflicts));
    }
    managers::disown(&mut entries, &comparison);
    own.api_version = ctx.api_version.to_owned();
    let mut result = Value::Object(merged);
    // Zeros that a configuration names leave the object as upstream's typed form of it has them: absent.
    check(&mut result, ctx.schema)?;
    let bare = |object: &Value| with_managed_fields_gone(object.clone());
    if own.time.is_none() || live.is_none_or(|live| bare(live) != bare(&result)) {
        own.time = Some(ctx.now.to_owned());
    }
    if !own.fields.is_empty() {
        entries.push(own);
    }
    managers::take(&mut result);
    managers::put(&mut result, entries);
    Ok(result)
}

fn with_managed_fields_gone(mut object: Value) -> Value {
    managers::take(&mut object);
    object
}

fn untypable(config: &Value, why: &str) -> Status {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (namespace, name) = (text(&config["metadata"]["namespace"]), text(&config["metadata"]["name"]));
    let (version, kind) = (text(&config["apiVersion"]), text(&config["kind"]));
    Status::bad_request(format!(
        "failed to create typed patch object ({namespace}/{name}; {version}, Kind={kind}): {why}"
    ))
}

/// Upstream's conflict: every field with the manager that owns it.
fn conflict(mut conflicts: Vec<(&Entry, Fields)>) -> Status {
    conflicts.sort_by(|(a, _), (b, _)| a.identity().cmp(&b.identity()));
    let mut causes = Vec::new();
    let mut lines = Vec::new();
    for (entry, fields) in &conflicts {
        lines.push(format!("conflicts with {entry}:"));
        for path in fields::paths(fields) {
            lines.push(format!("- {path}"));
            causes.push(crate::status::Cause {
                reason: "FieldManagerConflict".to_owned(),
                message: format!("conflict with {entry}"),
                field: path,
            });
        }
    }
    let message = match &causes[..] {
        [one] => format!("Apply failed with 1 conflict: {}: {}", one.message, one.field),
        many => format!("Apply failed with {} conflicts: {}", many.len(), lines.join("\n")),
    };
    let details = Some(Box::new(Details { causes, ..Details::default() }));
    Status { details, ..Status::new(Reason::Conflict, message) }
}

/// Whether writers of the subresource never own that top-level field, since the strategy puts it back.
fn is_reset(key: &str, ctx: &Ctx) -> bool {
    match ctx.subresource {
        "" => key == "status",
        "status" => !matches!(key, "status" | "metadata"),
        "approval" => !matches!(key, "status" | "metadata"),
        "ephemeralcontainers" | "resize" => key != "spec",
        "finalize" => key == "status",
        _ => false,
    }
}

/// Whether that field of the object's own metadata is never owned.
fn is_system(key: &str) -> bool {
    matches!(
        key,
        "name"
            | "namespace"
            | "uid"
            | "creationTimestamp"
            | "selfLink"
            | "generation"
            | "managedFields"
            | "resourceVersion"
            | "clusterName"
    )
}

#[cfg(test)]
mod tests;
