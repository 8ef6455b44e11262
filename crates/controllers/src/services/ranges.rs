//! ServiceCIDRs: ready while they are there, and kept while they are the only range of some Service's address.

use std::{sync::Arc, time::Duration};

use client::{Cache, Item, Key};
use k8s_openapi::{
    api::networking::v1::{IPAddress, ServiceCIDR},
    apimachinery::pkg::apis::meta::v1::Condition,
    jiff::{SignedDuration, Timestamp},
};
use parking_lot::Mutex;
use serde_json::json;

use super::{ALLOCATOR, MANAGED_BY, holds, ranges_of};
use crate::{
    frame::{Env, Error, Loop, Synced, between, now},
    owner::Named,
    protection::{add_finalizer, remove_finalizer},
};

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
/// The range that every cluster has.
const DEFAULT: &str = "kubernetes";
/// How long a range that is being deleted stays in any case: a Service may be taking an address of it at this moment.
const GRACE: SignedDuration = SignedDuration::from_secs(10);

/// Runs the controller of service ranges.
pub(crate) async fn run(env: Env) {
    let controller =
        Controller { ranges: env.caches.get(), addresses: env.caches.get(), lost: Arc::default(), env: env.clone() };
    let (all, leaving, lost) = (controller.ranges.clone(), controller.ranges.clone(), controller.lost.clone());
    let work = Loop::new()
        .on(&controller.ranges, move |change, queue| {
            if change.new.is_none() && &*change.key.name == DEFAULT {
                *lost.lock() = change.old.as_ref().and_then(|old| all.parse(old));
            }
            queue.add(change.key.clone());
            // Another one may cover one that is to go, or no longer.
            all.list().iter().filter(|range| range.deleting).for_each(|range| queue.add(range.key.clone()));
        })
        .on(&controller.addresses, move |change, queue| {
            if change.new.is_none() {
                leaving.list().iter().filter(|range| range.deleting).for_each(|range| queue.add(range.key.clone()));
            }
        });
    work.run(&env, 1, |key| controller.sync(key)).await;
}

struct Controller {
    env: Env,
    ranges: Cache<ServiceCIDR>,
    addresses: Cache<IPAddress>,
    /// The default range as it was when it was deleted.
    lost: Arc<Mutex<Option<ServiceCIDR>>>,
}

impl Controller {
    async fn sync(&self, key: Key) -> Synced {
        let Some(item) = self.ranges.get("", &key.name) else { return self.restore(&key).await };
        let Some(range) = self.ranges.parse(&item) else { return Ok(None) };
        let protected = item.finalizers.iter().any(|name| &**name == FINALIZER);
        if !item.deleting {
            add_finalizer::<ServiceCIDR>(&self.env, &item, FINALIZER, protected).await?;
            return self.report(&range, "True", "", "Kubernetes Service CIDR is ready").await.map(|()| None);
        }
        if self.is_needed(&range) {
            let message = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new \
                           ServiceCIDR";
            return self.report(&range, "False", "Terminating", message).await.map(|()| None);
        }
        let since = range.metadata.deletion_timestamp.as_ref().map(|time| time.0);
        let until = since.and_then(|since| since.checked_add(GRACE).ok());
        let wait = until.map_or(Duration::ZERO, |until| between(Timestamp::now(), until));
        if !wait.is_zero() {
            return Ok(Some(wait));
        }
        if protected {
            remove_finalizer::<ServiceCIDR>(&self.env, &item, FINALIZER).await?;
        }
        Ok(None)
    }

    /// Makes the default range again.
    async fn restore(&self, key: &Key) -> Synced {
        let lost = self.lost.lock().clone().filter(|_| &*key.name == DEFAULT);
        let Some(spec) = lost.and_then(|lost| lost.spec) else { return Ok(None) };
        let range = json!({"metadata": {"name": DEFAULT}, "spec": spec});
        match self.env.create::<ServiceCIDR>("", serde_json::to_vec(&range)?).await {
            Err(error) if !error.is_already_exists() => Err(error),
            _ => Ok(None),
        }
    }

    fn is_needed(&self, range: &ServiceCIDR) -> bool {
        let staying = |item: &Arc<Item>| !item.deleting && item.name() != range.name();
        let others = self.ranges.list().into_iter().filter(staying);
        let others: Vec<ServiceCIDR> = others.filter_map(|item| self.ranges.parse(&item)).collect();
        let addresses = self.addresses.list();
        let taken = addresses.iter().filter(|item| item.labels.get(MANAGED_BY) == Some(ALLOCATOR));
        is_needed(range, &others, taken.map(|item| item.name()))
    }

    async fn report(&self, range: &ServiceCIDR, status: &str, reason: &str, message: &str) -> Result<(), Error> {
        let known = range.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        let Some(conditions) = with_ready(known, status, reason, message) else { return Ok(()) };
        let patch = json!({"status": {"conditions": conditions}});
        match self.env.patch::<ServiceCIDR>("", range.name(), "status", &patch).await {
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => {
                let message = format!("The ServiceCIDR Status can not be set to Ready={status}");
                self.env.recorder.warning(range, "KubernetesServiceCIDRError", message);
                Err(error)
            }
            Ok(_) => Ok(()),
        }
    }
}

/// Whether there is an address taken that lies in this range and in none of those that stay.
fn is_needed<'a>(range: &ServiceCIDR, others: &[ServiceCIDR], mut taken: impl Iterator<Item = &'a str>) -> bool {
    let (own, others) = (ranges_of(range), others.iter().flat_map(ranges_of).collect::<Vec<_>>());
    if own.iter().all(|own| others.iter().any(|other| other.contains(own))) {
        return false;
    }
    taken.any(|address| {
        let Ok(address) = address.parse() else { return false };
        own.iter().any(|own| holds(own, address)) && !others.iter().any(|other| holds(other, address))
    })
}

/// The conditions with another state of `Ready`; none if it is there already.
fn with_ready(mut known: Vec<Condition>, status: &str, reason: &str, message: &str) -> Option<Vec<Condition>> {
    let old = known.iter().position(|condition| condition.type_ == "Ready").map(|at| known.remove(at));
    let same = |old: &Condition| old.status == status && old.reason == reason && old.message == message;
    if old.as_ref().is_some_and(same) {
        return None;
    }
    let since = old.filter(|old| old.status == status).map_or_else(now, |old| old.last_transition_time);
    known.push(Condition {
        type_: "Ready".to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: since,
        observed_generation: None,
    });
    Some(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> ServiceCIDR {
        let cidrs: Vec<&str> = text.split('+').collect();
        serde_json::from_value(json!({"metadata": {"name": text}, "spec": {"cidrs": cidrs}})).unwrap()
    }

    #[test]
    fn a_range_is_needed_while_an_address_has_no_other() {
        let cases = [
            // The range, those that stay, addresses that are taken.
            ("10.0.0.0/24", "", "", false),
            ("10.0.0.0/24", "", "10.0.0.5", true),
            ("10.0.0.0/24", "", "10.0.1.5", false),
            ("10.0.0.0/24", "10.0.0.0/16", "10.0.0.5", false),
            ("10.0.0.0/24", "10.0.0.0/24", "10.0.0.5", false),
            ("10.0.0.0/24", "10.0.0.0/28", "10.0.0.5", false),
            ("10.0.0.0/24", "10.0.0.0/28", "10.0.0.5 10.0.0.77", true),
            // The broadcast address of the smaller range can be taken from the greater one alone.
            ("10.0.0.0/24", "10.0.0.0/28", "10.0.0.15", true),
            ("10.0.0.0/24+fd00::/112", "10.0.0.0/16", "10.0.0.5", false),
            ("10.0.0.0/24+fd00::/112", "10.0.0.0/16", "10.0.0.5 fd00::5", true),
        ];
        for (own, others, taken, expected) in cases {
            let others: Vec<ServiceCIDR> = others.split_whitespace().map(range).collect();
            assert_eq!(is_needed(&range(own), &others, taken.split_whitespace()), expected, "{own} {others:?} {taken}");
        }
    }

    #[test]
    fn the_condition_is_written_when_it_changes() {
        let ready = with_ready(Vec::new(), "True", "", "ready").unwrap();
        assert_eq!(with_ready(ready.clone(), "True", "", "ready"), None);
        let leaving = with_ready(ready, "False", "Terminating", "why").unwrap();
        assert_eq!((leaving.len(), &*leaving[0].status, &*leaving[0].reason), (1, "False", "Terminating"));
    }
}
