//! `regatta up`: the parts of a cluster, put together in one process.
//!
//! Every part reaches the API through the in-memory form of the dialer, with an identity of its own; none knows of another.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use apiserver::ApiServer;
use client::{Acceptor, Caches, Endpoint, Identity};
use futures::FutureExt;
use runtime::images::{Images, Registries};
use store::Store;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::cli::Up;
use crate::data::DataDir;
use crate::pki::Pki;
use crate::settings::{Plan, settle};
use crate::{kubeconfig, preflight};

/// The version of Kubernetes whose API is served.
pub const KUBERNETES_VERSION: &str = "v1.36.0";

const NODE_PORTS: (u16, u16) = (30_000, 32_767);
