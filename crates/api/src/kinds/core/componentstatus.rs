//! `v1 ComponentStatus`.

use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new("", "v1", "ComponentStatus", "componentstatuses").short(&["cs"]).verbs(&["get", "list"]).build()
}
