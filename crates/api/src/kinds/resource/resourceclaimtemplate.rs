//! `resource.k8s.io/v1 ResourceClaimTemplate`.

use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new("resource.k8s.io", "v1", "ResourceClaimTemplate", "resourceclaimtemplates").namespaced().build()
}
