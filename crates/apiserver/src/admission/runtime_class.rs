//! RuntimeClass: a pod that names a runtime class gets the class's overhead, node selector and tolerations, and none but those.

use api::{Status, Value};
use async_trait::async_trait;

use super::{Attributes, Operation, Plugin};
use crate::rest::parse;

pub struct RuntimeClass;

/// The class that the pod names.
fn class(attributes: &Attributes, pod: &Value) -> Result<Option<Value>, Status> {
    let Some(name) = pod["spec"]["runtimeClassName"].as_str() else { return Ok(None) };
    let entry = attributes.call.server.store.get(&format!("/registry/runtimeclasses/{name}"));
    let missing = || attributes.forbidden(pod, format!("pod rejected: RuntimeClass {name:?} not found"));
    parse(&entry.ok_or_else(missing)?.value).map(Some)
}

#[async_trait]
impl Plugin for RuntimeClass {
    fn handles(&self, attributes: &Attributes) -> bool {
        attributes.operation == Operation::Create && attributes.is("", "pods")
    }

    async fn mutate(&self, attributes: &Attributes<'_>, _: Option<&Value>, pod: &mut Value) -> Result<(), Status> {
        let Some(class) = class(attributes, pod)? else { return Ok(()) };
        let overhead = &class["overhead"]["podFixed"];
        if overhead.is_object() {
            if pod["spec"].get("overhead").is_some_and(|given| given != overhead) {
                let why = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
                return Err(attributes.forbidden(pod, why));
            }
            pod["spec"]["overhead"] = overhead.clone();
        }
        let scheduling = &class["scheduling"];
        for (key, value) in scheduling["nodeSelector"].as_object().into_iter().flatten() {
            if let Some(own) = pod["spec"]["nodeSelector"].get(key).filter(|own| *own != value) {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let (class, own) = (text(value), text(own));
                let why = format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {class}; pod.spec.nodeSelector[{key}] = {own}"
                );
                return Err(attributes.forbidden(pod, why));
            }
            pod["spec"]["nodeSelector"][key] = value.clone();
        }
        for toleration in scheduling["tolerations"].as_array().into_iter().flatten() {
            let known = pod["spec"]["tolerations"].as_array().is_some_and(|all| all.contains(toleration));
            if known {
                continue;
            }
            match pod["spec"]["tolerations"].as_array_mut() {
                Some(all) => all.push(toleration.clone()),
                None => pod["spec"]["tolerations"] = Value::Array(vec![toleration.clone()]),
            }
        }
        Ok(())
    }

    async fn validate(&self, attributes: &Attributes<'_>, _: Option<&Value>, pod: &Value) -> Result<(), Status> {
        let class = class(attributes, pod)?.unwrap_or_default();
        let (wanted, own) = (&class["overhead"]["podFixed"], &pod["spec"]["overhead"]);
        match (wanted.is_object(), own.is_object()) {
            (true, _) if wanted != own => {
                Err(attributes
                    .forbidden(pod, "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"))
            }
            (false, true) => {
                let why = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";
                Err(attributes.forbidden(pod, why))
            }
            _ => Ok(()),
        }
    }
}
