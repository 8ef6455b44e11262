//! PUT, and the loop that every change of a stored object goes through.

use std::sync::Arc;

use api::validation::Errors;
use api::{Status, Value};
use bytes::Bytes;
use http::StatusCode;
use store::{Entry, Error, Expect};

use super::create::{Stored, commit};
use super::prepare::{Change, Shown};
use super::{Call, create, input, metadata, output, store_error};
use crate::special::reserve::reserve;
use crate::wire::{Response, answer};

/// How often a change that names no resourceVersion is made again on a newer object.
const ATTEMPTS: usize = 100;
/// Upstream's words for a lost race.
pub const MODIFIED: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

/// Replaces an object by the one in the body.
pub async fn update(call: &Call) -> Result<Response, Status> {
    let input = input::read(call)?;
    let (object, mut warnings) = (input.object, input.warnings);
    call.check_name(&object)?;
    let outcome = change(call, &mut warnings, |old| match old {
        Some(_) => {
            let unconditional = matches!(metadata::text(&object, "resourceVersion"), "" | "0");
            if call.kind.strategy.conditional_update() && unconditional {
                let mut errors = Errors::default();
                errors.invalid("metadata.resourceVersion", 0, "must be specified for an update");
                errors.into_result(&call.kind.group, &call.kind.plural, &call.info.name)?;
            }
            Ok(Made::new(object.clone()))
        }
        None if call.kind.strategy.create_on_update() && call.info.subresource.is_empty() => {
            Ok(Made::new(object.clone()))
        }
        None => Err(call.not_found()),
    })
    .await?;
    respond(call, outcome, &warnings)
}

/// What a change wants to be stored.
pub struct Made {
    pub object: Value,
    /// Its managed fields are made already.
    pub tracked: bool,
    /// How admission sees it, where that is not as it is.
    pub shown: Option<&'static Shown>,
    pub warnings: Vec<String>,
}

impl Made {
    /// An object without anything to say about it.
    pub fn new(object: Value) -> Self {
        Made { object, tracked: false, shown: None, warnings: Vec::new() }
    }
}

/// What came of a change.
pub struct Outcome {
    pub stored: Stored,
    pub created: bool,
}

/// The answer to a change.
pub fn respond(call: &Call, outcome: Outcome, warnings: &[String]) -> Result<Response, Status> {
    let code = if outcome.created { StatusCode::CREATED } else { StatusCode::OK };
    let mut response = output::stored(call, code, &outcome.stored.bytes, outcome.stored.revision)?;
    answer::warn(&mut response, warnings);
    Ok(response)
}

/// Makes a new object of the stored one (`None` where there is none) and stores it, again and again until nobody
/// came in between, unless the new object names the resourceVersion that it was made from.
pub async fn change(
    call: &Call,
    warnings: &mut Vec<String>,
    make: impl Fn(Option<&Value>) -> Result<Made, Status>,
) -> Result<Outcome, Status> {
    let key = call.key();
    let before = warnings.len();
    for _ in 0..ATTEMPTS {
        warnings.truncate(before);
        let Some(entry) = call.server.store.get(&key) else {
            let mut made = make(None)?;
            warnings.append(&mut made.warnings);
            if let Some(outcome) = create_instead(call, made, warnings).await? {
                return Ok(outcome);
            }
            continue;
        };
        let old = call.parse(&entry)?;
        let mut made = make(Some(&old))?;
        warnings.append(&mut made.warnings);
        if let Some(stored) = replace(call, &key, &entry, &old, made, warnings).await? {
            return Ok(Outcome { stored, created: false });
        }
    }
    Err(modified(call))
}

fn modified(call: &Call) -> Status {
    Status::conflict(&call.kind.group, &call.kind.plural, &call.info.name, MODIFIED)
}

/// Creates an object that a PUT or an apply named. `None` where somebody was faster.
async fn create_instead(call: &Call, made: Made, warnings: &mut Vec<String>) -> Result<Option<Outcome>, Status> {
    let Made { mut object, tracked, .. } = made;
    if !metadata::text(&object, "resourceVersion").is_empty() {
        return Err(call.not_found());
    }
    if !metadata::text(&object, "uid").is_empty() {
        let uid = metadata::text(&object, "uid");
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: ");
        return Err(Status::conflict(&call.kind.group, &call.kind.plural, &call.info.name, &why));
    }
    metadata::set(&mut object, "name", call.info.name.as_str());
    let change = Change { tracked, ..Change::new(call) };
    match create::store(call, object, &change, warnings).await {
        Ok(stored) => Ok(Some(Outcome { stored, created: true })),
        Err(status) if status.reason == api::status::Reason::AlreadyExists => Ok(None),
        Err(status) => Err(status),
    }
}

/// Stores the successor of `entry`. `None` where somebody was faster and it may be tried again.
async fn replace(
    call: &Call,
    key: &str,
    entry: &Arc<Entry>,
    old: &Value,
    made: Made,
    warnings: &mut Vec<String>,
) -> Result<Option<Stored>, Status> {
    let Made { object: mut new, tracked, shown, .. } = made;
    let asked = metadata::text(&new, "resourceVersion").to_owned();
    // "0" asks for nothing, as upstream's versioner has it.
    let conditional = !asked.is_empty() && asked != "0";
    if conditional && asked != entry.modified.to_string() {
        return Err(modified(call));
    }
    let (uid, own) = (metadata::text(&new, "uid"), metadata::text(old, "uid"));
    if !uid.is_empty() && uid != own {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {own}");
        return Err(Status::conflict(&call.kind.group, &call.kind.plural, &call.info.name, &why));
    }
    let change = Change { tracked, shown, ..Change::new(call) };
    change.update(old, &mut new, warnings).await?;
    let goes = metadata::may_go(&call.kind, &new);
    let mut nothing = Value::Null;
    let reservation = reserve(call, Some(old), if goes { &mut nothing } else { &mut new })?;
    let bytes = Bytes::from(call.encode(new));
    if call.dry_run() {
        return Ok(Some(Stored { bytes, revision: entry.modified }));
    }
    if !goes && bytes == entry.value {
        return Ok(Some(Stored { bytes, revision: entry.modified }));
    }
    let value = (!goes).then(|| bytes.clone());
    match commit(call, key, Expect::Modified(entry.modified), value, reservation).await {
        Ok(committed) => Ok(Some(Stored { bytes, revision: committed.revision })),
        // A precondition that held a moment ago and is of an object read by the client may not be retried; one that came
        // from this loop's own reading (a patch) may.
        Err(Error::Conflict { key: changed, .. }) if *changed == *key && conditional && call.info.verb == "update" => {
            Err(modified(call))
        }
        Err(Error::Conflict { .. }) => Ok(None),
        Err(error) => Err(store_error(error)),
    }
}

/// Changes a stored object past its strategy's rules, as what the server does itself (binding) needs it. The change is
/// made again until nobody came in between, and is recorded under the subresource. Gives the object's revision.
pub async fn rewrite(
    call: &Call,
    subresource: &str,
    edit: impl Fn(&mut Value) -> Result<(), Status>,
) -> Result<u64, Status> {
    let key = call.key();
    for _ in 0..ATTEMPTS {
        let entry = call.entry()?;
        let old = call.parse(&entry)?;
        let mut new = old.clone();
        edit(&mut new)?;
        let change = Change { subresource, ..Change::new(call) };
        change.track(Some(&old), &mut new);
        let bytes = Bytes::from(call.encode(new));
        if call.dry_run() || bytes == entry.value {
            return Ok(entry.modified);
        }
        match commit(call, &key, Expect::Modified(entry.modified), Some(bytes), Default::default()).await {
            Ok(committed) => return Ok(committed.revision),
            Err(Error::Conflict { .. }) => {}
            Err(error) => return Err(store_error(error)),
        }
    }
    Err(modified(call))
}
