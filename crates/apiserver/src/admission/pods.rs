//! Small plugins for pods and nodes: DefaultTolerationSeconds, TaintNodesByCondition and PodTopologyLabels.

use api::{Map, Status, Value};
use async_trait::async_trait;
use serde_json::json;

use super::{Attributes, Operation, Plugin};
use crate::rest::parse;
use crate::server::Server;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// A pod that says nothing of it tolerates five minutes of a node that is not ready or out of reach.
pub struct DefaultTolerationSeconds;

#[async_trait]
impl Plugin for DefaultTolerationSeconds {
    fn handles(&self, attributes: &Attributes) -> bool {
        attributes.operation != Operation::Delete && attributes.is("", "pods")
    }

    async fn mutate(&self, _: &Attributes<'_>, _: Option<&Value>, pod: &mut Value) -> Result<(), Status> {
        for key in [NOT_READY, UNREACHABLE] {
            let tolerates = |t: &Value| {
                (t["key"] == key || t["key"].as_str().is_none_or(str::is_empty))
                    && (t["effect"] == "NoExecute" || t["effect"].as_str().is_none_or(str::is_empty))
            };
            let tolerations = &mut pod["spec"]["tolerations"];
            if !tolerations.is_array() {
                *tolerations = json!([]);
            }
            if let Some(all) = tolerations.as_array_mut()
                && !all.iter().any(tolerates)
            {
                all.push(json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}));
            }
        }
        Ok(())
    }
}

/// A new node gets no pods before it is ready.
pub struct TaintNodesByCondition;

#[async_trait]
impl Plugin for TaintNodesByCondition {
    fn handles(&self, attributes: &Attributes) -> bool {
        attributes.operation == Operation::Create && attributes.is("", "nodes")
    }

    async fn mutate(&self, _: &Attributes<'_>, _: Option<&Value>, node: &mut Value) -> Result<(), Status> {
        if !node["spec"].is_object() {
            node["spec"] = json!({});
        }
        let taints = &mut node["spec"]["taints"];
        if !taints.is_array() {
            *taints = json!([]);
        }
        if let Some(all) = taints.as_array_mut()
            && !all.iter().any(|t| t["key"] == NOT_READY && t["effect"] == "NoSchedule")
        {
            all.push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
        }
        Ok(())
    }
}

/// A pod that is bound to a node takes over where the node is, and so does one that is made for a node.
pub struct PodTopologyLabels;

#[async_trait]
impl Plugin for PodTopologyLabels {
    fn handles(&self, attributes: &Attributes) -> bool {
        let binds = attributes.is_of("", "pods", "binding") || attributes.is("", "bindings");
        attributes.operation == Operation::Create && (binds || attributes.is("", "pods"))
    }

    async fn mutate(&self, attributes: &Attributes<'_>, _: Option<&Value>, object: &mut Value) -> Result<(), Status> {
        let node = match attributes.is("", "pods") {
            true => &object["spec"]["nodeName"],
            false => &object["target"]["name"],
        };
        let Some(node) = node.as_str().filter(|node| !node.is_empty()) else { return Ok(()) };
        for (key, value) in topology_labels(&attributes.call.server, node) {
            let labels = &mut object["metadata"]["labels"];
            if labels.get(&key).is_none() {
                labels[key] = value;
            }
        }
        Ok(())
    }
}

/// The node's labels that say where it is.
fn topology_labels(server: &Server, node: &str) -> Map<String, Value> {
    let Some(entry) = server.store.get(&format!("/registry/minions/{node}")) else { return Map::new() };
    let mut node = parse(&entry.value).unwrap_or_default();
    let labels = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"].into_iter().filter_map(|key| {
        let value = node["metadata"]["labels"].get_mut(key)?.take();
        Some((key.to_owned(), value))
    });
    labels.collect()
}
