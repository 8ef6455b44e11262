//! The devices that nodes have, as drivers publish them in ResourceSlices.

use std::collections::HashMap;

use client::Item;
use k8s_openapi::api::{
    core::v1::NodeSelector,
    resource::v1::{Device, ResourceSlice, ResourceSliceSpec},
};

use super::taken::DeviceId;
use crate::{
    node::Node,
    plugins::node_affinity,
    pod::{NodeAffinity, RawNodeAffinity},
};

/// A slice, read once.
pub(super) struct Slice {
    pub name: Box<str>,
    pub version: u64,
    pub spec: ResourceSliceSpec,
    /// The nodes that the slice's devices, or each of them, can be reached from.
    affinity: Option<NodeAffinity>,
    of_devices: Vec<Option<NodeAffinity>>,
}

/// Node selectors as the other rules know them.
pub(super) fn affinity(selector: &NodeSelector) -> Option<NodeAffinity> {
    let raw = serde_json::json!({"requiredDuringSchedulingIgnoredDuringExecution": selector});
    serde_json::from_value::<RawNodeAffinity>(raw).ok().map(|raw| raw.resolve(Vec::new()))
}

impl Slice {
    pub fn read(item: &Item) -> Option<Self> {
        let spec = item.parse::<ResourceSlice>().ok()?.spec;
        let devices = spec.devices.iter().flatten();
        Some(Self {
            name: item.name().into(),
            version: item.resource_version,
            affinity: spec.node_selector.as_ref().and_then(affinity),
            of_devices: devices.map(|device| device.node_selector.as_ref().and_then(affinity)).collect(),
            spec,
        })
    }

    fn reaches(&self, device: usize, node: &Node) -> bool {
        let reaches = |all: Option<bool>, name: Option<&String>, affinity: Option<&NodeAffinity>| {
            all == Some(true)
                || name.is_some_and(|name| **name == *node.name)
                || affinity.is_some_and(|affinity| node_affinity::fits(affinity, node))
        };
        let spec = &self.spec;
        if spec.per_device_node_selection != Some(true) {
            return reaches(spec.all_nodes, spec.node_name.as_ref(), self.affinity.as_ref());
        }
        let Some(it) = spec.devices.as_ref().and_then(|devices| devices.get(device)) else { return false };
        reaches(it.all_nodes, it.node_name.as_ref(), self.of_devices[device].as_ref())
    }
}

/// A device that a node can use, if nobody else does.
pub(super) struct Candidate<'a> {
    pub slice: &'a ResourceSliceSpec,
    pub device: &'a Device,
    /// Whether more of its pool may be about to come.
    pub incomplete: bool,
}

impl Candidate<'_> {
    pub fn id(&self) -> DeviceId {
        DeviceId {
            driver: self.slice.driver.clone(),
            pool: self.slice.pool.name.clone(),
            device: self.device.name.clone(),
        }
    }
}

/// The devices of all pools that a node can reach, in the order of driver, pool and slice. Of each pool only the newest
/// generation counts.
pub(super) fn candidates<'a>(slices: &'a [std::sync::Arc<Slice>], node: &Node) -> Vec<Candidate<'a>> {
    // By driver and pool: the newest generation, and how many slices of it there are.
    let mut newest: HashMap<(&str, &str), (i64, i64)> = HashMap::new();
    for slice in slices {
        let pool = &slice.spec.pool;
        let entry = newest.entry((&slice.spec.driver, &pool.name)).or_insert((pool.generation, 0));
        if entry.0 < pool.generation {
            *entry = (pool.generation, 0);
        }
        entry.1 += i64::from(entry.0 == pool.generation);
    }
    let mut all = Vec::new();
    for slice in slices {
        let pool = &slice.spec.pool;
        let Some((generation, count)) = newest.get(&(&*slice.spec.driver, &*pool.name)) else { continue };
        if *generation != pool.generation {
            continue;
        }
        let incomplete = *count != pool.resource_slice_count;
        let devices = slice.spec.devices.iter().flatten().enumerate();
        let reached = devices.filter(|(index, _)| slice.reaches(*index, node));
        all.extend(reached.map(|(_, device)| Candidate { slice: &slice.spec, device, incomplete }));
    }
    all.sort_by_key(|it| (&it.slice.driver, &it.slice.pool.name));
    all
}
