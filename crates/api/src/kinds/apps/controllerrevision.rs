//! `apps/v1 ControllerRevision`.

use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new("apps", "v1", "ControllerRevision", "controllerrevisions").namespaced().build()
}
