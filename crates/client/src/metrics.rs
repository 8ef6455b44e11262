//! What all components of the process count, under the names that client-go and upstream's components give it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use parking_lot::Mutex;

/// What a named work queue counts.
#[derive(Debug, Default)]
pub struct QueueCounts {
    pub adds: AtomicU64,
    pub depth: AtomicI64,
    pub retries: AtomicU64,
    /// Items being worked on.
    pub working: AtomicI64,
}

#[derive(Default)]
struct All {
    queues: Mutex<BTreeMap<String, Arc<QueueCounts>>>,
    /// By method and status code.
    requests: Mutex<BTreeMap<(String, u16), u64>>,
}

static ALL: LazyLock<All> = LazyLock::new(All::default);

/// The counts of the queue of this name; queues of one name share them.
pub fn queue(name: &str) -> Arc<QueueCounts> {
    ALL.queues.lock().entry(name.to_owned()).or_default().clone()
}

/// Counts a request of a client in this process.
pub fn request(method: &str, code: u16) {
    let mut requests = ALL.requests.lock();
    match requests.get_mut(&(method.to_owned(), code)) {
        Some(count) => *count += 1,
        None => {
            requests.insert((method.to_owned(), code), 1);
        }
    }
}

/// Everything, in Prometheus' text format.
pub fn report() -> String {
    let mut out = String::new();
    type Column = fn(&QueueCounts) -> i64;
    let columns: [(&str, &str, &str, Column); 4] = [
        ("workqueue_adds_total", "counter", "Total number of adds handled by workqueue", |q| {
            q.adds.load(Ordering::Relaxed).cast_signed()
        }),
        ("workqueue_depth", "gauge", "Current depth of workqueue", |q| q.depth.load(Ordering::Relaxed)),
        ("workqueue_retries_total", "counter", "Total number of retries handled by workqueue", |q| {
            q.retries.load(Ordering::Relaxed).cast_signed()
        }),
        ("workqueue_working_items", "gauge", "Items that workers have taken and not finished", |q| {
            q.working.load(Ordering::Relaxed)
        }),
    ];
    let queues = ALL.queues.lock();
    for (name, kind, help, column) in columns {
        // Writing into a text cannot fail.
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (queue, counts) in queues.iter() {
            let _ = writeln!(out, "{name}{{name=\"{queue}\"}} {}", column(counts));
        }
    }
    drop(queues);
    let name = "rest_client_requests_total";
    let help = "Number of HTTP requests, partitioned by status code, method, and host.";
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter");
    for ((method, code), count) in ALL.requests.lock().iter() {
        let _ = writeln!(out, "{name}{{code=\"{code}\",host=\"in-process\",method=\"{method}\"}} {count}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_told_under_the_names_that_dashboards_know() {
        queue("job").adds.fetch_add(2, Ordering::Relaxed);
        request("GET", 200);
        request("GET", 200);
        let report = report();
        assert!(report.contains("workqueue_adds_total{name=\"job\"} 2"), "{report}");
        assert!(
            report.contains("rest_client_requests_total{code=\"200\",host=\"in-process\",method=\"GET\"} 2"),
            "{report}"
        );
    }
}
