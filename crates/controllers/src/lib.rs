//! The controllers: what makes the cluster's state what was asked for.
//!
//! One file (or directory) a controller and one list of them, [`ALL`]. Each is level-triggered and idempotent: a change of
//! anything it looks at queues the key of an object, and a sync of that key decides from the shared caches what is to be
//! done, as a pure function, and does it. Controllers run only while the caller holds the leader's Lease; they keep nothing
//! that a restart would miss.

mod account_tokens;
mod autoscaler;
mod certificates;
mod claim;
mod cluster_role;
mod condition;
mod cronjob;
mod daemonset;
mod deployment;
mod device_taints;
mod discovery;
mod disruption;
mod endpoints;
mod frame;
mod garbage;
mod intstr;
mod job;
mod namespace;
mod node;
mod owner;
mod pod_gc;
mod pods;
mod protection;
mod quota;
mod replicaset;
mod resource_claim;
mod revisions;
mod root_ca;
mod selector;
mod service_account;
mod services;
mod statefulset;
mod token_cleaner;
mod ttl_after_finished;
mod volume;

use std::{sync::Arc, time::Duration};

use client::Caches;
use futures::future::{BoxFuture, FutureExt, join_all};
use ipnet::IpNet;
use tokio_util::sync::CancellationToken;

use frame::Env;
pub use frame::Error;

/// What the controllers need from the process that runs them.
#[derive(Clone)]
pub struct Context {
    /// Gives a client with the identity of the controller of this name (`deployment-controller`), which upstream's
    /// bootstrap roles know as the service account of that name in `kube-system`; or with the user's of a whole name
    /// (`system:kube-controller-manager`).
    pub client_for: Arc<dyn Fn(&str) -> kube::Client + Send + Sync>,
    /// The caches that are shared with the rest of the process.
    pub caches: Caches,
    /// The certificate authority, PEM, by which pods recognise the API server.
    pub root_ca: String,
    /// The authority that signs certificates; without it requests stay unsigned.
    pub authority: Option<Authority>,
}

/// A certificate authority, PEM.
#[derive(Clone)]
pub struct Authority {
    pub certificate: String,
    pub key: String,
}

type Start = fn(Env) -> BoxFuture<'static, ()>;

/// The identity of what upstream runs as the control plane itself.
const CONTROL_PLANE: &str = "system:kube-controller-manager";

/// Every controller by the name of its identity.
const ALL: &[(&str, Start)] = &[
    ("deployment-controller", |env| deployment::run(env).boxed()),
    ("replicaset-controller", |env| replicaset::run(env).boxed()),
    ("replication-controller", |env| replicaset::run_replication_controllers(env).boxed()),
    ("endpointslice-controller", |env| endpoints::slices::run(env).boxed()),
    ("endpoint-controller", |env| endpoints::legacy::run(env).boxed()),
    ("job-controller", |env| job::run(env).boxed()),
    ("cronjob-controller", |env| cronjob::run(env).boxed()),
    ("daemon-set-controller", |env| daemonset::run(env).boxed()),
    ("statefulset-controller", |env| statefulset::run(env).boxed()),
    ("horizontal-pod-autoscaler", |env| autoscaler::run(env).boxed()),
    ("disruption-controller", |env| disruption::run(env).boxed()),
    ("pvc-protection-controller", |env| protection::run_claims(env).boxed()),
    ("pv-protection-controller", |env| protection::run_volumes(env).boxed()),
    ("persistent-volume-binder", |env| volume::binder::run(env).boxed()),
    ("expand-controller", |env| volume::provision::run(env).boxed()),
    ("ephemeral-volume-controller", |env| volume::ephemeral::run(env).boxed()),
    ("attachdetach-controller", |env| volume::attach::run(env).boxed()),
    ("volumeattributesclass-protection-controller", |env| volume::attributes::run(env).boxed()),
    ("clusterrole-aggregation-controller", |env| cluster_role::run(env).boxed()),
    ("ttl-after-finished-controller", |env| ttl_after_finished::run(env).boxed()),
    ("node-controller", |env| node::run(env).boxed()),
    ("node-controller", |env| node::eviction::run(env).boxed()),
    ("device-taint-eviction-controller", |env| device_taints::run(env).boxed()),
    ("pod-garbage-collector", |env| pod_gc::run(env).boxed()),
    ("generic-garbage-collector", |env| garbage::run(env).boxed()),
    ("namespace-controller", |env| namespace::run(env).boxed()),
    ("service-account-controller", |env| service_account::run(env).boxed()),
    (CONTROL_PLANE, |env| account_tokens::run(env).boxed()),
    ("legacy-service-account-token-cleaner", |env| token_cleaner::run(env).boxed()),
    ("root-ca-cert-publisher", |env| root_ca::run(env).boxed()),
    ("resource-claim-controller", |env| resource_claim::run(env).boxed()),
    ("resourcequota-controller", |env| quota::run(env).boxed()),
    ("certificate-controller", |env| certificates::approve(env).boxed()),
    ("certificate-controller", |env| certificates::sign(env).boxed()),
    ("certificate-controller", |env| certificates::clean(env).boxed()),
    ("service-cidrs-controller", |env| services::ranges::run(env).boxed()),
    ("service-cidrs-controller", |env| services::addresses::run(env).boxed()),
    ("ttl-controller", |env| node::ttl::run(env).boxed()),
    ("endpointslicemirroring-controller", |env| endpoints::mirror::run(env).boxed()),
];

/// Gives each node a part of the cluster's range of pod addresses, of a size by its prefix, until `shutdown`. It runs beside
/// [`run`] where the cluster has such a range.
pub async fn run_pod_ranges(context: Context, cluster: IpNet, prefix: u8, shutdown: CancellationToken) {
    const NAME: &str = "node-controller";
    client::queue::named(NAME, node::ranges::run(Env::new(&context, NAME, shutdown), cluster, prefix)).await;
}

/// How long a controller that has failed waits for its next start.
const PAUSE: Duration = Duration::from_secs(5);

/// Runs every controller until `shutdown`. One that panics loses nothing, since all that it knows is in the caches: it is
/// started again.
pub async fn run(context: Context, shutdown: CancellationToken) {
    join_all(ALL.iter().map(|(name, start)| keep(&context, name, *start, &shutdown))).await;
}

async fn keep(context: &Context, name: &'static str, start: Start, shutdown: &CancellationToken) {
    loop {
        let controller = start(Env::new(context, name, shutdown.clone()));
        let Err(error) = tokio::spawn(client::queue::named(name, controller)).await else { return };
        tracing::error!(controller = name, %error, "a controller has failed, it is started again");
        if shutdown.run_until_cancelled(tokio::time::sleep(PAUSE)).await.is_none() {
            return;
        }
    }
}
