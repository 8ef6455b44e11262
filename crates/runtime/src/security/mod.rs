//! What a container's processes may do: capabilities and seccomp filters.

pub mod capabilities;
pub mod seccomp;
mod syscalls;
