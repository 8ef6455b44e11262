//! Containers' logs: reading and following them as `kubectl logs` asks, and rotating them.

mod changes;
mod format;
mod read;
mod rotate;

pub use changes::Changes;
pub use format::{Format, Options};
pub use read::stream;
pub use rotate::rotate;
