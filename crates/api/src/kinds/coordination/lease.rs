//! `coordination.k8s.io/v1 Lease`.

use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new("coordination.k8s.io", "v1", "Lease", "leases").namespaced().build()
}
