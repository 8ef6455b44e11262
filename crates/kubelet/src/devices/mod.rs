//! Device plugins (`v1beta1`): programs that register at the kubelet's socket, tell which devices they have and what a container
//! that is given some of them needs.
//!
//! Who has which devices is written down before a container starts, with what the plugin said of them, so that a restarted
//! kubelet gives nothing twice and a restarted container gets the same.

mod inventory;
mod wire;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;
use tonic::Status;
use tonic_prost::ProstCodec;

pub use inventory::Needs;
use inventory::{Grant, Inventory, Mount, Node};
use wire::{
    AllocateRequest, Allocated, ContainerAllocated, ContainerPreferred, Empty, Ids, Options, Preferred,
    PreferredRequest, RegisterRequest, Socket,
};

use crate::placement;
use crate::placement::hints::{Hint, Mask};
use crate::pods::pod::{Member, Pod, Role};
use crate::resources::{self, Amounts};

const VERSION: &str = "v1beta1";
const CHECKPOINT_VERSION: u32 = 1;
/// How long a plugin that is gone may take to come back before its resource is forgotten.
const RETURN: Duration = Duration::from_secs(300);
const AGAIN: Duration = Duration::from_secs(2);

/// What is kept over a restart.
#[derive(Default, Serialize, Deserialize)]
struct Checkpoint {
    version: u32,
    resources: Vec<String>,
    grants: Vec<Grant>,
}

/// A plugin that has registered.
#[derive(Clone)]
struct Plugin {
    socket: Socket,
    options: Options,
    /// Tells it from its successors.
    number: u64,
    gone: Option<Instant>,
}

#[derive(Default)]
struct State {
    inventory: Inventory,
    plugins: BTreeMap<String, Plugin>,
    registered: u64,
}

/// All devices of the node.
pub struct Devices {
    directory: PathBuf,
    state: Mutex<State>,
    /// One allocation at a time, from looking to writing down.
    turn: tokio::sync::Mutex<()>,
    /// Woken when the node's amounts change.
    changed: Arc<Notify>,
}

impl Devices {
    /// With what was written down in `directory` before.
    pub fn open(directory: PathBuf, changed: Arc<Notify>) -> io::Result<Devices> {
        std::fs::create_dir_all(&directory)?;
        let mut state = State::default();
        match std::fs::read(directory.join("checkpoint.json")) {
            Ok(text) => {
                let read: Checkpoint = serde_json::from_slice(&text)?;
                if read.version != CHECKPOINT_VERSION {
                    return Err(io::Error::other(format!(
                        "the devices' checkpoint has the unknown version {}",
                        read.version
                    )));
                }
                state.inventory.grants = read.grants;
                state.inventory.resources = read.resources.into_iter().map(|name| (name, BTreeMap::new())).collect();
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(Devices { directory, state: Mutex::new(state), turn: tokio::sync::Mutex::default(), changed })
    }

    /// What the node has of devices, and what of that is well.
    pub fn amounts(&self) -> (Amounts, Amounts) {
        let mut state = self.state.lock();
        let lost = |plugin: &Plugin| plugin.gone.is_some_and(|at| at.elapsed() > RETURN);
        let lost: Vec<_> = state.plugins.iter().filter(|(_, p)| lost(p)).map(|(name, _)| name.clone()).collect();
        for name in lost {
            state.plugins.remove(&name);
            state.inventory.resources.insert(name, BTreeMap::new());
        }
        state.inventory.amounts()
    }

    /// Serves registrations for ever.
    pub async fn serve(self: Arc<Devices>) {
        loop {
            if let Err(error) = self.clone().listen().await {
                tracing::warn!(%error, directory = %self.directory.display(), "device plugins cannot register");
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn listen(self: Arc<Devices>) -> io::Result<()> {
        let path = self.directory.join("kubelet.sock");
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(self.clone().connection(stream));
        }
    }

    async fn connection(self: Arc<Devices>, stream: UnixStream) {
        let service = service_fn(|request: http::Request<Incoming>| {
            let devices = self.clone();
            async move { Ok::<_, std::convert::Infallible>(devices.answer(request).await) }
        });
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
            tracing::debug!(%error, "a connection of a device plugin broke");
        }
    }

    async fn answer(self: Arc<Devices>, request: http::Request<Incoming>) -> http::Response<tonic::body::Body> {
        if request.uri().path() != "/v1beta1.Registration/Register" {
            return Status::unimplemented("").into_http();
        }
        let register = tower::service_fn(|request: tonic::Request<RegisterRequest>| {
            let devices = self.clone();
            async move {
                let registered = devices.register(request.into_inner());
                registered.map(|()| tonic::Response::new(Empty {})).map_err(Status::invalid_argument)
            }
        });
        let mut grpc = tonic::server::Grpc::new(ProstCodec::<Empty, RegisterRequest>::default());
        grpc.unary(register, request).await
    }

    fn register(self: Arc<Devices>, request: RegisterRequest) -> Result<(), String> {
        let name = request.resource_name;
        if request.version != VERSION {
            let asked = request.version;
            return Err(format!(
                "requested API version {asked:?} is not supported by kubelet. Supported version is {VERSION:?}"
            ));
        }
        let (domain, rest) = name.split_once('/').unwrap_or_default();
        if domain.is_empty() || rest.is_empty() || domain.ends_with("kubernetes.io") || name.starts_with("requests.") {
            return Err(format!("the ResourceName {name:?} is invalid"));
        }
        if request.endpoint.is_empty() || request.endpoint.contains('/') {
            return Err(format!("the Endpoint {:?} is not the name of a socket", request.endpoint));
        }
        let socket = Socket::new(self.directory.join(&request.endpoint))?;
        let number = {
            let mut state = self.state.lock();
            state.registered += 1;
            let number = state.registered;
            let options = request.options.unwrap_or_default();
            state.plugins.insert(name.clone(), Plugin { socket: socket.clone(), options, number, gone: None });
            state.inventory.resources.entry(name.clone()).or_default();
            number
        };
        tracing::info!(resource = name, "a device plugin has registered");
        tokio::spawn(async move { self.watch(name, socket, number).await });
        Ok(())
    }

    /// Follows a plugin's devices until it is gone.
    async fn watch(&self, name: String, socket: Socket, number: u64) {
        let ended = async {
            let mut lists = socket.list_and_watch().await?;
            while let Some(list) = lists.message().await? {
                let near = |device: &wire::Device| {
                    let nodes = device.topology.iter().flat_map(|topology| &topology.nodes);
                    (device.id.clone(), nodes.filter_map(|node| usize::try_from(node.id).ok()).collect())
                };
                let near = list.devices.iter().map(near).collect();
                self.state.lock().inventory.near.insert(name.clone(), near);
                let devices = list.devices.into_iter().map(|device| (device.id, device.health == "Healthy")).collect();
                self.put(&name, number, Some(devices));
            }
            Ok::<_, Status>(())
        };
        if let Err(error) = ended.await {
            tracing::debug!(resource = name, %error, "a device plugin ended");
        }
        tracing::info!(resource = name, "a device plugin has gone");
        self.put(&name, number, None);
    }

    /// Notes the devices of a plugin; without any it is gone, and none of them is well.
    fn put(&self, name: &str, number: u64, devices: Option<BTreeMap<String, bool>>) {
        {
            let mut state = self.state.lock();
            let Some(plugin) = state.plugins.get_mut(name).filter(|plugin| plugin.number == number) else { return };
            plugin.gone = devices.is_none().then(Instant::now);
            let known = state.inventory.resources.entry(name.to_owned()).or_default();
            match devices {
                Some(devices) => *known = devices,
                None => known.values_mut().for_each(|healthy| *healthy = false),
            }
        }
        if let Err(error) = self.write() {
            tracing::warn!(%error, "the devices' checkpoint cannot be written");
        }
        self.changed.notify_one();
    }

    fn write(&self) -> io::Result<()> {
        let checkpoint = {
            let state = self.state.lock();
            let inventory = &state.inventory;
            let resources = inventory.resources.keys().cloned().collect();
            Checkpoint { version: CHECKPOINT_VERSION, resources, grants: inventory.grants.clone() }
        };
        let path = self.directory.join("checkpoint.json");
        let temporary = path.with_extension("new");
        std::fs::write(&temporary, serde_json::to_vec(&checkpoint)?)?;
        std::fs::rename(temporary, path)
    }

    /// The devices that a container asks for and that plugins have.
    fn wanted(&self, member: &Member) -> Vec<(String, usize)> {
        let state = self.state.lock();
        let limits = resources::limits(member.spec.resources.as_ref()).into_iter();
        let limits = limits.filter(|(name, count)| *count > 0 && state.inventory.resources.contains_key(name));
        limits.map(|(name, count)| (name, usize::try_from(count).unwrap_or(usize::MAX))).collect()
    }

    /// Where the devices of the containers together could come from, resource by resource.
    pub fn hints(&self, pod: &Pod, members: &[&Member], nodes: &[usize]) -> Vec<Option<Vec<Hint>>> {
        let mut sums: BTreeMap<String, usize> = BTreeMap::new();
        for (resource, count) in members.iter().flat_map(|member| self.wanted(member)) {
            *sums.entry(resource).or_default() += count;
        }
        let state = self.state.lock();
        let lenders = members.first().map(|member| lenders(pod, member)).unwrap_or_default();
        let none = BTreeMap::new();
        let asks = |member: &Member, resource: &str| {
            resources::limits(member.spec.resources.as_ref()).get(resource).is_some_and(|count| *count > 0)
        };
        let of = |(resource, count): (&String, &usize)| {
            let near = state.inventory.near.get(resource).unwrap_or(&none);
            let asking = members.iter().filter(|member| asks(member, resource)).map(|member| member.spec.name.as_str());
            // A pod that was admitted before keeps what it has.
            match state.inventory.given(&pod.uid, resource, asking) {
                Some(given) => placement::device_hints(near, &given, given.len(), nodes),
                None => {
                    let free = state.inventory.free(&pod.uid, resource, &lenders);
                    placement::device_hints(near, &free, *count, nodes)
                }
            }
        };
        sums.iter().map(of).collect()
    }

    /// Gives a container the devices that it asks for, before it is made; those near to the nodes first.
    pub async fn reserve(&self, pod: &Pod, member: &Member, nodes: Option<Mask>) -> Result<(), String> {
        for (resource, count) in self.wanted(member) {
            let _turn = self.turn.lock().await;
            self.grant(pod, member, &resource, count, nodes).await?;
        }
        Ok(())
    }

    /// Gives a container the devices that it asks for, or those that it has; gives what it needs for them.
    pub async fn allocate(&self, pod: &Pod, member: &Member) -> Result<Vec<Needs>, String> {
        let mut needs = Vec::new();
        for (resource, count) in self.wanted(member) {
            let _turn = self.turn.lock().await;
            needs.push(
                self.one(pod, member, &resource, count).await.map_err(|e| format!("Allocate failed due to {e}"))?,
            );
        }
        Ok(needs)
    }

    async fn one(&self, pod: &Pod, member: &Member, resource: &str, count: usize) -> Result<Needs, String> {
        let (grant, plugin) = self.grant(pod, member, resource, count, None).await?;
        if let Some(plugin) = plugin.filter(|plugin| plugin.options.pre_start_required) {
            let ids = Ids { devices: grant.devices };
            let _: Empty = plugin.socket.call("/v1beta1.DevicePlugin/PreStartContainer", ids).await?;
        }
        Ok(grant.needs)
    }

    async fn grant(
        &self,
        pod: &Pod,
        member: &Member,
        resource: &str,
        count: usize,
        nodes: Option<Mask>,
    ) -> Result<(Grant, Option<Plugin>), String> {
        let container = &member.spec.name;
        let lenders = lenders(pod, member);
        let (known, free, plugin) = {
            let state = self.state.lock();
            let known = state.inventory.granted(&pod.uid, container, resource).cloned();
            let plugin = state.plugins.get(resource).filter(|plugin| plugin.gone.is_none()).cloned();
            let mut free = state.inventory.free(&pod.uid, resource, &lenders);
            let near = |id: &String| {
                let near = state.inventory.near.get(resource).and_then(|all| all.get(id));
                near.is_some_and(|near| near.iter().any(|node| nodes.is_some_and(|nodes| nodes.has(*node))))
            };
            free.sort_by_key(|id| !near(id));
            let nearest = free.iter().filter(|id| near(id)).count();
            if nearest >= count {
                free.truncate(nearest);
            }
            (known, free, plugin)
        };
        let gone = || format!("no device plugin serves {resource}");
        let grant = match known {
            Some(grant) => grant,
            None => {
                let preferred = match &plugin {
                    Some(p) if p.options.get_preferred_allocation_available && free.len() > count => {
                        prefer(&p.socket, &free, count).await?
                    }
                    _ => Vec::new(),
                };
                let devices = Inventory::choose(resource, &free, count, &preferred)?;
                let request = AllocateRequest { container_requests: vec![Ids { devices: devices.clone() }] };
                let socket = &plugin.as_ref().ok_or_else(gone)?.socket;
                let told: Allocated = socket.call("/v1beta1.DevicePlugin/Allocate", request).await?;
                let needs = needs(told.container_responses.into_iter().next().unwrap_or_default());
                let (pod, container, resource) = (pod.uid.clone(), container.clone(), resource.to_owned());
                let grant = Grant { pod, container, resource, devices, needs };
                self.state.lock().inventory.grants.push(grant.clone());
                self.write().map_err(|error| format!("the checkpoint: {error}"))?;
                grant
            }
        };
        Ok((grant, plugin))
    }

    /// Takes back what a pod had.
    pub fn release(&self, uid: &str) {
        let had = {
            let mut state = self.state.lock();
            let before = state.inventory.grants.len();
            state.inventory.grants.retain(|grant| grant.pod != uid);
            state.inventory.grants.len() != before
        };
        if had && let Err(error) = self.write() {
            tracing::warn!(%error, "the devices' checkpoint cannot be written");
        }
    }

    /// Takes back what pods had that are no longer here.
    pub fn keep(&self, here: impl Fn(&str) -> bool) {
        let gone: Vec<String> = {
            let state = self.state.lock();
            state.inventory.grants.iter().map(|g| g.pod.clone()).filter(|uid| !here(uid)).collect()
        };
        gone.iter().for_each(|uid| self.release(uid));
    }
}

/// The containers whose devices a container may use again, since they have ended when it starts.
fn lenders<'a>(pod: &'a Pod, member: &Member) -> Vec<&'a str> {
    let container = &member.spec.name;
    let inits = pod.with_role(Role::Init).map(|m| m.spec.name.as_str());
    match member.role {
        Role::Main | Role::Sidecar => inits.collect(),
        Role::Init | Role::Ephemeral => inits.filter(|name| member.role == Role::Init && name != container).collect(),
    }
}

async fn prefer(socket: &Socket, free: &[String], count: usize) -> Result<Vec<String>, String> {
    let one = ContainerPreferred {
        available: free.to_vec(),
        must_include: Vec::new(),
        allocation_size: i32::try_from(count).unwrap_or(i32::MAX),
    };
    let request = PreferredRequest { container_requests: vec![one] };
    let told: Preferred = socket.call("/v1beta1.DevicePlugin/GetPreferredAllocation", request).await?;
    Ok(told.container_responses.into_iter().next().unwrap_or_default().devices)
}

fn needs(told: ContainerAllocated) -> Needs {
    let mount =
        |m: wire::Mount| Mount { container_path: m.container_path, host_path: m.host_path, read_only: m.read_only };
    let node =
        |d: wire::Node| Node { container_path: d.container_path, host_path: d.host_path, permissions: d.permissions };
    Needs {
        envs: told.envs.into_iter().collect(),
        annotations: told.annotations.into_iter().collect(),
        mounts: told.mounts.into_iter().map(mount).collect(),
        devices: told.devices.into_iter().map(node).collect(),
        cdi: told.cdi_devices.into_iter().map(|device| device.name).collect(),
    }
}

/// Where plugins find the kubelet's socket, below the kubelet's own directory.
pub fn directory(data: &Path) -> PathBuf {
    data.join("device-plugins")
}
