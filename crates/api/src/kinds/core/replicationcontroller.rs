//! `v1 ReplicationController`.

use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new("", "v1", "ReplicationController", "replicationcontrollers")
        .namespaced()
        .short(&["rc"])
        .category("all")
        .prefix("controllers")
        .scale()
        .status()
        .build()
}
