//! NodeRestriction: a node changes itself, its own pods and what belongs to them, and nothing else.

mod token;

use api::{Status, Value};
use async_trait::async_trait;

use super::certificates::{GROUP as CERTIFICATES, common_name};
use super::{Attributes, Operation, Plugin};
use crate::access::member;
use crate::rest::parse;

const MIRROR: &str = "kubernetes.io/config.mirror";
const USER: &str = "system:node:";

/// Labels of kubernetes.io and k8s.io that a node may set on itself.
const LABELS: &[&str] = &[
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];

pub struct NodeRestriction;

/// The node that asks; `None` where no node does.
fn node<'a>(attributes: &'a Attributes) -> Option<&'a str> {
    let user = attributes.user();
    member(user, "system:nodes").then_some(())?;
    user.name.strip_prefix(USER)
}

#[async_trait]
impl Plugin for NodeRestriction {
    fn handles(&self, attributes: &Attributes) -> bool {
        attributes.operation != Operation::Connect && node(attributes).is_some()
    }

    async fn validate(&self, attributes: &Attributes<'_>, old: Option<&Value>, object: &Value) -> Result<(), Status> {
        let Some(node) = node(attributes) else { return Ok(()) };
        let kind = &attributes.call.kind;
        let decided = match (&*kind.group, &*kind.plural, attributes.subresource) {
            ("", "pods", "") => pod(attributes, node, object)?,
            ("", "pods", "status") => pod_status(attributes, node, old, object),
            ("", "pods", "eviction") => eviction(attributes, node, object)?,
            ("", "pods", other) => {
                Err(format!("unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"))
            }
            ("", "nodes", _) => own_node(attributes, node, old, object),
            ("", "persistentvolumeclaims", "status") => claim_status(attributes, node, old, object),
            ("", "persistentvolumeclaims", _) => Err("may only update PVC status".to_owned()),
            ("coordination.k8s.io", "leases", _) => lease(attributes, node, object),
            ("", "serviceaccounts", "token") => token::token(attributes, node, object)?,
            ("storage.k8s.io", "csinodes", _) if name(object) != node => {
                Err("can only access CSINode with the same name as the requesting node".to_owned())
            }
            ("resource.k8s.io", "resourceslices", _) => slice(attributes, node, old, object),
            (CERTIFICATES, "certificatesigningrequests", "") => request(attributes, node, object),
            _ => Ok(()),
        };
        decided.map_err(|why| attributes.forbidden(object, why))
    }
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

type Decision = Result<(), String>;

fn pod(attributes: &Attributes, node: &str, pod: &Value) -> Result<Decision, Status> {
    let own = pod["spec"]["nodeName"] == node;
    Ok(match attributes.operation {
        Operation::Delete if own => Ok(()),
        Operation::Delete => Err(format!("node {node:?} can only delete pods with spec.nodeName set to itself")),
        Operation::Update | Operation::Connect => {
            let operation = attributes.operation.as_str();
            Err(format!("unexpected operation {operation:?}, node {node:?} can only create and delete mirror pods"))
        }
        Operation::Create if pod["metadata"]["annotations"].get(MIRROR).is_none() => {
            Err(format!("pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"))
        }
        Operation::Create if !own => {
            Err(format!("node {node:?} can only create pods with spec.nodeName set to itself"))
        }
        Operation::Create => match owned(attributes, node, pod)? {
            Ok(()) => references(pod)
                .map_or(Ok(()), |what| Err(format!("node {node:?} can not create pods that reference {what}"))),
            refused => refused,
        },
    })
}

/// A mirror pod is owned by its node alone.
fn owned(attributes: &Attributes, node: &str, pod: &Value) -> Result<Decision, Status> {
    let owners = pod["metadata"]["ownerReferences"].as_array().map(Vec::as_slice).unwrap_or_default();
    let owner = match owners {
        [] => return Ok(Err(format!("node {node:?} can only create pods with an owner reference set to itself"))),
        [owner] => owner,
        _ => return Ok(Err(format!("node {node:?} can only create pods with a single owner reference set to itself"))),
    };
    if owner["apiVersion"] != "v1" || owner["kind"] != "Node" || owner["name"] != node {
        return Ok(Err(format!("node {node:?} can only create pods with an owner reference set to itself")));
    }
    if owner["controller"] != true {
        return Ok(Err(format!("node {node:?} can only create pods with a controller owner reference set to itself")));
    }
    if owner["blockOwnerDeletion"] == true {
        return Ok(Err(format!("node {node:?} must not set blockOwnerDeletion on an owner reference")));
    }
    let entry = attributes.call.server.store.get(&format!("/registry/minions/{node}"));
    let known = parse(&entry.ok_or_else(|| Status::not_found("", "nodes", node))?.value)?;
    let (wanted, uid) = (owner["uid"].as_str().unwrap_or(""), known["metadata"]["uid"].as_str().unwrap_or(""));
    Ok(if wanted == uid { Ok(()) } else { Err(format!("node {node} UID mismatch: expected {wanted} got {uid}")) })
}

/// What of the API a pod refers to that a mirror pod may not.
fn references(pod: &Value) -> Option<&'static str> {
    let spec = &pod["spec"];
    if spec["serviceAccountName"].as_str().is_some_and(|name| !name.is_empty()) {
        return Some("a service account");
    }
    let text = spec.to_string();
    let names = |field: &str| text.contains(&format!("\"{field}\":{{"));
    let secret =
        names("secret") || names("secretKeyRef") || names("secretRef") || text.contains("\"imagePullSecrets\":[{");
    if secret {
        return Some("secrets");
    }
    if names("configMap") || names("configMapKeyRef") || names("configMapRef") {
        return Some("configmaps");
    }
    if names("clusterTrustBundle") {
        return Some("clustertrustbundles");
    }
    names("persistentVolumeClaim").then_some("persistentvolumeclaims")
}

fn pod_status(attributes: &Attributes, node: &str, old: Option<&Value>, new: &Value) -> Decision {
    if attributes.operation != Operation::Update {
        return Err(format!("unexpected operation {:?}", attributes.operation.as_str()));
    }
    let old = old.unwrap_or(new);
    if old["spec"]["nodeName"] != node {
        return Err(format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself"));
    }
    if old["metadata"]["labels"] != new["metadata"]["labels"] {
        return Err(format!("node {node:?} cannot update labels through pod status"));
    }
    if old["status"]["resourceClaimStatuses"] != new["status"]["resourceClaimStatuses"] {
        return Err(format!("node {node:?} cannot update resource claim statues"));
    }
    if old["status"]["extendedResourceClaimStatus"] != new["status"]["extendedResourceClaimStatus"] {
        return Err(format!("node {node:?} cannot update extended resource claim statuses"));
    }
    Ok(())
}

/// A node evicts its own pods.
fn eviction(attributes: &Attributes, node: &str, eviction: &Value) -> Result<Decision, Status> {
    let (namespace, name) = (attributes.namespace(), attributes.name(eviction));
    let entry = attributes.call.server.store.get(&format!("/registry/pods/{namespace}/{name}"));
    let pod = parse(&entry.ok_or_else(|| Status::not_found("", "pods", name))?.value)?;
    let own = pod["spec"]["nodeName"] == node;
    Ok(if own { Ok(()) } else { Err(format!("node {node} can only evict pods with spec.nodeName set to itself")) })
}

/// A node says how large a claim has become, and nothing else of it.
fn claim_status(attributes: &Attributes, node: &str, old: Option<&Value>, new: &Value) -> Decision {
    if attributes.operation != Operation::Update {
        return Err(format!("unexpected operation {:?}", attributes.operation.as_str()));
    }
    let rest = |claim: &Value| {
        let mut rest = claim.clone();
        for (part, fields) in [
            ("metadata", &["resourceVersion", "managedFields"][..]),
            ("status", &["capacity", "conditions", "allocatedResourceStatuses", "allocatedResources"]),
        ] {
            if let Some(part) = rest.get_mut(part).and_then(Value::as_object_mut) {
                fields.iter().for_each(|field| drop(part.remove(*field)));
            }
        }
        rest
    };
    if old.is_some_and(|old| rest(old) != rest(new)) {
        return Err(format!(
            "node {node:?} is not allowed to update fields other than status.capacity and status.conditions"
        ));
    }
    Ok(())
}

/// A node publishes and withdraws its own devices.
fn slice(attributes: &Attributes, node: &str, old: Option<&Value>, slice: &Value) -> Decision {
    let word = match attributes.operation {
        Operation::Create => "create",
        Operation::Update => "update",
        Operation::Delete => "delete",
        _ => return Ok(()),
    };
    if old.unwrap_or(slice)["spec"]["nodeName"] == node {
        return Ok(());
    }
    Err(format!("can only {word} ResourceSlice with the same NodeName as the requesting node"))
}

/// A node asks for certificates in its own name.
fn request(attributes: &Attributes, node: &str, request: &Value) -> Decision {
    const SIGNERS: [&str; 2] = ["kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client-kubelet"];
    let of_kubelets = request["spec"]["signerName"].as_str().is_some_and(|name| SIGNERS.contains(&name));
    if attributes.operation != Operation::Create || !of_kubelets {
        return Ok(());
    }
    if common_name(request).as_deref() == Some(&format!("{USER}{node}")) {
        return Ok(());
    }
    Err(format!("can only create a node CSR with CN={USER}{node}"))
}

fn own_node(attributes: &Attributes, node: &str, old: Option<&Value>, new: &Value) -> Decision {
    let asked = name(new);
    if asked != node {
        return Err(format!("node {node:?} is not allowed to modify node {asked:?}"));
    }
    if attributes.operation == Operation::Delete {
        return Ok(());
    }
    if attributes.operation == Operation::Create && !new["spec"]["configSource"].is_null() {
        return Err(format!("node {node:?} is not allowed to create pods with a non-nil configSource"));
    }
    let update = attributes.operation == Operation::Update;
    let old = old.unwrap_or(&Value::Null);
    if update && !new["spec"]["configSource"].is_null() && old["spec"]["configSource"] != new["spec"]["configSource"] {
        return Err(format!("node {node:?} is not allowed to update configSource to a new non-nil configSource"));
    }
    if update && old["spec"]["taints"] != new["spec"]["taints"] {
        return Err(format!("node {node:?} is not allowed to modify taints"));
    }
    let (was, is) = (&old["metadata"]["labels"], &new["metadata"]["labels"]);
    let keys =
        |labels: &Value| labels.as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect::<Vec<_>>();
    let mut changed: Vec<String> =
        keys(was).into_iter().chain(keys(is)).filter(|key| was.get(key) != is.get(key) && !may_label(key)).collect();
    changed.sort();
    changed.dedup();
    if !changed.is_empty() {
        let verb = if update { "modify" } else { "set the following" };
        return Err(format!("is not allowed to {verb} labels: {}", changed.join(", ")));
    }
    if update && old["metadata"]["ownerReferences"] != new["metadata"]["ownerReferences"] {
        return Err(format!("node {node:?} is not allowed to modify ownerReferences"));
    }
    Ok(())
}

fn may_label(key: &str) -> bool {
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    let within = |of: &str| domain == of || domain.ends_with(&format!(".{of}"));
    if within("node-restriction.kubernetes.io") {
        return false;
    }
    if !within("kubernetes.io") && !within("k8s.io") {
        return true;
    }
    LABELS.contains(&key) || within("kubelet.kubernetes.io") || within("node.kubernetes.io")
}

fn lease(attributes: &Attributes, node: &str, lease: &Value) -> Decision {
    if attributes.call.info.namespace != "kube-node-lease" {
        return Err("can only access leases in the \"kube-node-lease\" system namespace".to_owned());
    }
    if name(lease) != node {
        return Err("can only access node lease with the same name as the requesting node".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_sets_labels_of_its_own_and_none_that_steer_others_pods() {
        for (key, may) in [
            ("example.com/rack", true),
            ("rack", true),
            ("kubernetes.io/hostname", true),
            ("node.kubernetes.io/anything", true),
            ("node-role.kubernetes.io/control-plane", false),
            ("node-restriction.kubernetes.io/tenant", false),
            ("x.node-restriction.kubernetes.io/tenant", false),
        ] {
            assert_eq!(may_label(key), may, "{key}");
        }
    }

    #[test]
    fn a_mirror_pod_refers_to_nothing_of_the_api() {
        for (spec, what) in [
            (json!({"volumes": [{"name": "v", "secret": {"secretName": "s"}}]}), Some("secrets")),
            (json!({"containers": [{"envFrom": [{"configMapRef": {"name": "c"}}]}]}), Some("configmaps")),
            (json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}), None),
        ] {
            assert_eq!(references(&json!({"spec": spec})), what);
        }
    }
}
