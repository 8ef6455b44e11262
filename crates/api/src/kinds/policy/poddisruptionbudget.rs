//! `policy/v1 PodDisruptionBudget`.

use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets")
        .namespaced()
        .short(&["pdb"])
        .status()
        .build()
}
