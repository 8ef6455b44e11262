//! `v1 PersistentVolume`.

use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new("", "v1", "PersistentVolume", "persistentvolumes").short(&["pv"]).status().build()
}
