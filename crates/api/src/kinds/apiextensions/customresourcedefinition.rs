//! `apiextensions.k8s.io/v1 CustomResourceDefinition`.

use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions")
        .short(&["crd", "crds"])
        .category("api-extensions")
        .prefix("apiextensions.k8s.io/customresourcedefinitions")
        .status()
        .build()
}
