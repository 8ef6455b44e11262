//! StorageObjectInUseProtection, DefaultStorageClass and DefaultIngressClass.

use api::{Status, Value};
use async_trait::async_trait;
use serde_json::json;
use store::List;

use super::{Attributes, Operation, Plugin};
use crate::rest::{parse, store_error};
use crate::server::Server;

/// Volumes and claims stay while they are used.
pub struct StorageObjectInUseProtection;

#[async_trait]
impl Plugin for StorageObjectInUseProtection {
    fn handles(&self, attributes: &Attributes) -> bool {
        attributes.operation == Operation::Create
            && (attributes.is("", "persistentvolumes") || attributes.is("", "persistentvolumeclaims"))
    }

    async fn mutate(&self, attributes: &Attributes<'_>, _: Option<&Value>, object: &mut Value) -> Result<(), Status> {
        let claim = attributes.is("", "persistentvolumeclaims");
        let finalizer = if claim { "kubernetes.io/pvc-protection" } else { "kubernetes.io/pv-protection" };
        let list = &mut object["metadata"]["finalizers"];
        if !list.is_array() {
            *list = json!([]);
        }
        if let Some(all) = list.as_array_mut()
            && !all.iter().any(|f| f == finalizer)
        {
            all.push(Value::from(finalizer));
        }
        Ok(())
    }
}

/// A claim that names no class gets the default one.
pub struct DefaultStorageClass;

#[async_trait]
impl Plugin for DefaultStorageClass {
    fn handles(&self, attributes: &Attributes) -> bool {
        attributes.operation == Operation::Create && attributes.is("", "persistentvolumeclaims")
    }

    async fn mutate(&self, attributes: &Attributes<'_>, _: Option<&Value>, claim: &mut Value) -> Result<(), Status> {
        let named = claim["spec"].get("storageClassName").is_some_and(|c| !c.is_null());
        if named || claim["metadata"]["annotations"].get("volume.beta.kubernetes.io/storage-class").is_some() {
            return Ok(());
        }
        let marks = ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
        if let Some(name) = default_of(&attributes.call.server, "/registry/storageclasses/", &marks)? {
            claim["spec"]["storageClassName"] = Value::from(name);
        }
        Ok(())
    }
}

/// An Ingress that names no class gets the default one.
pub struct DefaultIngressClass;

#[async_trait]
impl Plugin for DefaultIngressClass {
    fn handles(&self, attributes: &Attributes) -> bool {
        attributes.operation == Operation::Create && attributes.is("networking.k8s.io", "ingresses")
    }

    async fn mutate(&self, attributes: &Attributes<'_>, _: Option<&Value>, ingress: &mut Value) -> Result<(), Status> {
        let named = ingress["spec"].get("ingressClassName").is_some_and(|c| !c.is_null());
        if named || ingress["metadata"]["annotations"].get("kubernetes.io/ingress.class").is_some() {
            return Ok(());
        }
        let marks = ["ingressclass.kubernetes.io/is-default-class"];
        if let Some(name) = default_of(&attributes.call.server, "/registry/ingressclasses/", &marks)? {
            ingress["spec"]["ingressClassName"] = Value::from(name);
        }
        Ok(())
    }
}

/// The newest class that one of the annotations marks as default.
fn default_of(server: &Server, range: &str, marks: &[&str]) -> Result<Option<String>, Status> {
    let page = server.store.list(range, List::default()).map_err(store_error)?;
    let mut best: Option<(String, String)> = None;
    for entry in page.entries {
        let class = parse(&entry.value)?;
        let annotations = &class["metadata"]["annotations"];
        if !marks.iter().any(|mark| annotations[*mark] == "true") {
            continue;
        }
        let text = |field: &str| class["metadata"][field].as_str().unwrap_or("").to_owned();
        let found = (text("creationTimestamp"), text("name"));
        if best.as_ref().is_none_or(|b| found.0 > b.0 || (found.0 == b.0 && found.1 < b.1)) {
            best = Some(found);
        }
    }
    Ok(best.map(|(_, name)| name))
}
