//! `flowcontrol.apiserver.k8s.io/v1 FlowSchema`.

use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new("flowcontrol.apiserver.k8s.io", "v1", "FlowSchema", "flowschemas").status().build()
}
