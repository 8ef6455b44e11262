//! `scheduling.k8s.io/v1 PriorityClass`.

use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses").short(&["pc"]).build()
}
