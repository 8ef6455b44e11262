//! The node's own object and lease: registered once, then written when something changed, every five minutes otherwise.

mod conditions;
pub mod facts;
mod lease;
pub mod oom;
pub mod resources;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use client::events::EventType;
use jiff::Timestamp;
use k8s_openapi::api::core::v1;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use runtime::cri::{ImageFilter, StatusResponse};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};

use crate::context::Context;
use crate::resources::Amounts;
use resources::{Machine, Shown};

pub use lease::renew;

/// How often a runtime or an API that is not ready yet is asked again.
const STARTING: Duration = Duration::from_millis(100);

/// The node as it is configured.
#[derive(Clone)]
pub struct Node {
    pub name: String,
    pub ips: Vec<String>,
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<v1::Taint>,
    pub machine: Machine,
    pub max_pods: u32,
    /// What of the capacity is no pod's.
    pub kept: Amounts,
    /// The port of the kubelet's HTTPS server, if it has one.
    pub port: Option<u16>,
    pub client: kube::Client,
}

/// What pods may ask for that not every node can do, as the scheduler knows it.
const DECLARED: [&str; 1] = ["RestartAllContainersOnContainerExits"];

impl Node {
    fn api(&self) -> Api<v1::Node> {
        Api::all(self.client.clone())
    }

    /// All labels that the node gets at registration.
    pub fn all_labels(&self) -> BTreeMap<String, String> {
        let arch = facts::architecture();
        let mut labels: BTreeMap<_, _> = [
            ("kubernetes.io/hostname", self.name.as_str()),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", arch),
            ("beta.kubernetes.io/os", "linux"),
            ("beta.kubernetes.io/arch", arch),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
        labels.extend(self.labels.clone());
        labels
    }

    pub fn capacity(&self) -> Shown {
        self.machine.capacity(self.max_pods)
    }

    pub fn allocatable(&self) -> Shown {
        resources::allocatable(&self.capacity(), &self.kept)
    }

    /// Registers the node and keeps its status true. `ready` turns true when the API shows it Ready.
    pub async fn run(self, context: Arc<Context>, ready: watch::Sender<bool>, changed: Arc<Notify>) {
        context.tell_of_node(EventType::Normal, "Starting", "Starting kubelet.".to_owned());
        let mut known = loop {
            match self.register(&context).await {
                Ok(node) => break node.status.unwrap_or_default(),
                Err(error) => {
                    tracing::debug!(%error, "the node cannot be registered yet");
                    tokio::time::sleep(STARTING).await;
                }
            }
        };
        context.registered.send_replace(true);
        self.tell(&context, &v1::NodeStatus::default(), &known);
        let mut written: Option<tokio::time::Instant> = None;
        loop {
            let told = self.told(&context, &known).await;
            let status = self.status(&context, &told).await;
            context.ledger.lock().set_allocatable(crate::resources::amounts(status.allocatable.as_ref()));
            let is_ready = conditions::find(&status, "Ready").is_some_and(|c| c.status == "True");
            let due = written.is_none_or(|at| at.elapsed() >= context.configuration.node_status_report_frequency.0);
            if due || differ(&told, &status) {
                match self.write(&told, &status).await {
                    Ok(()) => {
                        self.tell(&context, &known, &status);
                        known = status;
                        written = Some(tokio::time::Instant::now());
                        ready.send_if_modified(|was| std::mem::replace(was, is_ready) != is_ready);
                    }
                    Err(error) => tracing::warn!(%error, "writing the node's status failed"),
                }
            }
            let look = context.configuration.node_status_update_frequency.0;
            let pause = if is_ready && written.is_some() { look } else { STARTING };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = changed.notified() => {}
            }
        }
    }

    /// What the API shows, or what it was last told where it does not answer. A node that is gone is registered again.
    async fn told(&self, context: &Context, known: &v1::NodeStatus) -> v1::NodeStatus {
        match self.api().get_opt(&self.name).await {
            Ok(Some(node)) => {
                context.ledger.lock().see(&node);
                node.status.unwrap_or_default()
            }
            Ok(None) | Err(_) => known.clone(),
        }
    }

    fn tell(&self, context: &Context, before: &v1::NodeStatus, after: &v1::NodeStatus) {
        let boot = |status: &v1::NodeStatus| status.node_info.as_ref().map(|info| info.boot_id.clone());
        if let (Some(old), Some(new)) = (boot(before).filter(|id| !id.is_empty()), boot(after))
            && old != new
        {
            let message = format!("Node {} has been rebooted, boot id: {new}", self.name);
            context.tell_of_node(EventType::Warning, "Rebooted", message);
        }
        for reason in conditions::events(before, after) {
            let message = format!("Node {} status is now: {reason}", self.name);
            context.tell_of_node(EventType::Normal, reason, message);
        }
    }

    async fn register(&self, context: &Context) -> kube::Result<v1::Node> {
        let api = self.api();
        let labels = self.all_labels();
        if let Some(node) = api.get_opt(&self.name).await? {
            let missing = labels.iter().any(|(k, v)| node.metadata.labels.as_ref().and_then(|l| l.get(k)) != Some(v));
            if missing {
                let patch = json!({"metadata": {"labels": labels}});
                api.patch(&self.name, &PatchParams::default(), &Patch::Strategic(patch)).await?;
            }
            return Ok(node);
        }
        let annotations = [("volumes.kubernetes.io/controller-managed-attach-detach".to_owned(), "true".to_owned())];
        let node = v1::Node {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                labels: Some(labels),
                annotations: Some(annotations.into()),
                ..Default::default()
            },
            spec: Some(v1::NodeSpec {
                provider_id: Some(context.configuration.provider_id.clone()).filter(|id| !id.is_empty()),
                taints: (!self.taints.is_empty()).then(|| self.taints.clone()),
                ..Default::default()
            }),
            status: Some(self.status(context, &v1::NodeStatus::default()).await),
        };
        if !context.configuration.register_node {
            let missing = kube::core::Status::failure("the node is to be registered by somebody else", "NotFound");
            return Err(kube::Error::Api(Box::new(missing.with_code(404))));
        }
        api.create(&PostParams::default(), &node).await
    }

    async fn write(&self, told: &v1::NodeStatus, status: &v1::NodeStatus) -> kube::Result<()> {
        let mut value = json!({ "status": status });
        // Lists merge by key and maps too; the whole is meant.
        if let Some(items) = value["status"]["addresses"].as_array_mut() {
            items.insert(0, json!({"$patch": "replace"}));
        }
        for (name, before, after) in
            [("capacity", &told.capacity, &status.capacity), ("allocatable", &told.allocatable, &status.allocatable)]
        {
            let gone = before.iter().flatten().filter(|(key, _)| after.as_ref().is_none_or(|a| !a.contains_key(*key)));
            for (key, _) in gone {
                value["status"][name][key] = Value::Null;
            }
        }
        self.api().patch_status(&self.name, &PatchParams::default(), &Patch::Strategic(value)).await.map(|_| ())
    }

    /// The status as it should be shown, given what is shown.
    async fn status(&self, context: &Context, last: &v1::NodeStatus) -> v1::NodeStatus {
        let version = context.runtime.version().await.ok();
        let version = version.map(|v| format!("{}://{}", v.runtime_name, v.runtime_version)).unwrap_or_default();
        let addresses = self.ips.iter().map(|ip| ("InternalIP", ip)).chain([("Hostname", &self.name)]);
        let addresses = addresses.map(|(kind, text)| v1::NodeAddress { type_: kind.to_owned(), address: text.clone() });
        let mut capacity = self.capacity();
        let (devices, well) = context.devices.amounts();
        capacity.extend(devices.iter().map(|(name, count)| (name.clone(), Quantity(count.to_string()))));
        capacity.extend(resources::foreign(last.capacity.as_ref(), &capacity));
        let mut allocatable = resources::allocatable(&capacity, &self.kept);
        allocatable.extend(well.into_iter().map(|(name, count)| (name, Quantity(count.to_string()))));
        let runtime = match context.shutting_down.load(Ordering::Relaxed) {
            true => Err("node is shutting down".to_owned()),
            false => conditions::runtime(&*context.runtime).await,
        };
        let pressures = context.ledger.lock().pressures().to_vec();
        let (runtime_handlers, features) = match context.runtime.status().await {
            Ok(status) => abilities(&status),
            Err(_) => (last.runtime_handlers.clone(), last.features.clone()),
        };
        v1::NodeStatus {
            declared_features: Some(DECLARED.map(str::to_owned).into()),
            addresses: Some(addresses.collect()),
            allocatable: Some(allocatable),
            capacity: Some(capacity),
            conditions: Some(conditions::compute(&pressures, &runtime, last, Timestamp::now())),
            daemon_endpoints: self.port.map(|port| v1::NodeDaemonEndpoints {
                kubelet_endpoint: Some(v1::DaemonEndpoint { port: i32::from(port) }),
            }),
            images: listed_images(context).await,
            node_info: Some(facts::system_info(version)),
            runtime_handlers,
            features,
            ..Default::default()
        }
    }
}

/// What the runtime can do, handler by handler and as a whole.
fn abilities(status: &StatusResponse) -> (Option<Vec<v1::NodeRuntimeHandler>>, Option<v1::NodeFeatures>) {
    let handlers = status.runtime_handlers.iter().map(|handler| v1::NodeRuntimeHandler {
        name: Some(handler.name.clone()).filter(|name| !name.is_empty()),
        features: Some(v1::NodeRuntimeHandlerFeatures {
            recursive_read_only_mounts: Some(handler.recursive_read_only_mounts),
            user_namespaces: Some(handler.user_namespaces),
        }),
    });
    let handlers: Vec<_> = handlers.collect();
    let features = v1::NodeFeatures { supplemental_groups_policy: Some(status.supplemental_groups_policy) };
    (Some(handlers).filter(|list| !list.is_empty()), Some(features))
}

/// The largest images, as many as are wanted.
async fn listed_images(context: &Context) -> Option<Vec<v1::ContainerImage>> {
    /// Names of one image at most.
    const NAMES_MAX: usize = 5;
    let mut images = context.images.list_images(&ImageFilter::default()).await.ok()?;
    images.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    if let Ok(most) = usize::try_from(context.configuration.node_status_max_images) {
        images.truncate(most);
    }
    let listed = images.into_iter().map(|image| v1::ContainerImage {
        names: Some(image.repo_digests.into_iter().chain(image.repo_tags).take(NAMES_MAX).collect()),
        size_bytes: i64::try_from(image.size).ok(),
    });
    Some(listed.collect())
}

/// Whether anything but the heartbeat changed.
fn differ(a: &v1::NodeStatus, b: &v1::NodeStatus) -> bool {
    let bare = |status: &v1::NodeStatus| {
        let mut bare = status.clone();
        for condition in bare.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
        }
        if let Some(conditions) = &mut bare.conditions {
            conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
        }
        // The API keeps an empty list as none.
        let images = bare.images.filter(|images| !images.is_empty());
        // What others write is not compared.
        let own = (bare.addresses, bare.capacity, bare.allocatable, bare.conditions, images);
        (own, bare.node_info, bare.daemon_endpoints, bare.runtime_handlers, bare.features)
    };
    bare(a) != bare(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    #[test]
    fn a_status_is_written_for_what_changed_and_not_for_the_heartbeat_or_an_empty_list() {
        let condition = |status: &str, heartbeat: i64| v1::NodeCondition {
            type_: "Ready".to_owned(),
            status: status.to_owned(),
            last_heartbeat_time: Timestamp::from_second(heartbeat).ok().map(Time),
            ..Default::default()
        };
        let told = v1::NodeStatus { conditions: Some(vec![condition("True", 1)]), ..Default::default() };
        let beat = v1::NodeStatus {
            conditions: Some(vec![condition("True", 2)]),
            images: Some(Vec::new()),
            ..Default::default()
        };
        assert!(!differ(&told, &beat));
        assert!(differ(&told, &v1::NodeStatus { conditions: Some(vec![condition("False", 2)]), ..beat.clone() }));
        assert!(differ(&told, &v1::NodeStatus { images: Some(vec![v1::ContainerImage::default()]), ..beat }));
    }
}
