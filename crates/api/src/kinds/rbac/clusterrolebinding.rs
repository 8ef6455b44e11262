//! `rbac.authorization.k8s.io/v1 ClusterRoleBinding`.

use super::bindings::{Binding, COLUMNS};
use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", "clusterrolebindings")
        .columns(COLUMNS)
        .strategy(Binding { roles: &["ClusterRole"] })
        .build()
}
