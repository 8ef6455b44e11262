//! Default cluster roles and their bindings, as upstream's bootstrap policy for what is here.

use api::Value;
use serde_json::json;

/// `verbs|groups|resources`, comma-separated.
type Rules = &'static [&'static str];

/// Roles on resources, by name.
const ROLES: &[(&str, Rules)] = &[
    ("cluster-admin", &["*|*|*"]),
    (
        "admin",
        &[
            "*||pods,pods/attach,pods/exec,pods/portforward,pods/proxy,pods/log,pods/eviction,pods/status,configmaps,endpoints,events,persistentvolumeclaims,replicationcontrollers,replicationcontrollers/scale,secrets,serviceaccounts,serviceaccounts/token,services,services/proxy",
            "get,list,watch||bindings,limitranges,namespaces,namespaces/status,resourcequotas,resourcequotas/status",
            "*|apps|daemonsets,deployments,deployments/rollback,deployments/scale,replicasets,replicasets/scale,statefulsets,statefulsets/scale,controllerrevisions",
            "*|autoscaling|horizontalpodautoscalers",
            "*|batch|cronjobs,jobs",
            "*|networking.k8s.io|ingresses,networkpolicies",
            "*|policy|poddisruptionbudgets",
            "*|rbac.authorization.k8s.io|roles,rolebindings",
            "get,list,watch|discovery.k8s.io|endpointslices",
            "create|authorization.k8s.io|localsubjectaccessreviews",
            "*|coordination.k8s.io|leases",
        ],
    ),
    (
        "edit",
        &[
            "*||pods,pods/attach,pods/exec,pods/portforward,pods/proxy,pods/log,pods/eviction,configmaps,endpoints,events,persistentvolumeclaims,replicationcontrollers,replicationcontrollers/scale,secrets,serviceaccounts,serviceaccounts/token,services,services/proxy",
            "get,list,watch||bindings,limitranges,namespaces,resourcequotas",
            "*|apps|daemonsets,deployments,deployments/rollback,deployments/scale,replicasets,replicasets/scale,statefulsets,statefulsets/scale",
            "*|autoscaling|horizontalpodautoscalers",
            "*|batch|cronjobs,jobs",
            "*|networking.k8s.io|ingresses,networkpolicies",
            "*|policy|poddisruptionbudgets",
            "get,list,watch|discovery.k8s.io|endpointslices",
            "*|coordination.k8s.io|leases",
        ],
    ),
    (
        "view",
        &[
            "get,list,watch||pods,pods/log,pods/status,configmaps,endpoints,events,limitranges,namespaces,persistentvolumeclaims,replicationcontrollers,replicationcontrollers/scale,resourcequotas,serviceaccounts,services",
            "get,list,watch|apps|daemonsets,deployments,deployments/scale,replicasets,replicasets/scale,statefulsets,statefulsets/scale,controllerrevisions",
            "get,list,watch|autoscaling|horizontalpodautoscalers",
            "get,list,watch|batch|cronjobs,jobs",
            "get,list,watch|networking.k8s.io|ingresses,networkpolicies",
            "get,list,watch|policy|poddisruptionbudgets",
            "get,list,watch|discovery.k8s.io|endpointslices",
        ],
    ),
    (
        "system:basic-user",
        &[
            "create|authorization.k8s.io|selfsubjectaccessreviews,selfsubjectrulesreviews",
            "create|authentication.k8s.io|selfsubjectreviews",
        ],
    ),
    (
        "system:kube-scheduler",
        &[
            "create,patch,update|,events.k8s.io|events",
            "get,list,watch||nodes,namespaces,persistentvolumes,services,replicationcontrollers",
            "get,list,watch,delete||pods",
            "create||bindings,pods/binding",
            "patch,update||pods/status",
            "patch,update||persistentvolumes",
            "get,list,watch|apps|replicasets,statefulsets",
            "get,list,watch|policy|poddisruptionbudgets",
            "get,list,watch,patch,update||persistentvolumeclaims",
            "get,list,watch|storage.k8s.io|*",
            "get,list,watch|resource.k8s.io|deviceclasses,resourceslices",
            "get,list,watch,patch,update|resource.k8s.io|resourceclaims,resourceclaims/status",
            "create,delete|resource.k8s.io|resourceclaims",
            "*|coordination.k8s.io|leases",
        ],
    ),
    ("system:kube-controller-manager", &["*|*|*"]),
    (
        "system:node",
        &[
            "get,list,watch||services,nodes,namespaces,configmaps,secrets,persistentvolumes,persistentvolumeclaims",
            "create,update,patch||nodes,nodes/status",
            "get,list,watch,create,delete||pods",
            "update,patch||pods/status",
            "create||pods/eviction,serviceaccounts/token",
            "create,patch,update|,events.k8s.io|events",
            "*|coordination.k8s.io|leases",
            "get,list,watch|storage.k8s.io|csidrivers,volumeattachments",
            "get,update,patch||persistentvolumeclaims/status",
            "patch||persistentvolumes",
            "*|storage.k8s.io|csinodes",
            "get,list,watch|certificates.k8s.io|clustertrustbundles",
            "get,list,watch|node.k8s.io|runtimeclasses",
        ],
    ),
    (
        "system:node-proxier",
        &[
            "list,watch||services,endpoints,nodes",
            "list,watch|discovery.k8s.io|endpointslices",
            "create,patch,update|,events.k8s.io|events",
        ],
    ),
    ("system:node-bootstrapper", &["create,get,list,watch|certificates.k8s.io|certificatesigningrequests"]),
    (
        "system:auth-delegator",
        &["create|authentication.k8s.io|tokenreviews", "create|authorization.k8s.io|subjectaccessreviews"],
    ),
    (
        "system:kubelet-api-admin",
        &["get,list,watch,proxy||nodes", "*||nodes/log,nodes/metrics,nodes/proxy,nodes/stats"],
    ),
    (
        "system:persistent-volume-provisioner",
        &[
            "get,list,watch,create,delete||persistentvolumes",
            "get,list,watch,update||persistentvolumeclaims",
            "get,list,watch|storage.k8s.io|storageclasses",
            "get,list,watch,create,patch,update||events",
        ],
    ),
];

/// Roles on paths: name and paths, all for `get`.
const PATHS: &[(&str, &[&str])] = &[
    (
        "system:discovery",
        &[
            "/api",
            "/api/*",
            "/apis",
            "/apis/*",
            "/healthz",
            "/livez",
            "/openapi",
            "/openapi/*",
            "/readyz",
            "/version",
            "/version/",
        ],
    ),
    ("system:public-info-viewer", &["/healthz", "/livez", "/readyz", "/version", "/version/"]),
    (
        "system:monitoring",
        &["/healthz", "/healthz/*", "/livez", "/livez/*", "/metrics", "/metrics/slis", "/readyz", "/readyz/*"],
    ),
    (
        "system:service-account-issuer-discovery",
        &[
            "/.well-known/openid-configuration",
            "/.well-known/openid-configuration/",
            "/openid/v1/jwks",
            "/openid/v1/jwks/",
        ],
    ),
];

/// Bindings: name of both, and subjects as `User:name` or `Group:name`.
const BINDINGS: &[(&str, &[&str])] = &[
    ("cluster-admin", &["Group:system:masters"]),
    ("system:basic-user", &["Group:system:authenticated"]),
    ("system:discovery", &["Group:system:authenticated"]),
    ("system:public-info-viewer", &["Group:system:authenticated", "Group:system:unauthenticated"]),
    ("system:monitoring", &["Group:system:monitoring"]),
    ("system:service-account-issuer-discovery", &["Group:system:serviceaccounts"]),
    ("system:kube-scheduler", &["User:system:kube-scheduler"]),
    ("system:kube-controller-manager", &["User:system:kube-controller-manager"]),
    ("system:node-proxier", &["User:system:kube-proxy"]),
];

/// Every default role and binding.
pub fn all() -> Vec<Value> {
    let roles = ROLES.iter().map(|(name, rules)| role(name, rules.iter().map(|r| rule(r)).collect()));
    let paths = PATHS.iter().map(|(name, paths)| role(name, vec![json!({"verbs": ["get"], "nonResourceURLs": paths})]));
    roles.chain(paths).chain(BINDINGS.iter().map(|(name, subjects)| binding(name, subjects))).collect()
}

fn metadata(name: &str) -> Value {
    json!({
        "name": name, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
    })
}

fn role(name: &str, mut rules: Vec<Value>) -> Value {
    if name == "cluster-admin" {
        rules.push(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
    }
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": metadata(name), "rules": rules})
}

fn rule(text: &str) -> Value {
    let mut parts = text.split('|').map(|part| part.split(',').collect::<Vec<_>>());
    let mut next = || parts.next().unwrap_or_default();
    json!({"verbs": next(), "apiGroups": next(), "resources": next()})
}

fn binding(name: &str, subjects: &[&str]) -> Value {
    let subjects = subjects
        .iter()
        .filter_map(|s| s.split_once(':'))
        .map(|(kind, name)| json!({"kind": kind, "apiGroup": "rbac.authorization.k8s.io", "name": name}));
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": metadata(name),
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        "subjects": subjects.collect::<Vec<_>>(),
    })
}
