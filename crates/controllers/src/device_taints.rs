//! Eviction by taints of devices: pods leave devices with `NoExecute` taints that their claims do not tolerate, or no longer.
//! Drivers publish the taints with their devices, in ResourceSlices.

use std::{collections::HashMap, time::Duration};

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
    frame::{Env, Loop, Synced, between, sooner},
    node::eviction::{Why, evict},
    owner::Named,
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
        let Some(slice) = of_change.filter_map(|item| published.parse(item)).find(has_taints) else { return };
        let uses = |item: &std::sync::Arc<Item>| {
            all.parse(item).is_some_and(|claim| {
                devices(&claim)
                    .iter()
                    .any(|device| device.driver == slice.spec.driver && device.pool == slice.spec.pool.name)
            })
        };
        all.list().into_iter().filter(uses).for_each(|claim| queue.add(claim.key.clone()));
    });
    let first_seen = FirstSeen::default();
    let sync = async |key: Key| -> Synced {
        let Some(claim) = claims.read(&key.namespace, &key.name) else { return Ok(None) };
        if devices(&claim).is_empty() {
            return Ok(None);
        }
        let published: Vec<ResourceSlice> = slices.list().iter().filter_map(|item| slices.parse(item)).collect();
        first_seen.forget_others(&published);
        let now = Timestamp::now();
        let since = |allocated: &Allocated, taint: &DeviceTaint| {
            taint.time_added.as_ref().map_or_else(|| first_seen.of(allocated, taint, now), |time| time.0)
        };
        let Some(wait) = leave_in(&claim, &published, now, since) else { return Ok(None) };
        if !wait.is_zero() {
            return Ok(Some(wait));
        }
        let users = claim.status.iter().flat_map(|status| status.reserved_for.iter().flatten());
        for user in users.filter(|user| user.resource == "pods") {
            let pod = pods.read(&key.namespace, &user.name).filter(|pod| pod.uid() == user.uid && !pod.is_deleting());
            if let Some(pod) = pod {
                evict(&env, &pod, &WHY).await?;
            }
        }
        Ok(None)
    };
    work.run(&env, 2, sync).await;
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

fn has_taints(slice: &ResourceSlice) -> bool {
    slice.spec.devices.iter().flatten().any(|device| device.taints.as_ref().is_some_and(|taints| !taints.is_empty()))
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
    fn forget_others(&self, slices: &[ResourceSlice]) {
        self.0.lock().retain(|(driver, pool, device), seen| {
            let present = taints(driver, pool, device, slices);
            seen.retain(|(taint, _)| present.contains(taint));
            !seen.is_empty()
        });
    }
}

/// How long the pods of a claim may still stay, when `since` says from when on a taint counts; none for as long as they like.
fn leave_in(
    claim: &ResourceClaim,
    slices: &[ResourceSlice],
    now: Timestamp,
    since: impl Fn(&Allocated, &DeviceTaint) -> Timestamp,
) -> Option<Duration> {
    let mut soonest = None;
    for allocated in devices(claim) {
        let taints = taints(&allocated.driver, &allocated.pool, &allocated.device, slices);
        for taint in taints.iter().filter(|taint| taint.effect == "NoExecute") {
            let since = since(&allocated, taint);
            soonest = sooner(soonest, tolerated_for(&allocated.tolerations, taint, since, now));
        }
    }
    soonest
}

/// The taints of a device, by the newest generation of its pool: what older slices say is of the past.
fn taints(driver: &str, pool: &str, device: &str, slices: &[ResourceSlice]) -> Vec<DeviceTaint> {
    let of_pool = |slice: &&ResourceSlice| slice.spec.driver == driver && slice.spec.pool.name == pool;
    let newest = slices.iter().filter(of_pool).map(|slice| slice.spec.pool.generation).max();
    let present = slices.iter().filter(of_pool).filter(|slice| Some(slice.spec.pool.generation) == newest);
    let devices = present.flat_map(|slice| slice.spec.devices.iter().flatten());
    let own = devices.filter(|known| known.name == device);
    own.flat_map(|device| device.taints.clone().unwrap_or_default()).collect()
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
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let (key, effect) = (text(&toleration.key), text(&toleration.effect));
    let exists = toleration.operator.as_deref() == Some("Exists");
    (effect.is_empty() || effect == taint.effect)
        && (key == taint.key || (key.is_empty() && exists))
        && (exists || text(&toleration.value) == text(&taint.value))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn slice(generation: i64, taints: Value) -> ResourceSlice {
        serde_json::from_value(json!({"metadata": {"name": generation.to_string()}, "spec": {
            "driver": "d", "pool": {"name": "p", "generation": generation, "resourceSliceCount": 1},
            "devices": [{"name": "gpu-0", "taints": taints}, {"name": "gpu-1"}]}}))
        .unwrap()
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
            let wait = leave_in(&claim, &[slice(1, taint(effect))], now, |_, _| since);
            assert_eq!(wait.map(|wait| wait.as_secs()), expected, "{device} {effect} {tolerations}");
        }
        let (old, new) = (slice(1, taint("NoExecute")), slice(2, json!([])));
        let claim = claim("gpu-0", json!([]));
        assert_eq!(leave_in(&claim, &[old, new], now, |_, _| since), None, "the newest generation counts");
    }

    #[test]
    fn a_taint_without_a_time_counts_from_when_it_was_first_seen_until_it_goes() {
        let at = |text: &str| format!("2026-01-01T00:{text}:00Z").parse::<Timestamp>().unwrap();
        let tainted = slice(1, json!([{"key": "broken", "effect": "NoExecute"}]));
        let allocated = devices(&claim("gpu-0", json!([]))).pop().unwrap();
        let taint = taints("d", "p", "gpu-0", std::slice::from_ref(&tainted)).pop().unwrap();
        let seen = FirstSeen::default();
        assert_eq!(seen.of(&allocated, &taint, at("01")), at("01"));
        seen.forget_others(&[tainted]);
        assert_eq!(seen.of(&allocated, &taint, at("02")), at("01"));
        seen.forget_others(&[slice(2, json!([]))]);
        assert_eq!(seen.of(&allocated, &taint, at("03")), at("03"));
    }
}
