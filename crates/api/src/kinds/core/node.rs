//! `v1 Node`.

use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new("", "v1", "Node", "nodes")
        .short(&["no"])
        .prefix("minions")
        .subresource("proxy", ("", "", "NodeProxyOptions"), &["create", "delete", "get", "patch", "update"])
        .status()
        .build()
}
