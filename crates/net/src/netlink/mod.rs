//! Netlink by system call: messages are written attribute by attribute, sockets answer in the calling thread.
//!
//! A socket belongs for ever to the network namespace in which it was made, so whoever wants to reach into a pod makes one on
//! a thread that has entered the pod's namespace. Nothing here waits for anything but the kernel, which answers before
//! the request's system call returns.

mod message;
mod socket;

pub use message::{Message, attribute, attributes};
pub use socket::{Failure, Socket};
