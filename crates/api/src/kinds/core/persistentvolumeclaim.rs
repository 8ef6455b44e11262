//! `v1 PersistentVolumeClaim`.

use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims")
        .namespaced()
        .short(&["pvc"])
        .status()
        .build()
}
