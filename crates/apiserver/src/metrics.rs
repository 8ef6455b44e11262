//! Request counts and latencies under upstream's names, and the layer that takes them. [`report`] writes them out.

mod report;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Instant, SystemTime};

use client::metrics::Histogram;
use http::header;
use parking_lot::RwLock;

use crate::guard;
use crate::server::Server;
use crate::stack::Next;
use crate::wire::{Body, Request, RequestInfo, Response};

pub use report::answer;

/// Upper bounds of the latency buckets, in seconds.
const BOUNDS: [f64; 23] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0,
    45.0, 60.0,
];
/// Upper bounds of answers' sizes, in bytes.
const SIZES: [f64; 7] = [1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
/// How many label sets there may be.
const MOST_SERIES: usize = 4000;

/// What a request is counted under.
struct Labels {
    verb: &'static str,
    scope: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    dry_run: bool,
    code: u16,
}

struct Series {
    took: Histogram<{ BOUNDS.len() }>,
    sizes: Histogram<{ SIZES.len() }>,
    /// Requests under way that may take as long as they like.
    running: Arc<AtomicI64>,
}

/// Everything counted since the start.
pub struct Metrics {
    /// By a hash of the labels, so that a request that was seen before makes no texts.
    requests: RwLock<HashMap<u64, Arc<(Labels, Series)>>>,
    /// Being worked on: those that read and those that write.
    in_flight: [AtomicI64; 2],
    started: SystemTime,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics { requests: RwLock::default(), in_flight: Default::default(), started: SystemTime::now() }
    }
}

impl Default for Series {
    fn default() -> Self {
        Series { took: Histogram::new(&BOUNDS), sizes: Histogram::new(&SIZES), running: Arc::default() }
    }
}

/// Counts down when a long answer has ended.
struct Running(Arc<AtomicI64>);

impl Running {
    fn of(count: &Arc<AtomicI64>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Running(count.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts and times every request.
pub async fn observe(server: Arc<Server>, request: Request, next: Next) -> Response {
    let info = guard::info(&request);
    let applies =
        request.headers().get(header::CONTENT_TYPE).is_some_and(|t| t.as_bytes().starts_with(b"application/apply"));
    let dry_run = guard::query(&request).has("dryRun");
    let started = Instant::now();
    let writes = !matches!(info.verb, "get" | "list" | "watch" | "head");
    let in_flight = &server.metrics.in_flight[usize::from(writes)];
    let long = info.long_running();
    if !long {
        in_flight.fetch_add(1, Ordering::Relaxed);
    }
    let mut response = next.run(request).await;
    if !long {
        in_flight.fetch_sub(1, Ordering::Relaxed);
    }
    let verb = verb(&info, applies);
    let series = series(&server, &info, verb, dry_run, response.status().as_u16());
    if let Some(series) = series {
        series.1.took.record(started.elapsed().as_secs_f64());
        if matches!(verb, "GET" | "LIST") && !long {
            let (body, series) = (std::mem::replace(response.body_mut(), Body::empty()), series.clone());
            *response.body_mut() = body.measured(move |size| series.1.sizes.record(size as f64));
        }
        if long {
            let body = std::mem::replace(response.body_mut(), Body::empty());
            *response.body_mut() = body.held(Running::of(&series.1.running));
        }
    }
    response
}

fn verb(info: &RequestInfo, applies: bool) -> &'static str {
    match info.verb {
        _ if matches!(info.subresource.as_str(), "exec" | "attach" | "portforward" | "proxy") => "CONNECT",
        "create" | "post" => "POST",
        "update" | "put" => "PUT",
        "patch" if applies => "APPLY",
        "patch" => "PATCH",
        "get" => "GET",
        "list" => "LIST",
        "watch" => "WATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        "head" => "HEAD",
        "options" => "OPTIONS",
        _ => "other",
    }
}

fn series(
    server: &Server,
    info: &RequestInfo,
    verb: &'static str,
    dry_run: bool,
    code: u16,
) -> Option<Arc<(Labels, Series)>> {
    let RequestInfo { group, version, resource, subresource, .. } = info;
    let scope = match info {
        RequestInfo { resource_request: false, .. } => "",
        RequestInfo { name, .. } if !name.is_empty() => "resource",
        RequestInfo { namespace, .. } if !namespace.is_empty() => "namespace",
        _ => "cluster",
    };
    let mut hasher = DefaultHasher::new();
    (verb, scope, group, version, resource, subresource, dry_run, code).hash(&mut hasher);
    let key = hasher.finish();
    if let Some(series) = server.metrics.requests.read().get(&key) {
        return Some(series.clone());
    }
    // Only what is served has labels of its own, so that nobody fills the memory with made-up paths.
    let catalog = server.catalog.load();
    let kind = catalog.get(group, version, resource).filter(|_| info.resource_request);
    let known = kind.is_some_and(|kind| subresource.is_empty() || kind.subresource(subresource).is_some());
    if info.resource_request && !known {
        return None;
    }
    let text = |text: &str| if known { text.to_owned() } else { String::new() };
    let (group, version) = (text(group), text(version));
    let (resource, subresource) = (text(resource), text(subresource));
    let labels = Labels { verb, scope, group, version, resource, subresource, dry_run, code };
    let mut requests = server.metrics.requests.write();
    (requests.len() < MOST_SERIES)
        .then(|| requests.entry(key).or_insert_with(|| Arc::new((labels, Series::default()))).clone())
}
