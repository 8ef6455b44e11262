//! `resource.k8s.io/v1 ResourceClaim`.

use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new("resource.k8s.io", "v1", "ResourceClaim", "resourceclaims").namespaced().status().build()
}
