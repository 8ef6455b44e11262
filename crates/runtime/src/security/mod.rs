//! What a container's processes may do: capabilities and seccomp filters.

pub mod capabilities;
#[cfg(target_arch = "x86_64")]
mod compat;
pub mod seccomp;
mod syscalls;
