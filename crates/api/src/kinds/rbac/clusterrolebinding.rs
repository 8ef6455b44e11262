//! `rbac.authorization.k8s.io/v1 ClusterRoleBinding`.

use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", "clusterrolebindings").build()
}
