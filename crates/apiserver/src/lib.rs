//! The API server: HTTPS and in-memory connections, authentication, authorization, admission, the one object path of all
//! kinds, watches, discovery and the streams to kubelets.
//!
//! [`stack`] is the list of layers that a request goes through; [`dispatch`] chooses who answers. [`rest`] is the path of all
//! kinds, directed by their descriptors; [`special`] holds what is no plain object: reviews, bindings, tokens, streams.
//! The server remembers nothing of its own: everything is in the store, so that several servers on one store behave as one.

mod access;
mod admission;
mod bootstrap;
mod catalog;
mod clock;
mod discovery;
mod dispatch;
mod flow;
mod guard;
mod health;
mod memory;
mod metrics;
mod openapi;
mod rest;
mod server;
mod special;
mod stack;
mod wire;

pub use server::{ApiServer, Config, KubeletDialer, Pki, StartError, Stream};
