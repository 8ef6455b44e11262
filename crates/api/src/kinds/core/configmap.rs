//! `v1 ConfigMap`.

use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new("", "v1", "ConfigMap", "configmaps").namespaced().short(&["cm"]).build()
}
