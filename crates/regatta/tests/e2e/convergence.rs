//! Faults at any instant, after which the cluster must be exactly what was asked for.
//!
//! API server, scheduler and controllers run in this process on a store in memory; only the kubelet is made up. Each run
//! makes random requests while connections break, components are restarted, others write to the same objects and nodes
//! are slow; then the faults end, and a model that knows nothing but the requests says what there must be.
//!
//! `REGATTA_CONVERGENCE_RUNS` says how many runs are made, `REGATTA_CONVERGENCE_SEED` with which number the first begins.

mod model;
mod world;

use std::time::Duration;

use futures::StreamExt;
use model::Model;
use rand::{Rng, SeedableRng, rngs::StdRng};
use world::World;

/// Runs in an ordinary test.
const RUNS: u64 = 24;
/// Runs at the same time: each of them waits a lot.
const AT_ONCE: usize = 4;
/// How long a run may take until all is as it should be.
const PATIENCE: Duration = Duration::from_secs(60);

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_random_faults_the_cluster_is_exactly_what_was_asked_for() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "off".into());
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
    let (first, runs) = (number("REGATTA_CONVERGENCE_SEED", 1), number("REGATTA_CONVERGENCE_RUNS", RUNS));
    let begun = std::time::Instant::now();
    let all = futures::stream::iter(first..first + runs).map(|seed| tokio::spawn(run(seed)));
    let mut faults = 0;
    let mut ended = all.buffer_unordered(AT_ONCE);
    while let Some(made) = ended.next().await {
        faults += made.expect("a run converges");
    }
    eprintln!("{runs} runs with {faults} faults in {:.1?}", begun.elapsed());
}

/// One run; the number of faults that it had.
async fn run(seed: u64) -> u64 {
    let mut random = StdRng::seed_from_u64(seed);
    let mut world = World::start(random.random()).await;
    let mut model = Model::default();
    for _ in 0..random.random_range(6..14) {
        // What is asked for is asked until it is granted, as a user would.
        model.ask(&mut random, &world).await;
        for _ in 0..random.random_range(0..3) {
            world.fault(&mut random).await;
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..60))).await;
    }
    world.end_faults().await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let wrong = model.check(&world).await;
        if wrong.is_empty() {
            break;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "run {seed} does not converge:\n{}\nasked for: {model:#?}",
            wrong.join("\n")
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // It must also stay so.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let wrong = model.check(&world).await;
    assert!(wrong.is_empty(), "run {seed} does not stay as it was asked:\n{}\nasked for: {model:#?}", wrong.join("\n"));
    world.faults()
}
