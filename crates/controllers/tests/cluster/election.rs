//! Of several candidates one leads, and another takes over when it stops.

use std::{sync::Arc, time::Duration};

use client::LeaderElection;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::harness::Cluster;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_held_by_one_and_released_at_shutdown() {
    let cluster = Cluster::start().await;
    let leading = Arc::new(Mutex::new(Vec::new()));
    let changed = Arc::new(Notify::new());
    let candidate = |identity: &'static str| {
        let mut election = LeaderElection::new(cluster.client.clone(), "test", identity);
        (election.duration, election.renew, election.retry) =
            (Duration::from_secs(4), Duration::from_millis(300), Duration::from_millis(100));
        let (stop, leading, changed) = (CancellationToken::new(), leading.clone(), changed.clone());
        let shutdown = stop.clone();
        let task = tokio::spawn(async move {
            let act = |lost: CancellationToken| {
                let (leading, changed) = (leading.clone(), changed.clone());
                async move {
                    leading.lock().push(identity);
                    changed.notify_one();
                    lost.cancelled().await;
                    leading.lock().retain(|known| *known != identity);
                }
            };
            election.run(shutdown, act).await;
        });
        (stop, task)
    };
    let (stop_first, first) = candidate("first");
    changed.notified().await;
    let (stop_second, second) = candidate("second");
    // Longer than the lease: the first has renewed it meanwhile.
    tokio::time::sleep(Duration::from_millis(4500)).await;
    assert_eq!(*leading.lock(), ["first"]);
    let asked = tokio::time::Instant::now();
    stop_first.cancel();
    changed.notified().await;
    assert_eq!(*leading.lock(), ["second"]);
    assert!(asked.elapsed() < Duration::from_secs(3), "the lease was given back, not waited for");
    stop_second.cancel();
    first.await.unwrap();
    second.await.unwrap();
}
