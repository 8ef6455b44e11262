//! The Container Runtime Interface (CRI v1) over gRPC, both ways: [`Remote`] is a runtime behind a socket that looks like
//! the built-in one, and [`serve`] shows a runtime of this process to other kubelets and to tools.
//!
//! Messages are those of `proto/v1.proto`. Nothing but `convert` knows that there are two forms of each. The protocol of
//! streams is the kubelet's, whose server speaks it too.

mod client;
mod convert;
mod server;
mod streaming;
#[rustfmt::skip]
#[allow(clippy::all)]
mod v1;

pub use client::Remote;
pub use server::serve;
