//! Small plugins for pods and nodes: DefaultTolerationSeconds and TaintNodesByCondition.

use api::{Status, Value};
use async_trait::async_trait;
use serde_json::json;

use super::{Attributes, Operation, Plugin};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// A pod that says nothing of it tolerates five minutes of a node that is not ready or out of reach.
pub struct DefaultTolerationSeconds;

#[async_trait]
impl Plugin for DefaultTolerationSeconds {
    fn handles(&self, attributes: &Attributes) -> bool {
        attributes.operation != Operation::Delete && attributes.is("", "pods")
    }

    async fn mutate(&self, attributes: &Attributes<'_>, _: Option<&Value>, pod: &mut Value) -> Result<(), Status> {
        if attributes.operation != Operation::Create {
            return Ok(());
        }
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
