//! `v1 ResourceQuota`.

use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new("", "v1", "ResourceQuota", "resourcequotas").namespaced().short(&["quota"]).status().build()
}
