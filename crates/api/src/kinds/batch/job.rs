//! `batch/v1 Job`.

use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new("batch", "v1", "Job", "jobs").namespaced().category("all").status().build()
}
