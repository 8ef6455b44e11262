//! `batch/v1 CronJob`.

use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new("batch", "v1", "CronJob", "cronjobs").namespaced().short(&["cj"]).category("all").status().build()
}
