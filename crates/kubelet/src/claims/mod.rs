//! Dynamic resources: claims of devices that the scheduler has allocated, and the drivers that prepare them on this node.
//!
//! Drivers register by a socket ([`plugins`](crate::plugins)). A claim is prepared before the first pod that uses it gets its
//! sandbox, and taken back when the last one has ended; containers are given its devices by their CDI names. What is to be
//! prepared is written down before a driver is asked, so that a restarted kubelet takes back what a killed one began.

mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceSlice};
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::pods::pod::{Member, Pod};
use crate::volumes::csi::wire::{PluginInfo, Socket};

const VERSION: u32 = 1;
/// How long a driver that is gone may take to come back before what it offers on this node is withdrawn.
const RETURN: Duration = Duration::from_secs(30);
const AGAIN: Duration = Duration::from_secs(5);

/// One version of the drivers' service: its name at the registration, and its methods.
struct Service {
    name: &'static str,
    prepare: &'static str,
    unprepare: &'static str,
}

/// The newest first.
static SERVICES: [Service; 2] = [
    Service {
        name: "v1.DRAPlugin",
        prepare: "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodePrepareResources",
        unprepare: "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodeUnprepareResources",
    },
    Service {
        name: "v1beta1.DRAPlugin",
        prepare: "/k8s.io.kubelet.pkg.apis.dra.v1beta1.DRAPlugin/NodePrepareResources",
        unprepare: "/k8s.io.kubelet.pkg.apis.dra.v1beta1.DRAPlugin/NodeUnprepareResources",
    },
];

#[derive(Clone)]
struct Driver {
    socket: Socket,
    service: &'static Service,
    /// The socket by which it registered.
    registered_by: PathBuf,
}

/// A claim that pods of this node use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Known {
    namespace: String,
    name: String,
    uid: String,
    /// By their uids.
    pods: BTreeSet<String>,
    /// What each driver has prepared.
    drivers: BTreeMap<String, Vec<Device>>,
    prepared: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Device {
    /// The requests of the claim that it serves; none for all.
    requests: Vec<String>,
    pool: String,
    device: String,
    cdi: Vec<String>,
}

/// What is kept over a restart.
#[derive(Default, Serialize, Deserialize)]
struct Checkpoint {
    version: u32,
    claims: Vec<Known>,
}

/// All claims that are used on the node.
pub struct Claims {
    file: PathBuf,
    client: kube::Client,
    node: String,
    /// By name, the latest of each last: a driver that is replaced may serve beside its successor for a while.
    drivers: Mutex<BTreeMap<String, Vec<Driver>>>,
    known: Mutex<Vec<Known>>,
    /// One preparation or taking back at a time.
    turn: tokio::sync::Mutex<()>,
    /// Cancelled when the kubelet ends.
    stopping: CancellationToken,
}

impl Claims {
    /// With what was written down in `directory` before.
    pub fn open(directory: &Path, client: kube::Client, node: &str, stopping: CancellationToken) -> io::Result<Claims> {
        let file = directory.join("dra_manager_state");
        let known = match std::fs::read(&file) {
            Ok(text) => {
                let read: Checkpoint = serde_json::from_slice(&text)?;
                if read.version != VERSION {
                    let version = read.version;
                    return Err(io::Error::other(format!("the claims' checkpoint has the unknown version {version}")));
                }
                read.claims
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let (node, turn) = (node.to_owned(), tokio::sync::Mutex::default());
        Ok(Claims { file, client, node, drivers: Mutex::default(), known: Mutex::new(known), turn, stopping })
    }

    /// Takes in a driver.
    pub fn register(&self, path: &Path, info: &PluginInfo) -> Result<(), String> {
        let refused = |why: String| {
            let (name, endpoint) = (&info.name, &info.endpoint);
            format!("invalid supported gRPC versions of DRA driver plugin {name} at endpoint {endpoint}: {why}")
        };
        if info.supported_versions.is_empty() {
            return Err(refused("empty list of supported gRPC services (aka supported versions)".to_owned()));
        }
        let service = SERVICES.iter().find(|service| info.supported_versions.iter().any(|name| name == service.name));
        let service = service.ok_or_else(|| {
            let ours = SERVICES.each_ref().map(|service| service.name);
            let theirs = &info.supported_versions;
            refused(format!(
                "none of services supported by the plugin ({theirs:?}) are supported by the kubelet ({ours:?})"
            ))
        })?;
        let socket = Socket::new(Path::new(&info.endpoint))?;
        let driver = Driver { socket, service, registered_by: path.to_owned() };
        self.drivers.lock().entry(info.name.clone()).or_default().push(driver);
        tracing::info!(driver = info.name, service = service.name, "a driver of dynamic resources has registered");
        Ok(())
    }

    /// A driver's socket is gone. What it offers here is withdrawn, unless it or another of its name is back in time.
    pub fn forget(self: Arc<Claims>, name: String, path: &Path) {
        let last = {
            let mut drivers = self.drivers.lock();
            let Some(all) = drivers.get_mut(&name) else { return };
            all.retain(|driver| driver.registered_by != path);
            let last = all.is_empty();
            if last {
                drivers.remove(&name);
            }
            last
        };
        tracing::info!(driver = name, "a driver of dynamic resources has gone");
        if last {
            let stopping = self.stopping.clone();
            tokio::spawn(stopping.run_until_cancelled_owned(async move {
                tokio::time::sleep(RETURN).await;
                if !self.drivers.lock().contains_key(&name) {
                    self.withdraw(Some(&name)).await;
                }
            }));
        }
    }

    /// Removes the node's slices: nobody knows at first whether their drivers come back, and one that does offers anew.
    pub async fn withdraw_all(self: Arc<Claims>) {
        self.withdraw(None).await;
    }

    async fn withdraw(&self, driver: Option<&str>) {
        let slices: Api<ResourceSlice> = Api::all(self.client.clone());
        let of_node = format!("spec.nodeName={}", self.node);
        let fields = driver.map_or(of_node.clone(), |driver| format!("{of_node},spec.driver={driver}"));
        let chosen = ListParams::default().fields(&fields);
        while let Err(error) = slices.delete_collection(&DeleteParams::default(), &chosen).await {
            tracing::debug!(%error, fields, "slices cannot be removed yet");
            tokio::time::sleep(AGAIN).await;
        }
    }

    fn driver(&self, name: &str) -> Result<Driver, String> {
        let drivers = self.drivers.lock();
        let latest = drivers.get(name).and_then(|all| all.last()).cloned();
        latest.ok_or_else(|| format!("DRA driver {name} is not registered"))
    }

    /// Prepares the claims of a pod, if they are not.
    pub async fn prepare(&self, pod: &Pod) -> Result<(), String> {
        let names = names(pod)?;
        if names.is_empty() {
            return Ok(());
        }
        let _turn = self.turn.lock().await;
        let claims: Api<ResourceClaim> = Api::namespaced(self.client.clone(), &pod.namespace);
        // All is looked at before anything is noted: a pod that cannot have its claims leaves nothing to take back.
        let mut wanted = Vec::new();
        for (_, name, owned) in names {
            let claim = claims.get(&name).await.map_err(|error| format!("fetch ResourceClaim {name}: {error}"))?;
            let claim = usable(pod, &claim, owned)?;
            for driver in claim.drivers.keys() {
                self.driver(driver)?;
            }
            wanted.push(claim);
        }
        let unprepared = self.note(pod, wanted)?;
        for (name, claims) in by_driver(&unprepared) {
            let driver = self.driver(&name)?;
            let request = wire::Claims { claims: claims.iter().map(|claim| (*claim).into()).collect() };
            let answer: wire::Prepared = driver
                .socket
                .call(driver.service.prepare, request)
                .await
                .map_err(|error| format!("NodePrepareResources: {error}"))?;
            let results = answer.claims.iter().map(|(uid, claim)| (uid.as_str(), claim.error.as_str()));
            check("NodePrepareResources", &claims, results)?;
            let mut known = self.known.lock();
            for claim in known.iter_mut() {
                if let Some(told) = answer.claims.get(&claim.uid) {
                    let device = |device: &wire::Device| Device {
                        requests: device.request_names.clone(),
                        pool: device.pool_name.clone(),
                        device: device.device_name.clone(),
                        cdi: device.cdi_device_ids.clone(),
                    };
                    claim.drivers.insert(name.clone(), told.devices.iter().map(device).collect());
                }
            }
        }
        let done: BTreeSet<&str> = unprepared.iter().map(|claim| claim.uid.as_str()).collect();
        self.known.lock().iter_mut().filter(|known| done.contains(known.uid.as_str())).for_each(|k| k.prepared = true);
        self.write()
    }

    /// Notes that the pod uses the claims, and gives those that are not prepared.
    fn note(&self, pod: &Pod, wanted: Vec<Known>) -> Result<Vec<Known>, String> {
        let unprepared = {
            let mut known = self.known.lock();
            let same = |a: &Known, b: &Known| (&a.namespace, &a.name) == (&b.namespace, &b.name);
            let stranger = wanted.iter().find_map(|w| known.iter().find(|k| same(k, w) && k.uid != w.uid));
            if let Some(Known { name, uid, .. }) = stranger {
                let why = "still exists (previous pod force-deleted?!)";
                return Err(format!("old ResourceClaim with same name {name} and different UID {uid} {why}"));
            }
            let mut unprepared = Vec::new();
            for claim in wanted {
                let at = known.iter().position(|known| same(known, &claim)).unwrap_or_else(|| {
                    known.push(claim);
                    known.len() - 1
                });
                known[at].pods.insert(pod.uid.clone());
                if !known[at].prepared {
                    unprepared.push(known[at].clone());
                }
            }
            unprepared
        };
        self.write()?;
        Ok(unprepared)
    }

    /// Takes back the claims of a pod that has ended, but those that others use.
    pub async fn unprepare(&self, pod: &str) -> Result<(), String> {
        if !self.known.lock().iter().any(|claim| claim.pods.contains(pod)) {
            return Ok(());
        }
        let _turn = self.turn.lock().await;
        let last: Vec<Known> = {
            let known = self.known.lock();
            known.iter().filter(|claim| claim.pods.len() == 1 && claim.pods.contains(pod)).cloned().collect()
        };
        for (name, claims) in by_driver(&last) {
            let driver = self.driver(&name)?;
            let request = wire::Claims { claims: claims.iter().map(|claim| (*claim).into()).collect() };
            let answer: wire::Unprepared = driver
                .socket
                .call(driver.service.unprepare, request)
                .await
                .map_err(|error| format!("NodeUnprepareResources: {error}"))?;
            let results = answer.claims.iter().map(|(uid, claim)| (uid.as_str(), claim.error.as_str()));
            check("NodeUnprepareResources", &claims, results)?;
        }
        {
            let mut known = self.known.lock();
            known.iter_mut().for_each(|claim| _ = claim.pods.remove(pod));
            known.retain(|claim| !claim.pods.is_empty());
        }
        self.write()
    }

    /// Takes back, as soon as their drivers can, the claims of pods that are no longer here.
    pub fn keep(self: Arc<Claims>, here: impl Fn(&str) -> bool) {
        let all: BTreeSet<String> = self.known.lock().iter().flat_map(|claim| claim.pods.clone()).collect();
        for pod in all.into_iter().filter(|pod| !here(pod)) {
            let claims = self.clone();
            tokio::spawn(self.stopping.clone().run_until_cancelled_owned(async move {
                while let Err(error) = claims.unprepare(&pod).await {
                    tracing::warn!(pod, error, "the claims of a pod long gone cannot be taken back yet");
                    tokio::time::sleep(AGAIN).await;
                }
            }));
        }
    }

    /// The CDI devices of a container.
    pub fn devices(&self, pod: &Pod, member: &Member) -> Result<Vec<String>, String> {
        let wanted = member.spec.resources.as_ref().and_then(|resources| resources.claims.as_ref());
        let mut requests: Vec<(String, Option<String>)> = Vec::new();
        let names = names(pod)?;
        for claim in wanted.into_iter().flatten() {
            let named = names.iter().filter(|(of_pod, ..)| *of_pod == claim.name);
            requests.extend(named.map(|(_, name, _)| (name.clone(), claim.request.clone())));
        }
        if let Some(status) = pod.status().and_then(|status| status.extended_resource_claim_status.as_ref()) {
            let mine = status.request_mappings.iter().filter(|mapping| mapping.container_name == member.spec.name);
            requests.extend(mine.map(|m| (status.resource_claim_name.clone(), Some(m.request_name.clone()))));
        }
        let known = self.known.lock();
        let mut devices = Vec::new();
        for (name, request) in requests {
            let claim = known.iter().find(|claim| claim.namespace == pod.namespace && claim.name == name);
            let claim = claim.ok_or_else(|| {
                let namespace = &pod.namespace;
                format!("internal error: unable to get claim info for ResourceClaim {name} in namespace {namespace}")
            })?;
            let serves = |device: &&Device| match request.as_deref() {
                None | Some("") => true,
                Some(request) => device.requests.is_empty() || device.requests.iter().any(|name| name == request),
            };
            let serving = claim.drivers.values().flatten().filter(serves);
            devices.extend(serving.flat_map(|device| device.cdi.clone()));
        }
        Ok(devices)
    }

    fn write(&self) -> Result<(), String> {
        let write = || {
            let checkpoint = Checkpoint { version: VERSION, claims: self.known.lock().clone() };
            let temporary = self.file.with_extension("new");
            std::fs::write(&temporary, serde_json::to_vec(&checkpoint)?)?;
            std::fs::rename(temporary, &self.file)
        };
        write().map_err(|error: io::Error| format!("checkpoint ResourceClaim state: {error}"))
    }
}

impl From<&Known> for wire::Claim {
    fn from(claim: &Known) -> wire::Claim {
        wire::Claim { namespace: claim.namespace.clone(), uid: claim.uid.clone(), name: claim.name.clone() }
    }
}

/// The claims of a pod: what each is called in the pod, what in its namespace, and whether it must be the pod's own.
fn names(pod: &Pod) -> Result<Vec<(String, String, bool)>, String> {
    let status = pod.status();
    let mut names = Vec::new();
    for claim in pod.spec().resource_claims.iter().flatten() {
        let own = match (&claim.resource_claim_name, &claim.resource_claim_template_name) {
            (Some(name), _) => Some((name.clone(), false)),
            (None, Some(_)) => {
                let made = status.and_then(|status| status.resource_claim_statuses.as_ref());
                let made = made.into_iter().flatten().find(|made| made.name == claim.name);
                let made = made
                    .ok_or_else(|| format!("pod \"{}/{}\": ResourceClaim not created yet", pod.namespace, pod.name))?;
                made.resource_claim_name.clone().map(|name| (name, true))
            }
            (None, None) => {
                let (namespace, name) = (&pod.namespace, &pod.name);
                let why = "none of the supported fields are set";
                return Err(format!("pod \"{namespace}/{name}\", spec.resourceClaim {:?}: {why}", claim.name));
            }
        };
        names.extend(own.map(|(name, owned)| (claim.name.clone(), name, owned)));
    }
    let extended = status.and_then(|status| status.extended_resource_claim_status.as_ref());
    names.extend(extended.map(|status| (String::new(), status.resource_claim_name.clone(), false)));
    Ok(names)
}

/// The claim as it is to be prepared, if the pod may use it.
fn usable(pod: &Pod, claim: &ResourceClaim, owned: bool) -> Result<Known, String> {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (name, uid) = (text(&claim.metadata.name), text(&claim.metadata.uid));
    let is_owner = claim.metadata.owner_references.iter().flatten().any(|owner| owner.uid == pod.uid);
    if owned && !is_owner {
        let (namespace, pod) = (&pod.namespace, &pod.name);
        let why = format!("was not created for pod {namespace}/{pod} (pod is not owner)");
        return Err(format!("ResourceClaim {namespace}/{name} {why}"));
    }
    let status = claim.status.clone().unwrap_or_default();
    let reserved = status.reserved_for.iter().flatten();
    if !reserved.into_iter().any(|by| by.resource == "pods" && text(&by.api_group).is_empty() && by.uid == pod.uid) {
        return Err(format!("pod {} ({}) is not allowed to use ResourceClaim {name} ({uid})", pod.name, pod.uid));
    }
    let allocation = status.allocation.ok_or_else(|| format!("ResourceClaim {name}: not allocated"))?;
    let results = allocation.devices.and_then(|devices| devices.results).unwrap_or_default();
    let drivers = results.into_iter().map(|result| (result.driver, Vec::new())).collect();
    Ok(Known { namespace: pod.namespace.clone(), name, uid, drivers, ..Known::default() })
}

/// What each driver has to do with the claims.
fn by_driver(claims: &[Known]) -> BTreeMap<String, Vec<&Known>> {
    let mut batches: BTreeMap<String, Vec<&Known>> = BTreeMap::new();
    for claim in claims {
        for driver in claim.drivers.keys() {
            batches.entry(driver.clone()).or_default().push(claim);
        }
    }
    batches
}

/// Whether a driver did all that it was asked to do.
fn check<'a>(method: &str, asked: &[&Known], results: impl Iterator<Item = (&'a str, &'a str)>) -> Result<(), String> {
    let mut done = 0;
    for (uid, error) in results {
        let claim = asked.iter().find(|claim| claim.uid == uid);
        let claim = claim.ok_or_else(|| format!("{method} returned result for unknown claim UID {uid}"))?;
        if !error.is_empty() {
            return Err(format!("{method} failed for ResourceClaim {}: {error}", claim.name));
        }
        done += 1;
    }
    match asked.len() - done {
        0 => Ok(()),
        skipped => Err(format!("{method} skipped {skipped} ResourceClaims")),
    }
}
