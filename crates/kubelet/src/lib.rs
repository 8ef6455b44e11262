//! The kubelet: runs the pods that are bound to its node and tells the API how they are.
//!
//! It is a client of the API and of a container runtime ([`runtime::cri`]), and knows neither where the one is nor which the
//! other is. [`pods`] decides and reports, a pure core with one worker a pod around it; [`containers`], [`volumes`], [`images`]
//! and [`sandbox`](mod@sandbox) say what the runtime is asked for; [`probes`] and [`hooks`] speak to containers; [`node`] keeps the node's
//! own object; [`server`] answers for logs, exec, attach and port-forward. Nothing polls: every step follows an event, a
//! timer that the pod asks for, or a job's end.

mod admission;
mod cgroups;
mod claims;
mod collect;
mod config;
mod containers;
mod context;
mod devices;
mod dns;
mod eviction;
mod fields;
mod hooks;
mod images;
mod kubelet;
mod labels;
mod logs;
mod node;
mod objects;
mod placement;
mod plugins;
mod pods;
mod probes;
mod resources;
mod sandbox;
mod server;
mod shutdown;
mod stats;
mod users;
mod volumes;

pub use config::{ConfigError, Configuration};
pub use images::CredentialProviders;
pub use kubelet::{Config, Handle, Kubelet};
pub use server::{Keys, Server, spdy, streaming};
