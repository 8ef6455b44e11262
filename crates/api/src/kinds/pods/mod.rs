//! What pods and every kind with a pod template share: defaults, validation, quality of service and cells.

pub mod affinity;
pub mod annotations;
pub mod cells;
pub mod containers;
pub mod defaults;
mod os;
pub mod probes;
pub mod resources;
pub mod security;
pub mod sources;
pub mod spec;
pub mod status;
pub mod template;
pub mod tolerations;
pub mod update;
pub mod volumes;
pub mod warnings;
