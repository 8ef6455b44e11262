//! What claims have of devices, kept as claims change.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use api::quantity::Quantity;
use client::{Change, Key};
use k8s_openapi::api::resource::v1::{AllocationResult, ResourceClaim};

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct DeviceId {
    pub driver: String,
    pub pool: String,
    pub device: String,
}

/// The uses of one device.
#[derive(Debug, Clone, Default)]
struct Use {
    users: usize,
    /// What is consumed of the capacity of a device that several may use.
    consumed: BTreeMap<String, Quantity>,
}

#[derive(Debug, Clone, Default)]
struct Uses(HashMap<DeviceId, Use>);

impl Uses {
    fn add(&mut self, allocation: &AllocationResult) {
        for (id, consumed) in of(allocation) {
            let uses = self.0.entry(id).or_default();
            uses.users += 1;
            for (name, amount) in consumed {
                *uses.consumed.entry(name).or_default() += amount;
            }
        }
    }

    fn remove(&mut self, allocation: &AllocationResult) {
        for (id, consumed) in of(allocation) {
            let Some(uses) = self.0.get_mut(&id) else { continue };
            uses.users = uses.users.saturating_sub(1);
            for (name, amount) in consumed {
                *uses.consumed.entry(name).or_default() -= amount;
            }
            if uses.users == 0 {
                self.0.remove(&id);
            }
        }
    }
}

/// The devices of an allocation, with what it consumes of each.
fn of(allocation: &AllocationResult) -> impl Iterator<Item = (DeviceId, Vec<(String, Quantity)>)> {
    let results = allocation.devices.iter().flat_map(|devices| devices.results.iter().flatten());
    // Those who only watch over a device take nothing of it.
    results.filter(|it| it.admin_access != Some(true)).map(|it| {
        let id = DeviceId { driver: it.driver.clone(), pool: it.pool.clone(), device: it.device.clone() };
        let consumed = it.consumed_capacity.iter().flatten();
        let amount = |text: &str| Quantity::parse(text).unwrap_or_default();
        (id, consumed.map(|(name, it)| (name.clone(), amount(&it.0))).collect())
    })
}

/// What is taken of devices, as of one decision.
#[derive(Debug, Clone, Default)]
pub(super) struct Taken {
    /// What the claims have that are known to the API.
    known: Arc<Uses>,
    /// And what is about to be written.
    more: Uses,
}

impl Taken {
    pub fn add(&mut self, allocation: &AllocationResult) {
        self.more.add(allocation);
    }

    pub fn has(&self, device: &DeviceId) -> bool {
        self.known.0.contains_key(device) || self.more.0.contains_key(device)
    }

    /// What is consumed of a device's capacity.
    pub fn consumed(&self, device: &DeviceId) -> BTreeMap<String, Quantity> {
        let mut all = BTreeMap::new();
        for uses in [self.known.0.get(device), self.more.0.get(device)].into_iter().flatten() {
            for (name, amount) in &uses.consumed {
                *all.entry(name.clone()).or_default() += *amount;
            }
        }
        all
    }
}

/// The allocations of all claims, as of the changes that were observed.
#[derive(Default)]
pub(super) struct Allocations {
    claims: HashMap<Key, Known>,
    uses: Arc<Uses>,
}

struct Known {
    version: u64,
    uid: Box<str>,
    allocation: Option<AllocationResult>,
}

impl Allocations {
    pub fn observe(&mut self, change: &Change) {
        let uses = Arc::make_mut(&mut self.uses);
        if let Some(allocation) = self.claims.remove(&change.key).and_then(|known| known.allocation) {
            uses.remove(&allocation);
        }
        let Some(item) = &change.new else { return };
        let claim = item.parse::<ResourceClaim>();
        let claim = claim.inspect_err(|error| tracing::error!(claim = %item.key, %error, "unreadable claim"));
        let allocation = claim.ok().and_then(|claim| claim.status).and_then(|status| status.allocation);
        allocation.iter().for_each(|allocation| uses.add(allocation));
        let known = Known { version: item.resource_version, uid: item.uid.clone(), allocation };
        self.claims.insert(change.key.clone(), known);
    }

    /// Up to which version a claim was observed.
    pub fn version(&self, namespace: &str, name: &str) -> Option<u64> {
        self.claims.get(&Key::new(namespace, name)).map(|known| known.version)
    }

    /// What is taken by all claims, those included that are being written.
    pub fn taken<'a>(&self, pending: impl Iterator<Item = (&'a str, &'a str, &'a str, &'a AllocationResult)>) -> Taken {
        let mut taken = Taken { known: self.uses.clone(), more: Uses::default() };
        for (uid, namespace, name, allocation) in pending {
            let known = self.claims.get(&Key::new(namespace, name));
            if !known.is_some_and(|known| *known.uid == *uid && known.allocation.is_some()) {
                taken.add(allocation);
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_claims_give_back_is_free_and_what_is_being_written_is_not() {
        let item = |version: u64, device: Option<&str>| {
            let allocation = device.map(|device| {
                json!({"devices": {"results": [{"request": "r", "driver": "d", "pool": "p", "device": device,
                    "consumedCapacity": {"memory": "1Gi"}}]}})
            });
            let claim = json!({"metadata": {"name": "c", "namespace": "n", "uid": "u", "resourceVersion": version.to_string()},
                "spec": {}, "status": {"allocation": allocation}});
            Arc::new(client::Item::from_json(&claim.to_string()).unwrap())
        };
        let change = |new| Change { key: Key::new("n", "c"), old: None, new };
        let id = |device: &str| DeviceId { driver: "d".into(), pool: "p".into(), device: device.into() };
        let mut all = Allocations::default();
        all.observe(&change(Some(item(1, None))));
        let pending: AllocationResult = serde_json::from_value(
            json!({"devices": {"results": [{"request": "r", "driver": "d", "pool": "p", "device": "a",
                "consumedCapacity": {"memory": "1Gi"}}]}}),
        )
        .unwrap();
        let memory = |taken: &Taken, device: &str| taken.consumed(&id(device)).get("memory").map(Quantity::value);
        let taken = all.taken([("u", "n", "c", &pending)].into_iter());
        assert_eq!((taken.has(&id("a")), memory(&taken, "a")), (true, Some(1 << 30)));
        all.observe(&change(Some(item(2, Some("a")))));
        let taken = all.taken([("u", "n", "c", &pending)].into_iter());
        assert_eq!((memory(&taken, "a"), all.version("n", "c")), (Some(1 << 30), Some(2)), "it is not counted twice");
        all.observe(&change(Some(item(3, Some("b")))));
        assert!(!all.taken([].into_iter()).has(&id("a")));
        all.observe(&change(None));
        assert!(!all.taken([].into_iter()).has(&id("b")));
    }
}
