//! `v1 PodTemplate`.

use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new("", "v1", "PodTemplate", "podtemplates").namespaced().build()
}
