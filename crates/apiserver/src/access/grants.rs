//! What the cluster's own parts may do, and what everybody may: one table. Roles and bindings in the store are for an
//! authorizer of their own.

use api::Value;
use client::Identity;
use serde_json::json;

use super::authorization::Authorizer;
use super::{AUTHENTICATED, MASTERS, SERVICE_ACCOUNT, member};
use crate::wire::RequestInfo;

/// Whom a grant is for.
enum Whom {
    User(&'static str),
    Group(&'static str),
    /// A controller's service account in `kube-system`.
    Controller,
}

/// Verbs on resources of groups, each list comma-separated, `*` being all. A resource is `pods` or `pods/status`; `*`
/// covers subresources too.
struct Grant {
    whom: Whom,
    verbs: &'static str,
    groups: &'static str,
    resources: &'static str,
}

const fn grant(whom: Whom, verbs: &'static str, groups: &'static str, resources: &'static str) -> Grant {
    Grant { whom, verbs, groups, resources }
}

const READ: &str = "get,list,watch";
const SCHEDULER: Whom = Whom::User("system:kube-scheduler");
const NODES: Whom = Whom::Group("system:nodes");
const PROXY: Whom = Whom::User("system:kube-proxy");
const DNS: Whom = Whom::User("system:kube-dns");

/// As upstream's bootstrap policy, without what it gives to features that are absent here.
const GRANTS: &[Grant] = &[
    grant(Whom::Group(MASTERS), "*", "*", "*"),
    grant(Whom::User("system:apiserver"), "*", "*", "*"),
    grant(Whom::User("system:kube-controller-manager"), "*", "*", "*"),
    grant(Whom::Controller, "*", "*", "*"),
    grant(
        SCHEDULER,
        READ,
        "",
        "nodes,namespaces,persistentvolumes,persistentvolumeclaims,replicationcontrollers,services",
    ),
    grant(SCHEDULER, READ, "apps", "replicasets,statefulsets"),
    grant(SCHEDULER, READ, "policy", "poddisruptionbudgets"),
    grant(SCHEDULER, READ, "storage.k8s.io", "*"),
    grant(SCHEDULER, READ, "resource.k8s.io", "*"),
    grant(SCHEDULER, READ, "scheduling.k8s.io", "*"),
    grant(SCHEDULER, "update,patch", "scheduling.k8s.io", "podgroups/status"),
    grant(SCHEDULER, "get,list,watch,delete", "", "pods"),
    grant(SCHEDULER, "create", "", "pods/binding,bindings"),
    grant(SCHEDULER, "update,patch", "", "pods/status"),
    grant(SCHEDULER, "patch,update", "", "persistentvolumes,persistentvolumeclaims"),
    grant(SCHEDULER, "update,patch", "resource.k8s.io", "resourceclaims,resourceclaims/status"),
    grant(SCHEDULER, "create,delete", "resource.k8s.io", "resourceclaims"),
    grant(SCHEDULER, "*", "coordination.k8s.io", "leases"),
    grant(SCHEDULER, "create,patch,update", ",events.k8s.io", "events"),
    grant(
        NODES,
        READ,
        "",
        "services,nodes,namespaces,configmaps,secrets,serviceaccounts,persistentvolumes,persistentvolumeclaims,endpoints",
    ),
    grant(NODES, "get,list,watch,create,delete", "", "pods"),
    grant(NODES, "create,update,patch", "", "nodes"),
    grant(NODES, "update,patch", "", "nodes/status,pods/status"),
    grant(NODES, "create", "", "pods/eviction,serviceaccounts/token"),
    grant(NODES, "get,update,patch", "", "persistentvolumeclaims/status"),
    // Admission lets a node take its own finalizer off a volume, and nothing else.
    grant(NODES, "patch", "", "persistentvolumes"),
    grant(NODES, READ, "certificates.k8s.io", "clustertrustbundles"),
    grant(NODES, "create,patch,update", ",events.k8s.io", "events"),
    grant(NODES, "*", "coordination.k8s.io", "leases"),
    grant(NODES, READ, "discovery.k8s.io", "endpointslices"),
    grant(NODES, READ, "storage.k8s.io", "volumeattachments,csidrivers"),
    grant(NODES, "*", "storage.k8s.io", "csinodes"),
    grant(NODES, READ, "node.k8s.io", "runtimeclasses"),
    grant(NODES, READ, "resource.k8s.io", "resourceclaims"),
    grant(NODES, "create,delete,deletecollection,get,list,patch,update,watch", "resource.k8s.io", "resourceslices"),
    grant(NODES, "create,get,list,watch", "certificates.k8s.io", "certificatesigningrequests"),
    grant(NODES, "create", "authentication.k8s.io", "tokenreviews"),
    grant(NODES, "create", "authorization.k8s.io", "subjectaccessreviews,localsubjectaccessreviews"),
    grant(PROXY, READ, "", "services,endpoints,nodes,namespaces,pods"),
    grant(PROXY, READ, "discovery.k8s.io", "endpointslices"),
    grant(PROXY, READ, "networking.k8s.io", "networkpolicies,servicecidrs,ingresses,ingressclasses"),
    grant(PROXY, "create,patch,update", ",events.k8s.io", "events"),
    grant(DNS, READ, "", "services,endpoints,namespaces,pods,nodes"),
    grant(DNS, READ, "discovery.k8s.io", "endpointslices"),
    grant(
        Whom::Group(AUTHENTICATED),
        "create",
        "authorization.k8s.io",
        "selfsubjectaccessreviews,selfsubjectrulesreviews",
    ),
    grant(Whom::Group(AUTHENTICATED), "create", "authentication.k8s.io", "selfsubjectreviews"),
];

/// The service accounts of upstream's controllers.
const CONTROLLERS: &[&str] = &[
    "attachdetach-controller",
    "bootstrap-signer",
    "certificate-controller",
    "clusterrole-aggregation-controller",
    "cronjob-controller",
    "daemon-set-controller",
    "deployment-controller",
    "device-taint-eviction-controller",
    "disruption-controller",
    "endpoint-controller",
    "endpointslice-controller",
    "endpointslicemirroring-controller",
    "ephemeral-volume-controller",
    "expand-controller",
    "generic-garbage-collector",
    "horizontal-pod-autoscaler",
    "job-controller",
    "legacy-service-account-token-cleaner",
    "namespace-controller",
    "node-controller",
    "persistent-volume-binder",
    "pod-garbage-collector",
    "pv-protection-controller",
    "pvc-protection-controller",
    "replicaset-controller",
    "replication-controller",
    "resource-claim-controller",
    "resourcequota-controller",
    "root-ca-cert-publisher",
    "route-controller",
    "selinux-warning-controller",
    "service-account-controller",
    "service-cidrs-controller",
    "service-controller",
    "statefulset-controller",
    "storage-version-migrator-controller",
    "taint-eviction-controller",
    "token-cleaner",
    "ttl-after-finished-controller",
    "ttl-controller",
    "validatingadmissionpolicy-status-controller",
    "volumeattributesclass-protection-controller",
    "node-ipam-controller",
    "ingress-controller",
];

/// Paths that every authenticated user may read, as `system:discovery`; a trailing `*` matches any tail.
const DISCOVERY: &[&str] = &[
    "/api",
    "/api/*",
    "/apis",
    "/apis/*",
    "/openapi",
    "/openapi/*",
    "/healthz",
    "/livez",
    "/readyz",
    "/version",
    "/version/",
    "/livez/*",
    "/readyz/*",
    "/healthz/*",
    "/",
    "/.well-known/openid-configuration",
    "/openid/v1/jwks",
];
/// Paths that anybody may read, as `system:public-info-viewer`.
const PUBLIC: &[&str] = &["/healthz", "/livez", "/readyz", "/version", "/version/"];

/// The authorizer of the table.
pub struct Grants;

impl Authorizer for Grants {
    fn allows(&self, user: &Identity, info: &RequestInfo) -> bool {
        if info.resource_request {
            GRANTS.iter().any(|grant| grant.covers(info) && grant.whom.is(user))
        } else {
            member(user, MASTERS)
                || GRANTS.iter().any(|g| g.verbs == "*" && g.groups == "*" && g.whom.is(user))
                || matches!(info.verb, "get" | "head")
                    && (listed(PUBLIC, &info.path) || member(user, AUTHENTICATED) && listed(DISCOVERY, &info.path))
        }
    }
}

impl Whom {
    fn is(&self, user: &Identity) -> bool {
        match self {
            Whom::User(name) => user.name == *name,
            Whom::Group(group) => member(user, group),
            Whom::Controller => user
                .name
                .strip_prefix(SERVICE_ACCOUNT)
                .and_then(|rest| rest.strip_prefix("kube-system:"))
                .is_some_and(|name| CONTROLLERS.contains(&name)),
        }
    }
}

impl Grant {
    fn covers(&self, info: &RequestInfo) -> bool {
        let has = |list: &str, item: &str| list == "*" || list.split(',').any(|l| l == item);
        let resource = |resource: &str| match resource.split_once('/') {
            Some((main, sub)) => main == info.resource && sub == info.subresource,
            None => resource == info.resource && info.subresource.is_empty(),
        };
        has(self.verbs, info.verb)
            && has(self.groups, &info.group)
            && (self.resources == "*" || self.resources.split(',').any(resource))
    }
}

/// The rules that hold for a user, as SelfSubjectRulesReview lists them: on resources and on other paths.
pub fn rules(user: &Identity) -> (Vec<Value>, Vec<Value>) {
    let list = |text: &'static str| text.split(',').collect::<Vec<_>>();
    let held = GRANTS.iter().filter(|grant| grant.whom.is(user));
    let resources =
        held.map(|g| json!({"verbs": list(g.verbs), "apiGroups": list(g.groups), "resources": list(g.resources)}));
    let mut paths = vec![json!({"verbs": ["get"], "nonResourceURLs": PUBLIC})];
    if member(user, AUTHENTICATED) {
        paths.push(json!({"verbs": ["get"], "nonResourceURLs": DISCOVERY}));
    }
    if member(user, MASTERS) {
        paths.push(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
    }
    (resources.collect(), paths)
}

fn listed(paths: &[&str], path: &str) -> bool {
    paths.iter().any(|listed| match listed.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => path == *listed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Query;

    fn allows(user: &Identity, request: &str) -> bool {
        let (method, path) = request.split_once(' ').expect("two parts");
        let method = http::Method::from_bytes(method.as_bytes()).expect("a method");
        Grants.allows(user, &RequestInfo::new(&method, path, &Query::default()))
    }

    #[test]
    fn each_part_of_the_cluster_may_do_what_it_needs_and_no_more() {
        let someone = Identity::service_account("default", "web");
        let table = [
            (Identity::admin("a"), "DELETE /apis/apps/v1/namespaces/a/deployments/b", true),
            (Identity::admin("a"), "GET /metrics", true),
            (Identity::component("system:kube-scheduler"), "POST /api/v1/namespaces/a/pods/b/binding", true),
            (Identity::component("system:kube-scheduler"), "POST /api/v1/namespaces/a/secrets", false),
            (Identity::node("n"), "PATCH /api/v1/nodes/n/status", true),
            (Identity::node("n"), "DELETE /api/v1/namespaces/a", false),
            (Identity::controller("job-controller"), "POST /api/v1/namespaces/a/pods", true),
            (Identity::controller("default"), "POST /api/v1/namespaces/a/pods", false),
            (someone.clone(), "GET /api/v1/namespaces/default/pods", false),
            (someone.clone(), "POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews", true),
            (someone.clone(), "GET /apis/apps/v1", true),
            (someone, "GET /metrics", false),
            (Identity::anonymous(), "GET /version", true),
            (Identity::anonymous(), "GET /apis", false),
        ];
        for (user, request, expected) in table {
            assert_eq!(allows(&user, request), expected, "{} {request}", user.name);
        }
    }
}
