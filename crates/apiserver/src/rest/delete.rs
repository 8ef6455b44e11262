//! DELETE of one object and of a collection: preconditions, grace, finalizers, propagation.

use std::sync::Arc;

use api::kind::Kind;
use api::{Status, Value};
use futures::{StreamExt, TryStreamExt};
use http::StatusCode;
use serde_json::json;
use store::{Entry, Error, Expect};

use super::create::commit;
use super::delete_options::DeleteOptions;
use super::metadata::{finalizers, is_deleting, is_namespace, may_go, set, text};
use super::select::{Selection, names};
use super::{Call, list, output, store_error};
use crate::admission::{Attributes, Operation};
use crate::clock;
use crate::special::reserve::reserve;
use crate::wire::{Response, answer};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
/// How often a delete is tried again on an object that changes meanwhile.
const ATTEMPTS: usize = 100;
/// How many objects of a collection are deleted at once.
const AT_ONCE: usize = 32;

/// What came of a delete: the object as it is now or was last, and whether it is gone.
pub struct Deleted {
    pub bytes: bytes::Bytes,
    pub revision: u64,
    pub gone: bool,
    uid: String,
    warnings: Vec<String>,
}

/// Kinds whose deletion answers with the object even where it is gone; of others there is only a `Status` left. The published OpenAPI
/// document says which.
const ANSWER_DELETED: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "persistentvolumeclaims",
            "persistentvolumes",
            "pods",
            "podtemplates",
            "resourcequotas",
            "serviceaccounts",
            "services",
        ],
    ),
    ("resource.k8s.io", &["deviceclasses", "resourceclaims", "resourceclaimtemplates", "resourceslices"]),
    ("storage.k8s.io", &["csidrivers", "csinodes", "storageclasses", "volumeattachments", "volumeattributesclasses"]),
];

/// Whether the kind is one of those.
pub fn answers_deleted(kind: &Kind) -> bool {
    ANSWER_DELETED.iter().any(|(group, plurals)| *group == kind.group && plurals.contains(&&*kind.plural))
}

/// Jobs leave their pods behind unless told otherwise, which few expect.
const JOB_ORPHANS: &str = "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning";

fn warning(call: &Call, options: &DeleteOptions) -> Option<String> {
    let job = call.kind.group == "batch" && call.kind.plural == "jobs";
    (job && options.propagation.is_none()).then(|| JOB_ORPHANS.to_owned())
}

/// Deletes the object that the path names.
pub async fn delete(call: &Call) -> Result<Response, Status> {
    let options = DeleteOptions::read(call)?;
    let deleted = remove(call, &call.info.name, &options).await?;
    // As upstream: 202 for what stays a while although its dependents were to go with it.
    let code = if !deleted.gone && options.cascades { StatusCode::ACCEPTED } else { StatusCode::OK };
    let mut response = if deleted.gone && !answers_deleted(&call.kind) {
        output::encode(call, code, &output::success(call, &deleted.uid), false)
    } else {
        output::stored(call, code, &deleted.bytes, deleted.revision)
    }?;
    let mut warnings = deleted.warnings;
    warnings.extend(warning(call, &options));
    answer::warn(&mut response, &warnings);
    Ok(response)
}

/// Deletes one object of the path's namespace by its name.
pub async fn remove(call: &Call, name: &str, options: &DeleteOptions) -> Result<Deleted, Status> {
    let key = super::key(&call.kind, &call.info.namespace, name);
    for _ in 0..ATTEMPTS {
        let not_found = || Status::not_found(&call.kind.group, &call.kind.plural, name);
        let entry = call.server.store.get(&key).ok_or_else(not_found)?;
        let old = call.parse(&entry)?;
        options.check(call, &old, entry.modified)?;
        let attributes = Attributes::new(call, Operation::Delete, "");
        call.server.admission.delete(&attributes, &old).await?;
        if let Some(deleted) = step(call, &key, &entry, &old, options).await? {
            return Ok(Deleted { warnings: attributes.take_warnings(), ..deleted });
        }
    }
    Err(Status::conflict(&call.kind.group, &call.kind.plural, name, super::update::MODIFIED))
}

/// One attempt. `None` where the object changed meanwhile.
async fn step(
    call: &Call,
    key: &str,
    entry: &Arc<Entry>,
    old: &Value,
    options: &DeleteOptions,
) -> Result<Option<Deleted>, Status> {
    let uid = text(old, "uid").to_owned();
    let marked = mark(call, old, options);
    let gone = marked.as_ref().is_none_or(|object| may_go(&call.kind, object));
    let unchanged = marked.as_ref() == Some(old) && !gone;
    let bytes = match marked {
        Some(object) => bytes::Bytes::from(call.encode(object)),
        None => entry.value.clone(),
    };
    if options.dry_run || unchanged {
        return Ok(Some(Deleted { bytes, revision: entry.modified, gone, uid, warnings: Vec::new() }));
    }
    let reservation = if gone { reserve(call, Some(old), &mut Value::Null)? } else { Default::default() };
    let value = (!gone).then(|| bytes.clone());
    match commit(call, key, Expect::Modified(entry.modified), value, reservation).await {
        Ok(committed) => Ok(Some(Deleted { bytes, revision: committed.revision, gone, uid, warnings: Vec::new() })),
        Err(Error::Conflict { .. }) => Ok(None),
        Err(error) => Err(store_error(error)),
    }
}

/// A century, beyond which the time of the end could not be written.
const LONGEST_GRACE: i64 = 100 * 365 * 24 * 3600;

/// The object with what its deletion writes into it; `None` where it goes at once.
fn mark(call: &Call, old: &Value, options: &DeleteOptions) -> Option<Value> {
    let mut object = old.clone();
    propagate(call, &mut object, options);
    let now = clock::seconds();
    let grace = call.kind.strategy.grace_period(old, options.grace_period).map(|g| g.clamp(0, LONGEST_GRACE));
    if is_deleting(old) {
        // A second delete can only shorten the grace period.
        let before = old["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
        if let Some(grace) = grace.filter(|grace| *grace < before && (options.grace_period.is_some() || *grace == 0)) {
            let started = clock::parse(text(old, "deletionTimestamp")).unwrap_or(now) - before;
            set(&mut object, "deletionTimestamp", clock::format((started + grace).max(now.min(started + before))));
            set(&mut object, "deletionGracePeriodSeconds", grace);
        }
        return Some(object);
    }
    let grace = grace.unwrap_or(0);
    let held = !finalizers(&object).is_empty()
        || is_namespace(&call.kind) && object["spec"]["finalizers"].as_array().is_some_and(|f| !f.is_empty());
    if grace == 0 && !held {
        return None;
    }
    set(&mut object, "deletionTimestamp", clock::format(now + grace));
    set(&mut object, "deletionGracePeriodSeconds", grace);
    if let Some(generation) = old["metadata"]["generation"].as_i64().filter(|g| *g > 0) {
        set(&mut object, "generation", generation + 1);
    }
    if is_namespace(&call.kind) {
        object["status"]["phase"] = Value::from("Terminating");
    }
    Some(object)
}

/// Writes the propagation policy into the finalizers.
fn propagate(call: &Call, object: &mut Value, options: &DeleteOptions) {
    let mut list: Vec<String> = finalizers(object).into_iter().map(str::to_owned).collect();
    let had = |list: &[String], name: &str| list.iter().any(|f| f == name);
    // These two let their dependents live unless told otherwise.
    let orphans = matches!((&*call.kind.group, &*call.kind.plural), ("", "replicationcontrollers") | ("batch", "jobs"));
    let policy = match options.propagation.as_deref() {
        Some("Orphan") => Some(ORPHAN),
        Some("Foreground") => Some(FOREGROUND),
        Some(_) => None,
        None if had(&list, ORPHAN) => Some(ORPHAN),
        None if had(&list, FOREGROUND) => Some(FOREGROUND),
        None if orphans => Some(ORPHAN),
        None => None,
    };
    list.retain(|f| f != ORPHAN && f != FOREGROUND);
    list.extend(policy.map(str::to_owned));
    set(object, "finalizers", if list.is_empty() { Value::Null } else { json!(list) });
}

/// Deletes every selected object of the collection; answers with what they were.
pub async fn delete_collection(call: &Call) -> Result<Response, Status> {
    let options = DeleteOptions::read(call)?;
    let selection = Selection::new(call)?;
    let limit = usize::try_from(call.query.integer("limit")?.unwrap_or(0).max(0)).unwrap_or(0);
    let snapshot = call.server.store.snapshot(&selection.range, None).map_err(store_error)?;
    let all = snapshot.iter().filter(|entry| selection.matches(call, entry));
    let entries: Vec<Arc<Entry>> = all.take(if limit == 0 { usize::MAX } else { limit }).cloned().collect();
    let noted = futures::stream::iter(entries.clone())
        .map(|entry| remove_listed(call, entry, &options))
        .buffer_unordered(AT_ONCE)
        .try_concat()
        .await?;
    let listed = list::Listed { revision: snapshot.revision(), ..list::Listed::of(entries) };
    let mut response = list::respond(call, listed)?;
    let warnings: Vec<String> = warning(call, &options).into_iter().chain(noted).collect();
    answer::warn(&mut response, &warnings);
    Ok(response)
}

/// Deletes one of a collection; gives the warnings.
async fn remove_listed(call: &Call, entry: Arc<Entry>, options: &DeleteOptions) -> Result<Vec<String>, Status> {
    let (namespace, name) = names(&entry.key, call.kind.namespaced);
    match remove(&call.of(call.kind.clone(), namespace, name), name, options).await {
        Err(status) if status.reason == api::status::Reason::NotFound => Ok(Vec::new()),
        other => other.map(|deleted| deleted.warnings),
    }
}
