//! StorageObjectInUseProtection, PersistentVolumeClaimResize, LocalVolumeRestriction, DefaultStorageClass and
//! DefaultIngressClass.

use api::quantity::Quantity;
use api::volume::{DEFAULT_CLASS, LOCAL_PATH_FINALIZER};
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
        attributes.operation == Operation::Create && finalizer(attributes).is_some()
    }

    async fn mutate(&self, attributes: &Attributes<'_>, _: Option<&Value>, object: &mut Value) -> Result<(), Status> {
        let Some(finalizer) = finalizer(attributes) else { return Ok(()) };
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

fn finalizer(attributes: &Attributes) -> Option<&'static str> {
    let table = [
        ("", "persistentvolumeclaims", "kubernetes.io/pvc-protection"),
        ("", "persistentvolumes", "kubernetes.io/pv-protection"),
        ("storage.k8s.io", "volumeattributesclasses", "kubernetes.io/vac-protection"),
    ];
    table.iter().find(|(group, plural, _)| attributes.is(group, plural)).map(|(_, _, finalizer)| *finalizer)
}

/// A claim grows where its class lets it.
pub struct PersistentVolumeClaimResize;

#[async_trait]
impl Plugin for PersistentVolumeClaimResize {
    fn handles(&self, attributes: &Attributes) -> bool {
        attributes.operation == Operation::Update && attributes.is("", "persistentvolumeclaims")
    }

    async fn validate(&self, attributes: &Attributes<'_>, old: Option<&Value>, claim: &Value) -> Result<(), Status> {
        let size = |claim: &Value| match &claim["spec"]["resources"]["requests"]["storage"] {
            Value::String(text) => Quantity::parse(text).ok(),
            other => Quantity::parse(&other.to_string()).ok(),
        };
        let Some(old) = old.filter(|old| size(claim) > size(old)) else { return Ok(()) };
        if old["status"]["phase"] != "Bound" {
            return Err(attributes.forbidden(claim, "Only bound persistent volume claims can be expanded"));
        }
        let annotation = &old["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"];
        let class = annotation.as_str().or(old["spec"]["storageClassName"].as_str()).unwrap_or("");
        let entry = attributes.call.server.store.get(&format!("/registry/storageclasses/{class}"));
        let class = entry.map(|entry| parse(&entry.value)).transpose()?;
        if class.is_some_and(|class| class["allowVolumeExpansion"] == true) {
            return Ok(());
        }
        let why = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support \
                   resize";
        Err(attributes.forbidden(claim, why))
    }
}

/// A node may say that it has removed a local volume's data, and change nothing else of a volume.
pub struct LocalVolumeRestriction;

#[async_trait]
impl Plugin for LocalVolumeRestriction {
    fn handles(&self, attributes: &Attributes) -> bool {
        attributes.operation == Operation::Update
            && attributes.is("", "persistentvolumes")
            && attributes.call.user.groups.iter().any(|group| group == "system:nodes")
    }

    async fn validate(&self, attributes: &Attributes<'_>, old: Option<&Value>, volume: &Value) -> Result<(), Status> {
        // What is the same but for the finalizer and what every write changes.
        let rest = |object: &Value| {
            let mut rest = object.clone();
            if let Some(metadata) = rest["metadata"].as_object_mut() {
                metadata.remove("managedFields");
                metadata.remove("resourceVersion");
                let mut kept = metadata.remove("finalizers").unwrap_or(Value::Null);
                if let Some(list) = kept.as_array_mut() {
                    list.retain(|name| name != LOCAL_PATH_FINALIZER);
                }
                let none = kept.as_array().is_none_or(Vec::is_empty);
                metadata.insert("finalizers".to_owned(), if none { Value::Null } else { kept });
            }
            rest
        };
        if old.is_some_and(|old| rest(old) == rest(volume)) {
            return Ok(());
        }
        Err(attributes.forbidden(volume, format!("a node may remove the finalizer {LOCAL_PATH_FINALIZER} only")))
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
        if let Some(name) = default_of(&attributes.call.server, "/registry/storageclasses/", &DEFAULT_CLASS)? {
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
