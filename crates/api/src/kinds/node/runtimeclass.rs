//! `node.k8s.io/v1 RuntimeClass`.

use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses").build()
}
