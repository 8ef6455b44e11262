//! Pods on this node: from the object in the API to containers in the runtime and back to its status.
//!
//! [`decide`] and [`status`] are pure; a [`worker`] per pod asks them after every event and does what they say; the
//! [`manager`] brings events to workers.

pub mod backoff;
mod conditions;
pub mod decide;
mod ending;
mod jobs;
pub mod manager;
pub mod memory;
pub mod observed;
pub mod pod;
mod resize;
pub mod statics;
pub mod status;
mod sync;
pub mod worker;

#[cfg(test)]
mod tests;
