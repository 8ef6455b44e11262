//! `apiregistration.k8s.io/v1 APIService`.

use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new("apiregistration.k8s.io", "v1", "APIService", "apiservices")
        .category("api-extensions")
        .prefix("apiregistration.k8s.io/apiservices")
        .status()
        .build()
}
