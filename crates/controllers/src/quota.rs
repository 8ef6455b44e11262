//! ResourceQuotas whose status is not what the server counts.
//!
//! The server charges quotas in the transaction of each write and counts anew whenever a quota itself is written, so all that
//! is left is to have a quota counted again whose status somebody else has changed. A status that this controller writes is
//! counted by the server, whatever it says.

use std::time::Duration;

use client::{Cache, Key};
use k8s_openapi::api::core::v1::ResourceQuota;

use crate::frame::{Env, Loop, Synced};

/// How long after a change a quota is counted again, and so how long a status written by others stands.
const RESYNC: Duration = Duration::from_secs(30);

/// Runs the quota controller.
pub(crate) async fn run(env: Env) {
    let quotas: Cache<ResourceQuota> = env.caches.get();
    let sync = async |key: Key| -> Synced {
        let Some(quota) = quotas.read(&key.namespace, &key.name) else { return Ok(None) };
        match env.replace_status(&quota).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(None),
        }
    };
    let work = Loop::new().on(&quotas, |change, queue| {
        if change.new.is_some() {
            queue.add_after(change.key.clone(), RESYNC);
        }
    });
    work.run(&env, 1, sync).await;
}
