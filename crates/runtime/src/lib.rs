//! The container runtime: images, sandboxes, containers and the shim that keeps them, behind the Container Runtime
//! Interface.

pub mod cri;
pub mod images;
pub mod sandbox;
