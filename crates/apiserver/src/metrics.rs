//! Request counts and latencies under upstream's names, and the layer that takes them.

use std::collections::HashMap;
use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::StatusCode;
use parking_lot::RwLock;

use crate::guard;
use crate::server::Server;
use crate::stack::Next;
use crate::wire::{Request, RequestInfo, Response, answer};

/// Upper bounds of the latency buckets, in seconds.
const BOUNDS: [f64; 12] = [0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 1.0, 2.0, 5.0, 10.0, 30.0];
/// How many label sets there may be.
const MOST_SERIES: usize = 4000;

struct Labels {
    verb: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    code: u16,
}

#[derive(Default)]
struct Series {
    count: AtomicU64,
    nanoseconds: AtomicU64,
    buckets: [AtomicU64; BOUNDS.len()],
}

/// Everything counted since the start.
#[derive(Default)]
pub struct Metrics {
    /// By a hash of the labels, so that a request that was seen before makes no texts.
    requests: RwLock<HashMap<u64, Arc<(Labels, Series)>>>,
    in_flight: AtomicI64,
}

impl Series {
    fn record(&self, took: Duration) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.nanoseconds.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        let seconds = took.as_secs_f64();
        if let Some(bucket) = BOUNDS.iter().position(|bound| seconds <= *bound) {
            self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Counts and times every request.
pub async fn observe(server: Arc<Server>, request: Request, next: Next) -> Response {
    let info = guard::info(&request);
    let started = Instant::now();
    server.metrics.in_flight.fetch_add(1, Ordering::Relaxed);
    let response = next.run(request).await;
    server.metrics.in_flight.fetch_sub(1, Ordering::Relaxed);
    record(&server, &info, response.status().as_u16(), started.elapsed());
    response
}

fn record(server: &Server, info: &RequestInfo, code: u16, took: Duration) {
    let RequestInfo { verb, group, version, resource, subresource, .. } = info;
    let mut hasher = DefaultHasher::new();
    (verb, group, version, resource, subresource, code).hash(&mut hasher);
    let key = hasher.finish();
    if let Some(series) = server.metrics.requests.read().get(&key) {
        return series.1.record(took);
    }
    // Only what is served has labels of its own, so that nobody fills the memory with made-up paths.
    let served = info.resource_request && server.catalog.load().get(group, version, resource).is_some();
    if info.resource_request && !served {
        return;
    }
    let text = |text: &str| if served { text.to_owned() } else { String::new() };
    let (group, version) = (text(group), text(version));
    let labels = Labels { verb, group, version, resource: text(resource), subresource: text(subresource), code };
    let mut requests = server.metrics.requests.write();
    if requests.len() < MOST_SERIES {
        requests.entry(key).or_insert_with(|| Arc::new((labels, Series::default()))).1.record(took);
    }
}

/// `/metrics` in Prometheus' text format.
pub fn answer(server: &Server) -> Response {
    let mut out = String::with_capacity(16 * 1024);
    let requests = server.metrics.requests.read();
    out.push_str("# HELP apiserver_request_total Counter of apiserver requests broken out for each verb, group, version, resource and HTTP response code.\n# TYPE apiserver_request_total counter\n");
    let labels = |l: &Labels| {
        let Labels { verb, group, version, resource, subresource, .. } = l;
        format!(
            "group=\"{group}\",resource=\"{resource}\",subresource=\"{subresource}\",verb=\"{}\",version=\"{version}\"",
            verb.to_uppercase()
        )
    };
    for (l, series) in requests.values().map(|s| (&s.0, &s.1)) {
        let _ = writeln!(
            out,
            "apiserver_request_total{{code=\"{}\",{}}} {}",
            l.code,
            labels(l),
            series.count.load(Ordering::Relaxed)
        );
    }
    out.push_str("# HELP apiserver_request_duration_seconds Response latency distribution in seconds.\n# TYPE apiserver_request_duration_seconds histogram\n");
    for (l, series) in requests.values().map(|s| (&s.0, &s.1)).filter(|(l, _)| l.code < 400) {
        let labels = format!("code=\"{}\",{}", l.code, labels(l));
        let mut below = 0;
        for (bound, bucket) in BOUNDS.iter().zip(&series.buckets) {
            below += bucket.load(Ordering::Relaxed);
            let _ = writeln!(out, "apiserver_request_duration_seconds_bucket{{{labels},le=\"{bound}\"}} {below}");
        }
        let count = series.count.load(Ordering::Relaxed);
        let _ = writeln!(out, "apiserver_request_duration_seconds_bucket{{{labels},le=\"+Inf\"}} {count}");
        let sum = Duration::from_nanos(series.nanoseconds.load(Ordering::Relaxed)).as_secs_f64();
        let _ = writeln!(out, "apiserver_request_duration_seconds_sum{{{labels}}} {sum}");
        let _ = writeln!(out, "apiserver_request_duration_seconds_count{{{labels}}} {count}");
    }
    drop(requests);
    out.push_str("# HELP apiserver_current_inflight_requests Requests being served.\n# TYPE apiserver_current_inflight_requests gauge\n");
    let _ = writeln!(out, "apiserver_current_inflight_requests {}", server.metrics.in_flight.load(Ordering::Relaxed));
    out.push_str("# HELP apiserver_storage_objects Number of stored objects at the time of last check.\n# TYPE apiserver_storage_objects gauge\n");
    for (prefix, count) in server.store.resources() {
        let resource = prefix.trim_start_matches("/registry/").trim_end_matches('/');
        let _ = writeln!(out, "apiserver_storage_objects{{resource=\"{resource}\"}} {count}");
    }
    answer::bytes(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", out.into_bytes())
}
