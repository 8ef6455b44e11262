//! Priority: a pod's priority class becomes its priority and preemption policy; at most one class is the default.

use api::{Status, Value};
use async_trait::async_trait;
use store::List;

use super::{Attributes, Operation, Plugin};
use crate::rest::{parse, store_error};
use crate::server::Server;

const CLASSES: &str = "/registry/priorityclasses/";

pub struct Priority;

#[async_trait]
impl Plugin for Priority {
    fn handles(&self, attributes: &Attributes) -> bool {
        attributes.operation == Operation::Create && attributes.is("", "pods")
            || attributes.operation != Operation::Delete && attributes.is("scheduling.k8s.io", "priorityclasses")
    }

    async fn mutate(&self, attributes: &Attributes<'_>, _: Option<&Value>, pod: &mut Value) -> Result<(), Status> {
        if !attributes.is("", "pods") {
            return Ok(());
        }
        let server = &attributes.call.server;
        let name = pod["spec"]["priorityClassName"].as_str().unwrap_or("").to_owned();
        let class = if name.is_empty() {
            default_class(server)?
        } else {
            let entry = server.store.get(&format!("{CLASSES}{name}"));
            let entry = entry
                .ok_or_else(|| attributes.forbidden(pod, format!("no PriorityClass with name {name} was found")))?;
            Some(parse(&entry.value)?)
        };
        let priority = class.as_ref().and_then(|c| c["value"].as_i64()).unwrap_or(0);
        let policy = class.as_ref().and_then(|c| c["preemptionPolicy"].as_str()).unwrap_or("PreemptLowerPriority");
        if pod["spec"]["priority"].as_i64().is_some_and(|given| given != priority) {
            let given = &pod["spec"]["priority"];
            let why = format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {priority} from the given PriorityClass name"
            );
            return Err(attributes.forbidden(pod, why));
        }
        if pod["spec"]["preemptionPolicy"].as_str().is_some_and(|given| given != policy) {
            let given = pod["spec"]["preemptionPolicy"].as_str().unwrap_or("");
            let why = format!(
                "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
            );
            return Err(attributes.forbidden(pod, why));
        }
        let policy = policy.to_owned();
        if let (true, Some(class)) = (name.is_empty(), &class) {
            pod["spec"]["priorityClassName"] = class["metadata"]["name"].clone();
        }
        pod["spec"]["priority"] = Value::from(priority);
        pod["spec"]["preemptionPolicy"] = Value::from(policy);
        Ok(())
    }

    async fn validate(&self, attributes: &Attributes<'_>, _: Option<&Value>, class: &Value) -> Result<(), Status> {
        if attributes.is("", "pods") || class["globalDefault"] != true {
            return Ok(());
        }
        match default_class(&attributes.call.server)? {
            Some(other) if other["metadata"]["name"] != class["metadata"]["name"] => {
                let name = other["metadata"]["name"].as_str().unwrap_or("");
                let why = format!("PriorityClass {name} is already marked as default. Only one default can exist");
                Err(attributes.forbidden(class, why))
            }
            _ => Ok(()),
        }
    }
}

/// The class for pods that name none: the lowest of those marked as default.
fn default_class(server: &Server) -> Result<Option<Value>, Status> {
    let page = server.store.list(CLASSES, List::default()).map_err(store_error)?;
    let mut found: Option<Value> = None;
    for entry in page.entries {
        let class = parse(&entry.value)?;
        let lower = found.as_ref().is_none_or(|f| class["value"].as_i64() < f["value"].as_i64());
        if class["globalDefault"] == true && lower {
            found = Some(class);
        }
    }
    Ok(found)
}
