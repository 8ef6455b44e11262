//! The container runtime: images, sandboxes, containers and the shim that keeps them, behind the Container Runtime
//! Interface.
//!
//! [`Runtime`] is the server's part: it decides, and remembers on disk. Each sandbox has a [`shim`], a small process that
//! holds its containers and outlives the server; the two speak over a socket. A container's processes come from the shim,
//! never from the server.

mod cgroup;
mod config;
mod container;
pub mod cri;
pub mod images;
mod purge;
mod record;
mod runtime;
pub mod sandbox;
mod security;
mod service;
pub mod shim;
mod shim_client;
mod stats;
mod streams;

pub use cgroup::pods::PodCgroups;
pub use config::Config;
pub use purge::sweep;
pub use runtime::Runtime;
