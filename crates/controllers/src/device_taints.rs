//! Eviction by taints of devices: pods leave devices with `NoExecute` taints that their claims do not tolerate, or no longer.
//! Drivers publish the taints with their devices, in ResourceSlices.

use std::{collections::HashMap, sync::Arc, time::Duration};

use client::{Cache, Item, Key};
use k8s_openapi::{
    api::{
        core::v1::Pod,
        resource::v1::{DeviceTaint, DeviceToleration, ResourceClaim, ResourceSlice},
    },
    jiff::{SignedDuration, Timestamp},
};
use parking_lot::Mutex;

use crate::{
    frame::{Env, Loop, Synced, UNSEEN, between, sooner},
    node::eviction::{self, Why, evict},
};

const WHY: Why = Why {
    event: "DeviceTaintManagerEviction",
    reason: "DeletionByDeviceTaintManager",
    message: "Device Taint manager: deleting due to NoExecute taint",
};

/// Runs the eviction of pods from tainted devices.
pub(crate) async fn run(env: Env) {
    let slices: Cache<ResourceSlice> = env.caches.get();
    let claims: Cache<ResourceClaim> = env.caches.get();
    let pods: Cache<Pod> = env.caches.get();
    let (all, published) = (claims.clone(), slices.clone());
    let work = Loop::new().on_self(&claims).needs(&pods).on(&slices, move |change, queue| {
        let of_change = [&change.old, &change.new].into_iter().flatten();
        let of_change = of_change.filter_map(|item| read_slice(&published, item));
        let tainted: Vec<&Published> = of_change.filter(|slice| !slice.taints.is_empty()).collect();
        if tainted.is_empty() {
            return;
        }
        let uses = |item: &Arc<Item>| read_claim(&all, item).iter().any(|it| tainted.iter().any(|slice| slice.has(it)));
        all.list().into_iter().filter(uses).for_each(|claim| queue.add(claim.key.clone()));
    });
    let first_seen = FirstSeen::default();
    let sync = async |key: Key| -> Synced {
        let Some(item) = claims.get(&key.namespace, &key.name) else { return Ok(None) };
        let allocated = read_claim(&claims, &item);
        if allocated.is_empty() {
            return Ok(None);
        }
        let listed = slices.list();
        let published: Vec<&Published> = listed.iter().filter_map(|item| read_slice(&slices, item)).collect();
        first_seen.forget_others(&published);
        let now = Timestamp::now();
        let since = |allocated: &Allocated, taint: &DeviceTaint| {
            taint.time_added.as_ref().map_or_else(|| first_seen.of(allocated, taint, now), |time| time.0)
        };
        let Some(wait) = leave_in(allocated, &published, now, since) else { return Ok(None) };
        if !wait.is_zero() {
            return Ok(Some(wait));
        }
        let Some(claim) = claims.parse(&item) else { return Ok(None) };
        let users = users(&claim, |name| pods.get(&key.namespace, name));
        for pod in users.leaving.iter().filter_map(|item| pods.parse(item)) {
            evict(&env, &pod, &WHY).await?;
        }
        Ok(users.is_any_unseen.then_some(UNSEEN))
    };
    work.run(&env, 2, sync).await;
}

/// The pods that a claim is reserved for.
struct Users {
    /// Those that have to be told to go.
    leaving: Vec<Arc<Item>>,
    /// Whether there are any that the cache does not show: it is behind, or the claim has yet to be taken from them.
    is_any_unseen: bool,
}

fn users(claim: &ResourceClaim, pod: impl Fn(&str) -> Option<Arc<Item>>) -> Users {
    let mut users = Users { leaving: Vec::new(), is_any_unseen: false };
    let reserved = claim.status.iter().flat_map(|status| status.reserved_for.iter().flatten());
    for user in reserved.filter(|user| user.resource == "pods") {
        match pod(&user.name).filter(|pod| *pod.uid == *user.uid) {
            Some(pod) if pod.deleting => {}
            Some(pod) => users.leaving.push(pod),
            None => users.is_any_unseen = true,
        }
    }
    users
}

/// What the slice of some devices says, read once for each version of it.
struct Published {
    driver: String,
    pool: String,
    generation: i64,
    /// The devices that have any.
    taints: HashMap<String, Vec<DeviceTaint>>,
}

impl Published {
    fn of(slice: ResourceSlice) -> Published {
        let devices = slice.spec.devices.into_iter().flatten();
        let taints = devices.map(|device| (device.name, device.taints.unwrap_or_default()));
        Published {
            driver: slice.spec.driver,
            pool: slice.spec.pool.name,
            generation: slice.spec.pool.generation,
            taints: taints.filter(|(_, taints)| !taints.is_empty()).collect(),
        }
    }

    /// Whether the device is of its pool.
    fn has(&self, device: &Allocated) -> bool {
        (&self.driver, &self.pool) == (&device.driver, &device.pool)
    }
}

/// One that cannot be read is logged and says nothing.
fn read_slice<'a>(slices: &Cache<ResourceSlice>, item: &'a Item) -> Option<&'a Published> {
    item.facts(|item| slices.parse(item).map(Published::of).ok_or(())).ok()
}

/// The devices of a cached claim, which is read for them once for each version of it.
fn read_claim<'a>(claims: &Cache<ResourceClaim>, item: &'a Item) -> &'a [Allocated] {
    struct Devices(Vec<Allocated>);
    let read = |item: &Item| claims.parse(item).map(|claim| Devices(devices(&claim))).ok_or(());
    item.facts(read).map_or(&[], |devices| &devices.0)
}

/// A device that a claim has, and what the claim tolerates of it.
struct Allocated {
    driver: String,
    pool: String,
    device: String,
    tolerations: Vec<DeviceToleration>,
}

fn devices(claim: &ResourceClaim) -> Vec<Allocated> {
    let allocation = claim.status.as_ref().and_then(|status| status.allocation.as_ref());
    let devices = allocation.and_then(|allocation| allocation.devices.as_ref());
    let results = devices.iter().flat_map(|devices| devices.results.iter().flatten());
    let allocated = results.map(|result| Allocated {
        driver: result.driver.clone(),
        pool: result.pool.clone(),
        device: result.device.clone(),
        tolerations: result.tolerations.clone().unwrap_or_default(),
    });
    allocated.collect()
}

/// When taints were first seen that do not say since when they are there.
#[derive(Default)]
struct FirstSeen(Mutex<HashMap<Place, Vec<(DeviceTaint, Timestamp)>>>);

/// A device's driver, pool and name.
type Place = (String, String, String);

impl FirstSeen {
    fn of(&self, Allocated { driver, pool, device, .. }: &Allocated, taint: &DeviceTaint, now: Timestamp) -> Timestamp {
        let mut all = self.0.lock();
        let taints = all.entry((driver.clone(), pool.clone(), device.clone())).or_default();
        match taints.iter().find(|(seen, _)| seen == taint) {
            Some((_, since)) => *since,
            None => {
                taints.push((taint.clone(), now));
                now
            }
        }
    }

    /// Forgets the taints that are no longer published.
    fn forget_others(&self, slices: &[&Published]) {
        self.0.lock().retain(|(driver, pool, device), seen| {
            let present = taints(driver, pool, device, slices);
            seen.retain(|(taint, _)| present.contains(taint));
            !seen.is_empty()
        });
    }
}

/// How long the pods of a claim may still stay, when `since` says from when on a taint counts; none for as long as they like.
fn leave_in(
    allocated: &[Allocated],
    slices: &[&Published],
    now: Timestamp,
    since: impl Fn(&Allocated, &DeviceTaint) -> Timestamp,
) -> Option<Duration> {
    let mut soonest = None;
    for allocated in allocated {
        let taints = taints(&allocated.driver, &allocated.pool, &allocated.device, slices);
        for taint in taints.iter().filter(|taint| taint.effect == "NoExecute") {
            let since = since(allocated, taint);
            soonest = sooner(soonest, tolerated_for(&allocated.tolerations, taint, since, now));
        }
    }
    soonest
}

/// The taints of a device, by the newest generation of its pool: what older slices say is of the past.
fn taints(driver: &str, pool: &str, device: &str, slices: &[&Published]) -> Vec<DeviceTaint> {
    let of_pool = || slices.iter().filter(|slice| slice.driver == driver && slice.pool == pool);
    let newest = of_pool().map(|slice| slice.generation).max();
    let present = of_pool().filter(|slice| Some(slice.generation) == newest);
    present.filter_map(|slice| slice.taints.get(device)).flatten().cloned().collect()
}

/// For how long a taint is still tolerated; none for ever.
fn tolerated_for(
    tolerations: &[DeviceToleration],
    taint: &DeviceTaint,
    since: Timestamp,
    now: Timestamp,
) -> Option<Duration> {
    let mut tolerating = tolerations.iter().filter(|toleration| tolerates(toleration, taint)).peekable();
    if tolerating.peek().is_none() {
        return Some(Duration::ZERO);
    }
    let limits = tolerating.filter_map(|toleration| toleration.toleration_seconds);
    let until =
        limits.map(|seconds| since.checked_add(SignedDuration::from_secs(seconds.max(0))).unwrap_or(Timestamp::MAX));
    until.min().map(|until| between(now, until))
}

fn tolerates(toleration: &DeviceToleration, taint: &DeviceTaint) -> bool {
    let DeviceToleration { key, operator, value, effect, .. } = toleration;
    let taint = [&*taint.key, taint.value.as_deref().unwrap_or_default(), &*taint.effect];
    eviction::matches([key, operator, value, effect], taint)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn slice(generation: i64, taints: Value) -> Published {
        let slice = serde_json::from_value(json!({"metadata": {"name": generation.to_string()}, "spec": {
            "driver": "d", "pool": {"name": "p", "generation": generation, "resourceSliceCount": 1},
            "devices": [{"name": "gpu-0", "taints": taints}, {"name": "gpu-1"}]}}));
        Published::of(slice.unwrap())
    }

    fn claim(device: &str, tolerations: Value) -> ResourceClaim {
        let result = json!({"request": "r", "driver": "d", "pool": "p", "device": device, "tolerations": tolerations});
        serde_json::from_value(json!({"metadata": {"name": "c"}, "spec": {},
            "status": {"allocation": {"devices": {"results": [result]}}}}))
        .unwrap()
    }

    #[test]
    fn pods_leave_a_device_whose_taint_is_not_tolerated_any_more() {
        let taint = |effect: &str| json!([{"key": "broken", "value": "yes", "effect": effect}]);
        let (since, now) = ("2026-01-01T00:00:00Z".parse().unwrap(), "2026-01-01T00:01:00Z".parse().unwrap());
        let cases = [
            ("gpu-0", "NoExecute", json!([]), Some(0)),
            ("gpu-1", "NoExecute", json!([]), None),
            ("gpu-0", "NoSchedule", json!([]), None),
            ("gpu-0", "None", json!([]), None),
            ("gpu-0", "NoExecute", json!([{"operator": "Exists"}]), None),
            ("gpu-0", "NoExecute", json!([{"key": "broken", "operator": "Equal", "value": "yes"}]), None),
            ("gpu-0", "NoExecute", json!([{"key": "broken", "operator": "Equal", "value": "no"}]), Some(0)),
            ("gpu-0", "NoExecute", json!([{"operator": "Exists", "effect": "NoSchedule"}]), Some(0)),
            ("gpu-0", "NoExecute", json!([{"operator": "Exists", "tolerationSeconds": 300}]), Some(240)),
            ("gpu-0", "NoExecute", json!([{"operator": "Exists", "tolerationSeconds": 30}]), Some(0)),
        ];
        for (device, effect, tolerations, expected) in cases {
            let claim = claim(device, tolerations.clone());
            let wait = leave_in(&devices(&claim), &[&slice(1, taint(effect))], now, |_, _| since);
            assert_eq!(wait.map(|wait| wait.as_secs()), expected, "{device} {effect} {tolerations}");
        }
        let (old, new) = (slice(1, taint("NoExecute")), slice(2, json!([])));
        let claim = claim("gpu-0", json!([]));
        assert_eq!(leave_in(&devices(&claim), &[&old, &new], now, |_, _| since), None, "the newest generation counts");
    }

    #[test]
    fn pods_that_are_not_seen_yet_are_looked_for_again() {
        let pod = |name: &str| {
            let metadata = match name {
                "gone" => return None,
                "going" => json!({"name": name, "uid": name, "deletionTimestamp": "2026-01-01T00:00:00Z"}),
                "former" => json!({"name": name, "uid": "another"}),
                name => json!({"name": name, "uid": name}),
            };
            Some(crate::pods::tests::item(json!({ "metadata": metadata })))
        };
        let cases = [
            ("", "", false),
            ("a b", "a b", false),
            ("a going", "a", false),
            ("a gone", "a", true),
            ("former b", "b", true),
        ];
        for (reserved, leaving, is_any_unseen) in cases {
            let reference = |name| json!({"resource": "pods", "name": name, "uid": name});
            let reserved: Vec<Value> = reserved.split_whitespace().map(reference).collect();
            let claim = json!({"metadata": {"name": "c"}, "spec": {}, "status": {"reservedFor": reserved}});
            let found = users(&serde_json::from_value(claim).unwrap(), pod);
            let names: Vec<&str> = found.leaving.iter().map(|pod| pod.name()).collect();
            assert_eq!((&*names.join(" "), found.is_any_unseen), (leaving, is_any_unseen), "{reserved:?}");
        }
    }

    #[test]
    fn a_taint_without_a_time_counts_from_when_it_was_first_seen_until_it_goes() {
        let at = |text: &str| format!("2026-01-01T00:{text}:00Z").parse::<Timestamp>().unwrap();
        let tainted = slice(1, json!([{"key": "broken", "effect": "NoExecute"}]));
        let allocated = devices(&claim("gpu-0", json!([]))).pop().unwrap();
        let taint = taints("d", "p", "gpu-0", &[&tainted]).pop().unwrap();
        let seen = FirstSeen::default();
        assert_eq!(seen.of(&allocated, &taint, at("01")), at("01"));
        seen.forget_others(&[&tainted]);
        assert_eq!(seen.of(&allocated, &taint, at("02")), at("01"));
        seen.forget_others(&[&slice(2, json!([]))]);
        assert_eq!(seen.of(&allocated, &taint, at("03")), at("03"));
    }
}
