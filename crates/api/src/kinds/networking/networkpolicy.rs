//! `networking.k8s.io/v1 NetworkPolicy`.

use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies").namespaced().short(&["netpol"]).build()
}
