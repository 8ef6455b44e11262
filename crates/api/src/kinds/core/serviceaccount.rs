//! `v1 ServiceAccount`.

use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new("", "v1", "ServiceAccount", "serviceaccounts")
        .namespaced()
        .short(&["sa"])
        .subresource("token", ("authentication.k8s.io", "v1", "TokenRequest"), &["create"])
        .build()
}
