//! `rbac.authorization.k8s.io/v1 ClusterRole`.

use super::rules::Role;
use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles")
        .strategy(Role { namespaced: false })
        .build()
}
