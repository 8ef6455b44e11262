//! What a pod's containers request as extended resources that DeviceClasses stand behind (KEP-5004): on a node that has none of
//! it, devices from a claim that the scheduler makes for the pod.

use client::{Cache, Item};
use k8s_openapi::{
    api::{
        core::v1::{ContainerExtendedResourceRequest, Pod as ApiPod},
        resource::v1::{DeviceClaim, DeviceRequest, ExactDeviceRequest, ResourceClaim, ResourceClaimSpec},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};

use super::bind::FINALIZER;
use crate::{node::Node, plugins::node_resources_fit::is_scalar, pod::Pod, snapshot::Snapshot};

/// The claim's name until it is made, which no claim can have.
pub(super) const UNMADE: &str = "<extended-resources>";
const ANNOTATION: &str = "resource.kubernetes.io/extended-resource-claim";

/// The requests, in the order of their names.
pub(super) struct Extended(Vec<Request>);

struct Request {
    /// By the places of the container and of the resource among those that the container requests.
    name: String,
    container: String,
    resource: String,
    class: String,
    count: i64,
}

impl Extended {
    /// None if no class stands behind anything that the pod requests.
    pub fn of(pod: &Pod, snapshot: &Snapshot) -> Option<Self> {
        let mut resources = pod.needs.requests.keys().filter(|name| is_scalar(name));
        if !resources.any(|name| snapshot.device_class(name).is_some()) {
            return None;
        }
        let spec = pod.item.parse::<ApiPod>().ok()?.spec?;
        let containers = spec.init_containers.into_iter().flatten().chain(spec.containers);
        let mut all = Vec::new();
        for (at, container) in containers.enumerate() {
            let requests = container.resources.and_then(|it| it.requests).unwrap_or_default();
            for (index, (resource, amount)) in requests.into_iter().enumerate() {
                let count = api::quantity::Quantity::parse(&amount.0).map_or(0, |amount| amount.value());
                if let Some(class) = snapshot.device_class(&resource).filter(|_| count > 0) {
                    let (class, container) = (class.to_owned(), container.name.clone());
                    all.push(Request {
                        name: format!("container-{at}-request-{index}"),
                        container,
                        resource,
                        class,
                        count,
                    });
                }
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Some(Self(all))
    }

    pub fn classes(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|request| &*request.class)
    }

    /// The claim for what the node does not have itself, if there is anything.
    pub fn claim(&self, pod: &Item, node: &Node) -> Option<ResourceClaim> {
        let open = self.0.iter().filter(|it| node.allocatable(&it.resource) == 0);
        let request = |it: &Request| {
            let exactly = ExactDeviceRequest {
                device_class_name: it.class.clone(),
                allocation_mode: Some("ExactCount".into()),
                count: Some(it.count),
                ..ExactDeviceRequest::default()
            };
            DeviceRequest { name: it.name.clone(), exactly: Some(exactly), ..DeviceRequest::default() }
        };
        let requests: Vec<DeviceRequest> = open.map(request).collect();
        let owner = OwnerReference {
            api_version: "v1".into(),
            kind: "Pod".into(),
            name: pod.name().into(),
            uid: pod.uid.to_string(),
            controller: Some(true),
            block_owner_deletion: None,
        };
        let metadata = ObjectMeta {
            generate_name: Some(format!("{}-extended-resources-", pod.name())),
            namespace: Some(pod.namespace().into()),
            annotations: Some([(ANNOTATION.to_owned(), "true".to_owned())].into()),
            owner_references: Some(vec![owner]),
            finalizers: Some(vec![FINALIZER.into()]),
            ..ObjectMeta::default()
        };
        let devices = DeviceClaim { requests: Some(requests), ..DeviceClaim::default() };
        let is_any = devices.requests.as_ref().is_some_and(|requests| !requests.is_empty());
        is_any.then_some(ResourceClaim { metadata, spec: ResourceClaimSpec { devices: Some(devices) }, status: None })
    }

    /// Which requests of a claim are for which of the containers' resources.
    pub fn mappings(&self, claim: &ResourceClaim) -> Vec<ContainerExtendedResourceRequest> {
        let names = claim.spec.devices.iter().flat_map(|devices| devices.requests.iter().flatten());
        let of = |name: &String| {
            let it = self.0.iter().find(|it| it.name == *name)?;
            let (container_name, resource_name) = (it.container.clone(), it.resource.clone());
            Some(ContainerExtendedResourceRequest { container_name, resource_name, request_name: name.clone() })
        };
        names.filter_map(|request| of(&request.name)).collect()
    }
}

/// A claim that was made for the pod when it was not bound after all.
pub(super) fn left_over(claims: &Cache<ResourceClaim>, pod: &Pod) -> Option<ResourceClaim> {
    let owned = claims.owned_by(pod.uid());
    let mut owned = owned.iter().filter_map(|item| claims.parse(item));
    owned.find(|claim| {
        claim.metadata.annotations.as_ref().and_then(|it| it.get(ANNOTATION)).is_some_and(|value| value == "true")
    })
}
