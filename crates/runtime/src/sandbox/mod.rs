//! Pod sandboxes: what the containers of a pod share.

mod network;

pub use network::{AttachRequest, Network, NoNetwork};
