//! `v1 Event`.

use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new("", "v1", "Event", "events").namespaced().short(&["ev"]).build()
}
