//! `flowcontrol.apiserver.k8s.io/v1 PriorityLevelConfiguration`.

use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new("flowcontrol.apiserver.k8s.io", "v1", "PriorityLevelConfiguration", "prioritylevelconfigurations")
        .status()
        .build()
}
