//! What a request costs the server, in its own threads' CPU time. Run it in release:
//! `cargo test --release -p apiserver --test cost -- --ignored --nocapture`.

mod harness;

use std::sync::Arc;
use std::time::{Duration, Instant};

use harness::{Cluster, send};
use serde_json::json;

const REQUESTS: usize = 20_000;
const AT_ONCE: usize = 64;

/// CPU time of this process's threads whose name begins so.
fn cpu(prefix: &str) -> Duration {
    let mut ticks = 0;
    for task in std::fs::read_dir("/proc/self/task").expect("tasks").flatten() {
        let read = |file: &str| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
        if read("comm").starts_with(prefix) {
            // Nanoseconds on the CPU come first.
            ticks += read("schedstat").split(' ').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    Duration::from_nanos(ticks)
}

async fn measure<F, Fut>(what: &str, run: F)
where
    F: Fn(usize) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send,
{
    let (before, started) = (cpu("server"), Instant::now());
    let run = Arc::new(run);
    let tasks: Vec<_> = (0..AT_ONCE)
        .map(|task| {
            let run = run.clone();
            tokio::spawn(async move {
                for i in 0..REQUESTS / AT_ONCE {
                    run(task * (REQUESTS / AT_ONCE) + i).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("a task");
    }
    let (spent, took) = (cpu("server") - before, started.elapsed());
    let each = spent / u32::try_from(REQUESTS).expect("a number");
    println!(
        "{what}: {:.0} /s, {} µs server CPU each",
        REQUESTS as f64 / took.as_secs_f64(),
        each.as_nanos() as f64 / 1000.0
    );
}

#[test]
#[ignore = "a measurement"]
fn requests_are_cheap() {
    let build = |name: &'static str| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name(name)
            .enable_all()
            .build()
            .expect("a runtime")
    };
    let (server, clients) = (build("server"), build("client"));
    let cluster = server.block_on(async { tokio::spawn(Cluster::start()).await.expect("a cluster") });
    clients.block_on(async {
        let client = cluster.https("admin", &["system:masters"]);
        let maps = "/api/v1/namespaces/default/configmaps";
        let padding = "x".repeat(700);
        let body = move |name: String| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"a": "b"}}, "data": {"k": padding}}).to_string();
        let c = client.clone();
        measure("create", move |i| {
            let (c, body) = (c.clone(), body(format!("m{i}")));
            async move { assert_eq!(send(&c, "POST", maps, "application/json", &body).await.0, 201) }
        })
        .await;
        let c = client.clone();
        measure("get", move |i| {
            let c = c.clone();
            async move { assert_eq!(send(&c, "GET", &format!("{maps}/m{i}"), "application/json", "").await.0, 200) }
        })
        .await;
        let c = client.clone();
        measure("merge patch", move |i| {
            let c = c.clone();
            async move {
                let patch = format!(r#"{{"data":{{"p":"{i}"}}}}"#);
                assert_eq!(send(&c, "PATCH", &format!("{maps}/m{i}"), "application/merge-patch+json", &patch).await.0, 200);
            }
        })
        .await;
        for _ in 0..3 {
            let (before, started) = (cpu("server"), Instant::now());
            let (code, body) = harness::get(&client, maps).await;
            println!("list of {REQUESTS}: {code}, {} MiB in {:?}, {:?} server CPU", body.len() >> 20, started.elapsed(), cpu("server") - before);
        }
        let c = client.clone();
        measure("delete", move |i| {
            let c = c.clone();
            async move { assert_eq!(send(&c, "DELETE", &format!("{maps}/m{i}"), "application/json", "").await.0, 200) }
        })
        .await;
    });
}
