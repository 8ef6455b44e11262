//! `storage.k8s.io/v1 CSINode`.

use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new("storage.k8s.io", "v1", "CSINode", "csinodes").build()
}
