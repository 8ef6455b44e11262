//! The network of a node: addresses for pods, services, and cluster DNS.
//!
//! - [`pod`] gives each pod an address and a wire, and closes the ranges of the cluster to what nobody serves.
//! - [`proxy`] turns Services and EndpointSlices into nftables maps.
//! - [`dns`] answers for `cluster.local` and forwards the rest.
//! - [`nft`] and [`netlink`] speak to the kernel; no program of the host is called.

pub mod dns;
pub mod netlink;
pub mod nft;
pub mod pod;
pub mod proxy;
mod slices;

pub use pod::{AttachRequest, Config, PodNetwork, PortMapping, Protocol, Ranges, Served};
