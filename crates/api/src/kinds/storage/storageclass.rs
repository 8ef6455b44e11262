//! `storage.k8s.io/v1 StorageClass`.

use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new("storage.k8s.io", "v1", "StorageClass", "storageclasses").short(&["sc"]).build()
}
