//! `discovery.k8s.io/v1 EndpointSlice`.

use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices").namespaced().build()
}
