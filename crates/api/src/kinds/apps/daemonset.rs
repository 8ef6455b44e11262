//! `apps/v1 DaemonSet`.

use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new("apps", "v1", "DaemonSet", "daemonsets").namespaced().short(&["ds"]).category("all").status().build()
}
