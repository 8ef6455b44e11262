//! `v1 Service`.

use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new("", "v1", "Service", "services")
        .namespaced()
        .short(&["svc"])
        .category("all")
        .prefix("services/specs")
        .subresource("proxy", ("", "", "ServiceProxyOptions"), &["create", "delete", "get", "patch", "update"])
        .status()
        .build()
}
