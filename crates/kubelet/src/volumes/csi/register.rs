//! Taking drivers in that register ([`plugins`](crate::plugins)): what one says of the node goes into the node's CSINode, labels and
//! annotation.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::storage::v1::{CSINode, CSINodeDriver, CSINodeSpec, VolumeNodeResources};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use super::wire::{Empty, NodeCapabilities, NodeInfo, PluginInfo, Socket};
use super::{Driver, Drivers};

const NODE_ID: &str = "csi.volume.kubernetes.io/nodeid";
/// Before what failed is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// Takes in a driver that has put its socket at `path`.
pub async fn take(client: &kube::Client, drivers: &Drivers, path: &Path, info: &PluginInfo) -> Result<(), String> {
    // Versions are written 1.2.3 or v1.2.3.
    if !info.supported_versions.iter().any(|version| version.trim_start_matches('v').starts_with("1.")) {
        return Err(format!(
            "none of the CSI versions reported by this driver are supported: {:?}",
            info.supported_versions
        ));
    }
    let socket = Socket::new(Path::new(&info.endpoint))?;
    let told: NodeInfo = socket.call("/csi.v1.Node/NodeGetInfo", Empty {}).await?;
    let can: NodeCapabilities = socket.call("/csi.v1.Node/NodeGetCapabilities", Empty {}).await?;
    let driver = Driver {
        socket,
        node_id: told.node_id.clone(),
        capabilities: can.capabilities.into_iter().filter_map(|it| it.rpc.map(|rpc| rpc.kind)).collect(),
        registered_by: path.to_owned(),
    };
    publish(client, &drivers.node, &info.name, &told).await.map_err(|e| e.to_string())?;
    tracing::info!(driver = info.name, node_id = driver.node_id, "a CSI driver has registered");
    drivers.known.lock().insert(info.name.clone(), driver);
    Ok(())
}

/// A driver's socket is gone.
pub async fn forget(client: &kube::Client, drivers: &Drivers, name: &str, path: &Path) {
    let ours = drivers.known.lock().get(name).is_some_and(|driver| driver.registered_by == path);
    if !ours {
        return;
    }
    drivers.known.lock().remove(name);
    tracing::info!(driver = name, "a CSI driver has gone");
    let gone = change(client, &drivers.node, |all| all.retain(|driver| driver.name != name)).await;
    if let Err(error) = gone {
        tracing::warn!(%error, driver = name, "the node still lists a driver that has gone");
    }
}

/// Makes the node's CSINode, which is there with or without drivers.
pub async fn ensure(client: &kube::Client, node: &str) {
    while let Err(error) = change(client, node, |_| ()).await {
        tracing::debug!(%error, "the CSINode cannot be made yet");
        tokio::time::sleep(AGAIN).await;
    }
}

/// Changes the drivers of the node's CSINode, which is made where it is missing.
async fn change(client: &kube::Client, node: &str, edit: impl Fn(&mut Vec<CSINodeDriver>)) -> kube::Result<()> {
    let all: Api<CSINode> = Api::all(client.clone());
    loop {
        let found = all.get_opt(node).await?;
        let answer = match found {
            Some(mut object) => {
                let before = object.spec.drivers.clone();
                edit(&mut object.spec.drivers);
                if object.spec.drivers == before {
                    return Ok(());
                }
                all.replace(node, &PostParams::default(), &object).await
            }
            None => {
                let nodes: Api<Node> = Api::all(client.clone());
                let owner = nodes.get(node).await?;
                let owner = OwnerReference {
                    api_version: "v1".to_owned(),
                    kind: "Node".to_owned(),
                    name: node.to_owned(),
                    uid: owner.metadata.uid.unwrap_or_default(),
                    ..OwnerReference::default()
                };
                let mut drivers = Vec::new();
                edit(&mut drivers);
                let metadata = ObjectMeta {
                    name: Some(node.to_owned()),
                    owner_references: Some(vec![owner]),
                    ..ObjectMeta::default()
                };
                all.create(&PostParams::default(), &CSINode { metadata, spec: CSINodeSpec { drivers } }).await
            }
        };
        match answer {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            answer => return answer.map(drop),
        }
    }
}

/// Writes what a driver says of the node where schedulers and sidecars look for it.
async fn publish(client: &kube::Client, node: &str, name: &str, told: &NodeInfo) -> kube::Result<()> {
    let segments = told.accessible_topology.clone().unwrap_or_default().segments;
    let mut keys: Vec<String> = segments.keys().cloned().collect();
    keys.sort();
    let count = i32::try_from(told.max_volumes_per_node).ok().filter(|count| *count > 0);
    let driver = CSINodeDriver {
        name: name.to_owned(),
        node_id: told.node_id.clone(),
        topology_keys: Some(keys),
        allocatable: count.map(|count| VolumeNodeResources { count: Some(count) }),
    };
    let nodes: Api<Node> = Api::all(client.clone());
    let object = nodes.get(node).await?;
    let known = object.metadata.annotations.and_then(|mut all| all.remove(NODE_ID));
    let mut ids: BTreeMap<String, String> = known.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    ids.insert(name.to_owned(), told.node_id.clone());
    let annotations = json!({NODE_ID: json!(ids).to_string()});
    let patch = json!({"metadata": {"annotations": annotations, "labels": segments}});
    nodes.patch(node, &PatchParams::default(), &Patch::Merge(patch)).await?;
    change(client, node, |all| {
        all.retain(|it| it.name != name);
        all.push(driver.clone());
    })
    .await
}
