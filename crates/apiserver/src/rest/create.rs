//! POST: a new object.

use std::time::Duration;

use api::{Status, Value};
use http::StatusCode;
use store::{Committed, Error, Expect, Guard, Op, Txn};

use super::prepare::{Change, generated};
use super::{Call, input, key, metadata, output, store_error};
use crate::special::reserve::{Reservation, lost, reserve};
use crate::wire::{Response, answer};

/// How often a generated name is made anew when it is taken.
const ATTEMPTS: usize = 8;
/// How often a write is tried whose namespace's quota, address or port others change meanwhile. One of those who race
/// wins each time, so this is how many may race.
const RACES: usize = 1000;
/// How long events live, as upstream's `--event-ttl`.
const EVENT_TTL: Duration = Duration::from_secs(3600);

/// Creates the object that the body holds.
pub async fn create(call: &Call) -> Result<Response, Status> {
    let input = input::read(call)?;
    let (object, mut warnings) = (input.object, input.warnings);
    let stored = store(call, object, &Change::new(call), &mut warnings).await?;
    let mut response = output::stored(call, StatusCode::CREATED, &stored.bytes, stored.revision)?;
    answer::warn(&mut response, &warnings);
    Ok(response)
}

/// What is stored now, or would be but for a dry run.
pub struct Stored {
    pub bytes: bytes::Bytes,
    /// 0 where nothing was stored before and this was a dry run.
    pub revision: u64,
}

/// Prepares and stores a new object.
pub async fn store(
    call: &Call,
    object: Value,
    change: &Change<'_>,
    warnings: &mut Vec<String>,
) -> Result<Stored, Status> {
    let kind = &call.kind;
    let dry = call.dry_run();
    let generate =
        metadata::text(&object, "name").is_empty().then(|| metadata::text(&object, "generateName").to_owned());
    let mut object = object;
    change.create(&mut object, warnings).await?;
    let mut attempts = 0;
    loop {
        attempts += 1;
        let mut candidate = object.clone();
        let reservation = reserve(call, None, &mut candidate)?;
        let name = metadata::text(&candidate, "name").to_owned();
        let key = key(kind, &call.info.namespace, &name);
        let bytes = bytes::Bytes::from(call.encode(candidate));
        if dry {
            if call.server.store.get(&key).is_some() {
                return Err(Status::already_exists(&kind.group, &kind.plural, &name));
            }
            return Ok(Stored { bytes, revision: 0 });
        }
        match commit(call, &key, Expect::Absent, Some(bytes.clone()), reservation).await {
            Ok(committed) => return Ok(Stored { bytes, revision: committed.revision }),
            Err(Error::Conflict { key: taken, .. }) if *taken == *key => match generate.as_deref() {
                Some(prefix) if !prefix.is_empty() && attempts < ATTEMPTS => {
                    metadata::set(&mut object, "name", generated(prefix));
                }
                _ => return Err(Status::already_exists(&kind.group, &kind.plural, &name)),
            },
            // Somebody else took the address or port between the look and the commit.
            Err(Error::Conflict { .. }) if attempts < RACES => {}
            Err(Error::Conflict { key, .. }) => return Err(lost(&key)),
            Err(error) => return Err(store_error(error)),
        }
    }
}

/// Commits one object (its deletion where there are no bytes), with what is reserved for it or released by it.
pub async fn commit(
    call: &Call,
    key: &str,
    expect: Expect,
    bytes: Option<bytes::Bytes>,
    reservation: Reservation,
) -> Result<Committed, Error> {
    let ttl = (call.stored.storage.prefix == "events").then_some(EVENT_TTL);
    // What is superseded will be freed, and parsing it took about as much again.
    call.server.memory.note(2 * bytes.as_ref().map_or(0, bytes::Bytes::len));
    let op = match bytes {
        Some(value) => Op::Put { key: key.into(), value, ttl },
        None => Op::delete(key),
    };
    let Reservation { mut guards, mut ops } = reservation;
    guards.insert(0, Guard { key: key.into(), expect });
    ops.insert(0, op);
    call.server.store.commit(Txn { guards, ops }).await
}
