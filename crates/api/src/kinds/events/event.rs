//! `events.k8s.io/v1 Event`.

use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new("events.k8s.io", "v1", "Event", "events").namespaced().short(&["ev"]).stored_as("v1").build()
}
