//! Leader election: of several candidates the one that holds a Lease acts.

use std::{future::Future, time::Duration};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{Api, api::PostParams};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A candidate for a Lease.
///
/// Others take over when the holder has not renewed for `duration`, judged by their own clock alone, so clocks may differ.
/// A candidate that comes back under the identity that holds the Lease goes on at once.
#[derive(Clone)]
pub struct LeaderElection {
    pub client: kube::Client,
    pub namespace: String,
    /// The Lease's name, such as `kube-scheduler`.
    pub name: String,
    /// Who this candidate is; it must differ from every other that may run at the same time.
    pub identity: String,
    /// How long others wait after the last renewal.
    pub duration: Duration,
    /// How often the holder renews. After `duration` less one such interval without success it stops acting.
    pub renew: Duration,
    /// How often a candidate looks whether the Lease is free.
    pub retry: Duration,
}

/// What a candidate knows of the Lease: the holder's record and since when it has been unchanged here.
struct Observed {
    lease: Lease,
    since: Instant,
}

impl LeaderElection {
    /// A candidate with a Lease of 30 s that is renewed every 10 s.
    pub fn new(client: kube::Client, name: &str, identity: &str) -> LeaderElection {
        LeaderElection {
            client,
            namespace: "kube-system".to_owned(),
            name: name.to_owned(),
            identity: identity.to_owned(),
            duration: Duration::from_secs(30),
            renew: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }

    /// Whenever the Lease is held, runs `act`, whose token is cancelled when the Lease is lost. Returns at `shutdown`, after
    /// `act` has ended and the Lease was released.
    pub async fn run<F: Future<Output = ()>>(&self, shutdown: CancellationToken, act: impl Fn(CancellationToken) -> F) {
        while shutdown.run_until_cancelled(self.acquire()).await.is_some() {
            tracing::info!(lease = self.name, identity = self.identity, "leading");
            let leading = shutdown.child_token();
            let keep = async {
                leading.run_until_cancelled(self.keep()).await;
                leading.cancel();
            };
            tokio::join!(act(leading.clone()), keep);
            if shutdown.is_cancelled() {
                break;
            }
            tracing::warn!(lease = self.name, identity = self.identity, "the lease was lost");
        }
        self.release().await;
    }

    fn api(&self) -> Api<Lease> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn acquire(&self) {
        let mut observed = None;
        let mut backoff = crate::Backoff::new(Duration::from_millis(20), self.retry);
        loop {
            match self.try_hold(&mut observed).await {
                Ok(true) => return,
                Ok(false) => tokio::time::sleep(self.retry).await,
                Err(error) => {
                    tracing::debug!(lease = self.name, %error, "the lease cannot be had yet");
                    backoff.wait().await;
                }
            }
        }
    }

    /// Renews until the Lease is lost.
    async fn keep(&self) {
        let mut observed = None;
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(self.renew).await;
            let until = renewed + self.duration.saturating_sub(self.renew);
            loop {
                match tokio::time::timeout_at(until, self.try_hold(&mut observed)).await {
                    Ok(Ok(true)) => {
                        renewed = Instant::now();
                        break;
                    }
                    Ok(Ok(false)) | Err(_) => return,
                    Ok(Err(_)) => {
                        let pause = tokio::time::sleep(self.retry);
                        if tokio::time::timeout_at(until, pause).await.is_err() {
                            return;
                        }
                    }
                }
            }
        }
    }

    /// Takes or renews the Lease if it is free, out of date or our own already; false if another holds it.
    async fn try_hold(&self, observed: &mut Option<Observed>) -> kube::Result<bool> {
        let api = self.api();
        let now = MicroTime(Timestamp::now());
        let seconds = i32::try_from(self.duration.as_secs()).unwrap_or(i32::MAX);
        let Some(mut lease) = api.get_opt(&self.name).await? else {
            let spec = LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: Some(seconds),
                acquire_time: Some(now.clone()),
                renew_time: Some(now),
                lease_transitions: Some(0),
                ..LeaseSpec::default()
            };
            let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
            return match api.create(&PostParams::default(), &Lease { metadata, spec: Some(spec) }).await {
                Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(false),
                created => created.map(|_| true),
            };
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        let ours = holder == self.identity;
        if !ours && !holder.is_empty() {
            let seen = observed.get_or_insert_with(|| Observed { lease: lease.clone(), since: Instant::now() });
            if seen.lease.spec != lease.spec {
                *seen = Observed { lease: lease.clone(), since: Instant::now() };
            }
            let theirs =
                Duration::from_secs(spec.lease_duration_seconds.unwrap_or(seconds).max(0).unsigned_abs().into());
            if seen.since.elapsed() < theirs {
                return Ok(false);
            }
        }
        let spec = lease.spec.get_or_insert_default();
        if !ours {
            spec.holder_identity = Some(self.identity.clone());
            spec.acquire_time = Some(now.clone());
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0) + 1);
        }
        spec.lease_duration_seconds = Some(seconds);
        spec.renew_time = Some(now);
        match api.replace(&self.name, &PostParams::default(), &lease).await {
            // Another was faster; the next look tells whom.
            Err(kube::Error::Api(status)) if status.is_conflict() && !ours => Ok(false),
            replaced => replaced.map(|_| true),
        }
    }

    /// Lets the next candidate take over without waiting.
    async fn release(&self) {
        let api = self.api();
        let held = api.get_opt(&self.name).await.ok().flatten();
        let Some(mut lease) = held.filter(|lease| {
            lease.spec.as_ref().is_some_and(|spec| spec.holder_identity.as_ref() == Some(&self.identity))
        }) else {
            return;
        };
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        spec.renew_time = Some(MicroTime(Timestamp::now()));
        if let Err(error) = api.replace(&self.name, &PostParams::default(), &lease).await {
            tracing::debug!(lease = self.name, %error, "the lease was not released");
        }
    }
}
