//! `v1 Pod`.

use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new("", "v1", "Pod", "pods")
        .namespaced()
        .short(&["po"])
        .category("all")
        .subresource("attach", ("", "", "PodAttachOptions"), &["create", "get"])
        .subresource("binding", ("", "", "Binding"), &["create"])
        .view("ephemeralcontainers")
        .subresource("eviction", ("policy", "v1", "Eviction"), &["create"])
        .subresource("exec", ("", "", "PodExecOptions"), &["create", "get"])
        .own("log", &["get"])
        .subresource("portforward", ("", "", "PodPortForwardOptions"), &["create", "get"])
        .subresource("proxy", ("", "", "PodProxyOptions"), &["create", "delete", "get", "patch", "update"])
        .view("resize")
        .status()
        .build()
}
