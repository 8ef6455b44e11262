//! `apps/v1 Deployment`.

use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new("apps", "v1", "Deployment", "deployments")
        .namespaced()
        .short(&["deploy"])
        .category("all")
        .scale()
        .status()
        .build()
}
