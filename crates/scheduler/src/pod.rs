//! A pod as the scheduler sees it: parsed once into what it needs, which equal pods share.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use api::quantity::Quantity;
use client::{Item, Labels};
use serde::{Deserialize, Deserializer, de};

use crate::expression::{Expression, Selector};

/// The CPU (in thousandths) and memory that a container without requests is taken to use when nodes are scored.
const ASSUMED: [(&str, i64); 2] = [("cpu", 100), ("memory", 200 << 20)];

/// A pod that waits for a node or has one.
#[derive(Debug)]
pub(crate) struct Pod {
    pub item: Arc<Item>,
    pub needs: Arc<Needs>,
    pub priority: i32,
    /// Whether it may take the place of pods of lower priority.
    pub preempts: bool,
    pub scheduler: Box<str>,
    pub gated: bool,
    pub generation: i64,
    /// The ReplicaSet, ReplicationController or StatefulSet whose replicas are spread.
    pub owner: Option<Box<str>>,
    pub volumes: Box<[Volume]>,
    pub resource_claims: Box<[ClaimReference]>,
}

/// A volume that needs more of a node than a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Volume {
    pub name: Box<str>,
    pub read_only: bool,
    pub source: VolumeSource,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum VolumeSource {
    /// Of a claim in the pod's namespace; an ephemeral one must be owned by the pod.
    Claim {
        name: Box<str>,
        ephemeral: bool,
    },
    /// Made by a driver for this pod alone.
    Csi {
        driver: Box<str>,
    },
    GcePersistentDisk {
        name: Box<str>,
    },
    AwsElasticBlockStore {
        id: Box<str>,
    },
    Iscsi {
        iqn: Box<str>,
    },
    Rbd {
        monitors: Vec<Box<str>>,
        pool: Box<str>,
        image: Box<str>,
    },
}

/// An entry of `spec.resourceClaims`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClaimReference {
    pub name: Box<str>,
    pub claim: Claim,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Claim {
    Named(Box<str>),
    /// Made from a template for this pod.
    Generated(Box<str>),
    /// Will be made from a template.
    Awaited,
    /// The template asked for none.
    Needless,
}

impl Pod {
    pub fn uid(&self) -> &str {
        &self.item.uid
    }

    pub fn labels(&self) -> &Labels {
        &self.item.labels
    }
}

/// Everything in a pod's specification that decides where it can run. Pods with equal needs get equal answers.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Needs {
    /// What is requested of each resource: CPU in thousandths, all else in units. Zeros are left out.
    pub requests: BTreeMap<Box<str>, i64>,
    /// CPU and memory as nodes are scored by.
    pub assumed: [i64; 2],
    pub node_affinity: NodeAffinity,
    pub tolerations: Vec<Toleration>,
    pub ports: Vec<HostPort>,
    pub images: Vec<Box<str>>,
    pub spread: Vec<SpreadConstraint>,
    pub affinity: PodAffinity,
    pub anti_affinity: PodAffinity,
}

impl Needs {
    pub fn request(&self, resource: &str) -> i64 {
        self.requests.get(resource).copied().unwrap_or(0)
    }

    /// Whether other pods matter to it, or it to them, by their labels.
    pub fn has_affinity(&self) -> bool {
        [&self.affinity, &self.anti_affinity].iter().any(|it| !it.required.is_empty() || !it.preferred.is_empty())
    }
}

#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct NodeAffinity {
    /// `nodeSelector`: all must hold.
    pub selector: Vec<Expression>,
    /// One of these must hold, if it is there at all.
    pub required: Option<Vec<NodeTerm>>,
    pub preferred: Vec<(i32, NodeTerm)>,
}

#[derive(Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct NodeTerm {
    pub match_expressions: Vec<Expression>,
    pub match_fields: Vec<Expression>,
}

#[derive(Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(default)]
pub(crate) struct Toleration {
    pub key: Box<str>,
    pub operator: Box<str>,
    pub value: Box<str>,
    pub effect: Box<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct HostPort {
    pub address: Box<str>,
    pub protocol: Box<str>,
    pub port: u16,
}

#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct SpreadConstraint {
    pub max_skew: i64,
    pub min_domains: i64,
    pub topology_key: Box<str>,
    pub selector: Option<Selector>,
    /// `DoNotSchedule`, else `ScheduleAnyway`.
    pub hard: bool,
    pub honor_affinity: bool,
    pub honor_taints: bool,
}

#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct PodAffinity {
    pub required: Vec<PodTerm>,
    pub preferred: Vec<(i32, PodTerm)>,
}

/// Which pods, and how near: those in the same domain of a node label.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct PodTerm {
    pub topology_key: Box<str>,
    pub selector: Option<Selector>,
    pub namespaces: Vec<Box<str>>,
    pub namespace_selector: Option<Selector>,
}

/// Shares the needs of equal pods.
#[derive(Default)]
pub(crate) struct Parser {
    known: HashSet<Arc<Needs>>,
    forget_at: usize,
}

impl Parser {
    /// Reads a pod of the cache.
    pub fn parse(&mut self, item: Arc<Item>) -> Result<Pod, serde_json::Error> {
        let raw: RawPod = serde_json::from_slice(&item.bytes)?;
        let mut spec = raw.spec;
        let owner = item
            .controller()
            .filter(|owner| ["ReplicaSet", "ReplicationController", "StatefulSet"].contains(&&*owner.kind))
            .map(|owner| owner.uid.clone());
        let (priority, preempts) = (spec.priority, &*spec.preemption_policy != "Never");
        let (scheduler, gated) = (spec.scheduler_name.clone(), !spec.scheduling_gates.is_empty());
        let volumes = std::mem::take(&mut spec.volumes).into_iter().filter_map(|it| it.resolve(item.name())).collect();
        let claims = std::mem::take(&mut spec.resource_claims).into_iter();
        let resource_claims = claims.map(|it| it.resolve(&raw.status.resource_claim_statuses)).collect();
        let needs = self.share(spec.needs(&item));
        let generation = raw.metadata.generation;
        Ok(Pod { item, needs, priority, preempts, scheduler, gated, generation, owner, volumes, resource_claims })
    }

    fn share(&mut self, needs: Needs) -> Arc<Needs> {
        if let Some(known) = self.known.get(&needs) {
            return known.clone();
        }
        if self.known.len() >= self.forget_at {
            self.known.retain(|needs| Arc::strong_count(needs) > 1);
            self.forget_at = (self.known.len() * 2).max(256);
        }
        let needs = Arc::new(needs);
        self.known.insert(needs.clone());
        needs
    }
}

/// The `metadata.generation` of an item, which grows with each change of its specification.
pub(crate) fn generation(item: &Item) -> i64 {
    #[derive(Deserialize)]
    struct Head {
        metadata: RawMeta,
    }
    serde_json::from_slice::<Head>(&item.bytes).map_or(0, |head| head.metadata.generation)
}

#[derive(Deserialize)]
struct RawPod {
    metadata: RawMeta,
    spec: RawSpec,
    #[serde(default)]
    status: RawStatus,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct RawStatus {
    resource_claim_statuses: Vec<RawClaimStatus>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawClaimStatus {
    name: Box<str>,
    resource_claim_name: Option<Box<str>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawClaim {
    name: Box<str>,
    resource_claim_name: Option<Box<str>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawVolume {
    name: Box<str>,
    persistent_volume_claim: Option<RawSource>,
    ephemeral: Option<de::IgnoredAny>,
    csi: Option<RawSource>,
    gce_persistent_disk: Option<RawSource>,
    aws_elastic_block_store: Option<RawSource>,
    iscsi: Option<RawSource>,
    rbd: Option<RawSource>,
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
    read_only: bool,
}

#[derive(Deserialize)]
struct RawMeta {
    #[serde(default)]
    generation: i64,
}

type Amounts = BTreeMap<Box<str>, Amount>;

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct RawSpec {
    scheduler_name: Box<str>,
    priority: i32,
    preemption_policy: Box<str>,
    scheduling_gates: Vec<de::IgnoredAny>,
    node_selector: BTreeMap<Box<str>, Box<str>>,
    affinity: RawAffinity,
    tolerations: Vec<Toleration>,
    containers: Vec<RawContainer>,
    init_containers: Vec<RawContainer>,
    resources: RawResources,
    overhead: Amounts,
    topology_spread_constraints: Vec<RawSpread>,
    volumes: Vec<RawVolume>,
    resource_claims: Vec<RawClaim>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct RawContainer {
    image: Box<str>,
    resources: RawResources,
    ports: Vec<RawPort>,
    restart_policy: Box<str>,
}

#[derive(Deserialize, Default)]
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

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct RawNodeAffinity {
    #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution")]
    required: Option<RawNodeSelector>,
    #[serde(rename = "preferredDuringSchedulingIgnoredDuringExecution")]
    preferred: Vec<RawPreference>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawNodeSelector {
    #[serde(default)]
    node_selector_terms: Vec<NodeTerm>,
}

#[derive(Deserialize)]
struct RawPreference {
    weight: i32,
    preference: NodeTerm,
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
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawSpread {
    max_skew: i64,
    min_domains: Option<i64>,
    topology_key: Box<str>,
    when_unsatisfiable: Box<str>,
    label_selector: Option<Selector>,
    #[serde(default)]
    match_label_keys: Vec<Box<str>>,
    node_affinity_policy: Option<Box<str>>,
    node_taints_policy: Option<Box<str>>,
}

impl RawSpec {
    fn needs(self, item: &Item) -> Needs {
        let requests = self.requests();
        let assumed = ASSUMED.map(|(resource, default)| {
            self.total(resource, |it| it.resources.requests.get(resource).map_or(default, |amount| amount.of(resource)))
        });
        let ports = self.containers.iter().chain(self.init_containers.iter().filter(|it| it.is_sidecar()));
        let ports = ports.flat_map(|container| &container.ports).filter(|port| port.host_port > 0).map(HostPort::from);
        let pod_affinity = |raw: RawPodAffinity| PodAffinity {
            required: raw.required.into_iter().map(|term| term.resolve(item)).collect(),
            preferred: raw.preferred.into_iter().map(|it| (it.weight, it.pod_affinity_term.resolve(item))).collect(),
        };
        let RawNodeAffinity { required, preferred } = self.affinity.node_affinity;
        Needs {
            requests,
            assumed,
            ports: ports.collect(),
            images: self.containers.iter().map(|container| image_name(&container.image)).collect(),
            node_affinity: NodeAffinity {
                selector: self.node_selector.into_iter().map(|(key, value)| Expression::equals(key, value)).collect(),
                required: required.map(|selector| selector.node_selector_terms),
                preferred: preferred.into_iter().map(|it| (it.weight, it.preference)).collect(),
            },
            tolerations: self.tolerations,
            spread: self.topology_spread_constraints.into_iter().map(|it| it.resolve(item)).collect(),
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
    fn resolve(self, pod: &str) -> Option<Volume> {
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
    fn resolve(self, statuses: &[RawClaimStatus]) -> ClaimReference {
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
    fn resolve(self, item: &Item) -> PodTerm {
        let Self { topology_key, label_selector: selector, mut namespaces, namespace_selector } = self;
        if namespaces.is_empty() && namespace_selector.is_none() {
            namespaces.push(item.namespace().into());
        }
        PodTerm { topology_key, selector, namespaces, namespace_selector }
    }
}

impl RawSpread {
    fn resolve(self, item: &Item) -> SpreadConstraint {
        let mut selector = self.label_selector;
        for key in self.match_label_keys {
            if let (Some(selector), Some(value)) = (&mut selector, item.labels.get(&key)) {
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

/// A quantity, of CPU in thousandths when asked as such.
#[derive(Clone, Copy)]
pub(crate) struct Amount(Quantity);

impl Amount {
    /// The amount in the unit in which a resource is counted.
    pub fn of(&self, resource: &str) -> i64 {
        if resource == "cpu" { self.0.milli_value() } else { self.0.value() }
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Amount;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a quantity")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Amount, E> {
                Quantity::parse(text).map(Amount).map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Amount, E> {
                self.visit_str(&number.to_string())
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Amount, E> {
                self.visit_str(&number.to_string())
            }
            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Amount, E> {
                self.visit_str(&number.to_string())
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}
