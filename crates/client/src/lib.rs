//! How every component reaches the API: the dialer, one shared cache a kind, and the tools that controllers share.
//!
//! A component is given an [`Endpoint`] and its [`Identity`]; [`connect`] makes a [`kube::Client`] of them and nothing
//! above can tell whether the server is in the same process or behind HTTPS. [`Caches`] hold each kind once in a process,
//! as bytes with a small index. This crate knows nothing of what the objects mean.

pub mod backoff;
pub mod cache;
pub mod connect;
pub mod events;
pub mod expectations;
pub mod identity;
pub mod lease;
pub mod metrics;
pub mod queue;

pub use backoff::Backoff;
pub use cache::{Cache, Caches, Change, Item, Key, Labels, Owner, Subscription};
pub use connect::{Acceptor, Credential, Endpoint, connect};
pub use events::Recorder;
pub use expectations::Expectations;
pub use identity::Identity;
pub use lease::LeaderElection;
pub use queue::WorkQueue;
