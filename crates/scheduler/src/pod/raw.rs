//! The fields of a pod's JSON that matter here, and what becomes of them.

use std::{collections::BTreeMap, sync::Arc};

use client::{Item, Labels};
use serde::{Deserialize, de};

use super::{
    Amount, Claim, ClaimReference, HostPort, Needs, NodeAffinity, NodeTerm, PodAffinity, PodTerm, SpreadConstraint,
    Toleration, Volume, VolumeSource,
};
use crate::{
    expression::{Expression, Operator, Selector},
    namespaces::Scope,
};

/// The CPU (in thousandths) and memory that a container without requests is taken to use when nodes are scored.
const ASSUMED: [(&str, i64); 2] = [("cpu", 100), ("memory", 200 << 20)];

#[derive(Deserialize)]
pub(super) struct RawPod {
    pub metadata: RawMeta,
    pub spec: RawSpec,
    #[serde(default)]
    pub status: RawStatus,
}

/// Whether a newer version of a bound pod's item may need other resources than before: its specification has changed, or its
/// kubelet has changed what it gives to it.
pub(crate) fn is_resized(old: &Item, new: &Item) -> bool {
    #[derive(Deserialize)]
    struct Head {
        metadata: RawMeta,
        #[serde(default)]
        status: RawStatus,
    }
    let read = |item: &Item| serde_json::from_slice::<Head>(&item.bytes).ok();
    match (read(old), read(new)) {
        (Some(old), Some(new)) => {
            old.metadata.generation != new.metadata.generation
                || old.status.container_statuses != new.status.container_statuses
        }
        _ => true,
    }
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct RawStatus {
    pub nominated_node_name: Option<Box<str>>,
    pub resource_claim_statuses: Vec<RawClaimStatus>,
    pub container_statuses: Vec<RawContainerStatus>,
}

/// What a container has, which during a resize may be more than what it asks for.
#[derive(Deserialize, Default, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct RawContainerStatus {
    name: Box<str>,
    allocated_resources: Amounts,
    resources: RawResources,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawClaimStatus {
    name: Box<str>,
    resource_claim_name: Option<Box<str>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawClaim {
    name: Box<str>,
    resource_claim_name: Option<Box<str>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawVolume {
    name: Box<str>,
    persistent_volume_claim: Option<RawSource>,
    ephemeral: Option<de::IgnoredAny>,
    csi: Option<RawSource>,
    gce_persistent_disk: Option<RawSource>,
    aws_elastic_block_store: Option<RawSource>,
    iscsi: Option<RawSource>,
    rbd: Option<RawSource>,
    image: Option<RawSource>,
}

/// The fields of all sources that matter.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct RawSource {
    claim_name: Box<str>,
    driver: Box<str>,
    pd_name: Box<str>,
    #[serde(rename = "volumeID")]
    volume_id: Box<str>,
    iqn: Box<str>,
    monitors: Vec<Box<str>>,
    pool: Box<str>,
    image: Box<str>,
    reference: Box<str>,
    read_only: bool,
}

#[derive(Deserialize)]
pub(super) struct RawMeta {
    #[serde(default)]
    pub generation: i64,
}

type Amounts = BTreeMap<Box<str>, Amount>;

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct RawSpec {
    pub scheduler_name: Box<str>,
    pub priority: i32,
    pub preemption_policy: Box<str>,
    pub scheduling_gates: Vec<de::IgnoredAny>,
    node_selector: BTreeMap<Box<str>, Box<str>>,
    affinity: RawAffinity,
    tolerations: Vec<Toleration>,
    containers: Vec<RawContainer>,
    init_containers: Vec<RawContainer>,
    resources: RawResources,
    overhead: Amounts,
    topology_spread_constraints: Vec<RawSpread>,
    pub volumes: Vec<RawVolume>,
    pub resource_claims: Vec<RawClaim>,
    pub scheduling_group: Option<RawGroup>,
    #[serde(rename = "hostUsers")]
    host_users: Option<bool>,
    host_network: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawGroup {
    pub pod_group_name: Option<Box<str>>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct RawContainer {
    name: Box<str>,
    image: Box<str>,
    restart_policy_rules: Vec<RawRestartRule>,
    resources: RawResources,
    ports: Vec<RawPort>,
    restart_policy: Box<str>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawRestartRule {
    action: Box<str>,
}

#[derive(Deserialize, Default, PartialEq)]
#[serde(default)]
struct RawResources {
    requests: Amounts,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct RawPort {
    host_port: u16,
    #[serde(rename = "hostIP")]
    host_ip: Box<str>,
    protocol: Box<str>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct RawAffinity {
    node_affinity: RawNodeAffinity,
    pod_affinity: RawPodAffinity,
    pod_anti_affinity: RawPodAffinity,
}

#[derive(Debug, Clone, Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct RawNodeAffinity {
    #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution")]
    pub required: Option<RawNodeSelector>,
    #[serde(rename = "preferredDuringSchedulingIgnoredDuringExecution")]
    pub preferred: Vec<RawPreference>,
}

impl RawNodeAffinity {
    pub fn resolve(self, selector: Vec<Expression>) -> NodeAffinity {
        NodeAffinity {
            selector,
            required: self.required.map(|selector| selector.node_selector_terms),
            preferred: self.preferred.into_iter().map(|it| (it.weight, it.preference)).collect(),
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RawNodeSelector {
    #[serde(default)]
    pub node_selector_terms: Vec<NodeTerm>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct RawPreference {
    pub weight: i32,
    pub preference: NodeTerm,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawPodAffinity {
    #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution")]
    required: Vec<RawPodTerm>,
    #[serde(rename = "preferredDuringSchedulingIgnoredDuringExecution")]
    preferred: Vec<RawWeighted>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawWeighted {
    weight: i32,
    pod_affinity_term: RawPodTerm,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPodTerm {
    topology_key: Box<str>,
    label_selector: Option<Selector>,
    #[serde(default)]
    namespaces: Vec<Box<str>>,
    namespace_selector: Option<Selector>,
    #[serde(default)]
    match_label_keys: Vec<Box<str>>,
    #[serde(default)]
    mismatch_label_keys: Vec<Box<str>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct RawSpread {
    pub max_skew: i64,
    pub min_domains: Option<i64>,
    pub topology_key: Box<str>,
    pub when_unsatisfiable: Box<str>,
    pub label_selector: Option<Selector>,
    pub match_label_keys: Vec<Box<str>>,
    pub node_affinity_policy: Option<Box<str>>,
    pub node_taints_policy: Option<Box<str>>,
}

impl RawSpec {
    /// What the pod needs; `has` is what its containers have already.
    pub fn needs(mut self, item: &Item, has: &[RawContainerStatus]) -> Needs {
        for container in &mut self.containers {
            let Some(has) = has.iter().find(|it| it.name == container.name) else { continue };
            for (resource, request) in &mut container.resources.requests {
                let given =
                    [&has.allocated_resources, &has.resources.requests].into_iter().filter_map(|it| it.get(resource));
                *request = given.fold(*request, |a, b| if b.of(resource) > a.of(resource) { *b } else { a });
            }
        }
        let requests = self.requests();
        let assumed = ASSUMED.map(|(resource, default)| {
            self.total(resource, |it| it.resources.requests.get(resource).map_or(default, |amount| amount.of(resource)))
        });
        let ports = self.containers.iter().chain(self.init_containers.iter().filter(|it| it.is_sidecar()));
        let ports = ports.flat_map(|container| &container.ports).filter(|port| port.host_port > 0).map(HostPort::from);
        let mounted = self.volumes.iter().filter_map(|volume| Some(&*volume.image.as_ref()?.reference));
        let images =
            self.init_containers.iter().chain(&self.containers).map(|container| &*container.image).chain(mounted);
        let pod_affinity = |raw: RawPodAffinity| PodAffinity {
            required: raw.required.into_iter().map(|term| term.resolve(item)).collect(),
            preferred: raw.preferred.into_iter().map(|it| (it.weight, it.pod_affinity_term.resolve(item))).collect(),
        };
        let selector = self.node_selector.into_iter().map(|(key, value)| Expression::equals(key, value)).collect();
        let rules = self.containers.iter().chain(&self.init_containers).flat_map(|it| &it.restart_policy_rules);
        let features = [
            (
                rules.into_iter().any(|rule| &*rule.action == "RestartAllContainers"),
                "RestartAllContainersOnContainerExits",
            ),
            (self.host_network && self.host_users == Some(false), "UserNamespacesHostNetwork"),
        ];
        Needs {
            requests,
            assumed,
            ports: ports.collect(),
            images: images.map(image_name).collect(),
            features: features.into_iter().filter(|(needed, _)| *needed).map(|(_, name)| name).collect(),
            node_affinity: self.affinity.node_affinity.resolve(selector),
            tolerations: self.tolerations,
            spread: self.topology_spread_constraints.into_iter().map(|it| it.resolve(&item.labels)).collect(),
            affinity: pod_affinity(self.affinity.pod_affinity),
            anti_affinity: pod_affinity(self.affinity.pod_anti_affinity),
        }
    }

    /// What the pod requests: its containers and sidecars together, or the most that an init container needs beside the
    /// sidecars before it; what the pod itself states in their stead; and the overhead.
    fn total(&self, resource: &str, of: impl Fn(&RawContainer) -> i64) -> i64 {
        let (mut sidecars, mut peak) = (0, 0);
        for init in &self.init_containers {
            if init.is_sidecar() {
                sidecars += of(init);
                peak = peak.max(sidecars);
            } else {
                peak = peak.max(sidecars + of(init));
            }
        }
        let running = self.containers.iter().map(&of).sum::<i64>() + sidecars;
        let own = self.resources.requests.get(resource).map(|amount| amount.of(resource));
        own.unwrap_or(running.max(peak)) + self.overhead.get(resource).map_or(0, |amount| amount.of(resource))
    }

    /// What it requests of each resource that is named anywhere.
    fn requests(&self) -> BTreeMap<Box<str>, i64> {
        let every = self.containers.iter().chain(&self.init_containers);
        let names = every.flat_map(|it| it.resources.requests.keys());
        let mut requests = BTreeMap::new();
        for name in names.chain(self.resources.requests.keys()).chain(self.overhead.keys()) {
            if !requests.contains_key(name) {
                let total = self.total(name, |it| it.resources.requests.get(name).map_or(0, |amount| amount.of(name)));
                requests.insert(name.clone(), total);
            }
        }
        requests.retain(|_, amount| *amount > 0);
        requests
    }
}

impl RawVolume {
    pub fn resolve(self, pod: &str) -> Option<Volume> {
        let Self {
            name, persistent_volume_claim, ephemeral, csi, gce_persistent_disk, aws_elastic_block_store, ..
        } = self;
        let (source, read_only) = if ephemeral.is_some() {
            (VolumeSource::Claim { name: format!("{pod}-{name}").into(), ephemeral: true }, false)
        } else if let Some(it) = persistent_volume_claim {
            (VolumeSource::Claim { name: it.claim_name, ephemeral: false }, it.read_only)
        } else if let Some(it) = csi {
            (VolumeSource::Csi { driver: it.driver }, it.read_only)
        } else if let Some(it) = gce_persistent_disk {
            (VolumeSource::GcePersistentDisk { name: it.pd_name }, it.read_only)
        } else if let Some(it) = aws_elastic_block_store {
            (VolumeSource::AwsElasticBlockStore { id: it.volume_id }, it.read_only)
        } else if let Some(it) = self.iscsi {
            (VolumeSource::Iscsi { iqn: it.iqn }, it.read_only)
        } else {
            let it = self.rbd?;
            (VolumeSource::Rbd { monitors: it.monitors, pool: it.pool, image: it.image }, it.read_only)
        };
        Some(Volume { name, read_only, source })
    }
}

impl RawClaim {
    pub fn resolve(self, statuses: &[RawClaimStatus]) -> ClaimReference {
        let Self { name, resource_claim_name } = self;
        let claim = match (resource_claim_name, statuses.iter().find(|status| status.name == name)) {
            (Some(claim), _) => Claim::Named(claim),
            (None, None) => Claim::Awaited,
            (None, Some(status)) => status.resource_claim_name.clone().map_or(Claim::Needless, Claim::Generated),
        };
        ClaimReference { name, claim }
    }
}

impl RawContainer {
    fn is_sidecar(&self) -> bool {
        &*self.restart_policy == "Always"
    }
}

impl From<&RawPort> for HostPort {
    fn from(raw: &RawPort) -> Self {
        let or = |text: &str, default: &str| Box::from(if text.is_empty() { default } else { text });
        Self { address: or(&raw.host_ip, "0.0.0.0"), protocol: or(&raw.protocol, "TCP"), port: raw.host_port }
    }
}

impl RawPodTerm {
    fn resolve(self, item: &Item) -> Arc<PodTerm> {
        let Self { topology_key, label_selector: mut selector, mut namespaces, namespace_selector, .. } = self;
        // The API writes these into the selector when the pod is made; it does no harm to have them twice.
        let keys = self.match_label_keys.into_iter().map(|key| (key, Operator::In));
        let keys = keys.chain(self.mismatch_label_keys.into_iter().map(|key| (key, Operator::NotIn)));
        for (key, operator) in keys {
            if let (Some(selector), Some(value)) = (&mut selector, item.labels.get(&key)) {
                selector.0.push(Expression { operator, ..Expression::equals(key, value.into()) });
            }
        }
        if namespaces.is_empty() && namespace_selector.is_none() {
            namespaces.push(item.namespace().into());
        }
        Arc::new(PodTerm { topology_key, selector, scope: Scope { names: namespaces, selector: namespace_selector } })
    }
}

impl RawSpread {
    pub fn resolve(self, labels: &Labels) -> SpreadConstraint {
        let mut selector = self.label_selector;
        for key in self.match_label_keys {
            if let (Some(selector), Some(value)) = (&mut selector, labels.get(&key)) {
                selector.0.push(Expression::equals(key, value.into()));
            }
        }
        SpreadConstraint {
            max_skew: self.max_skew,
            min_domains: self.min_domains.unwrap_or(1),
            topology_key: self.topology_key,
            selector,
            hard: &*self.when_unsatisfiable == "DoNotSchedule",
            honor_affinity: self.node_affinity_policy.is_none_or(|policy| &*policy == "Honor"),
            honor_taints: self.node_taints_policy.is_some_and(|policy| &*policy == "Honor"),
        }
    }
}

/// An image's name as nodes report it, with its tag.
fn image_name(name: &str) -> Box<str> {
    if name.rfind(':') <= name.rfind('/') { format!("{name}:latest").into() } else { name.into() }
}
