//! `rbac.authorization.k8s.io/v1 RoleBinding`.

use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings").namespaced().build()
}
