//! `/metrics` in Prometheus' text format.

use std::fmt::Write;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use http::StatusCode;

use super::Labels;
use crate::discovery::{MAJOR, MINOR};
use crate::server::Server;
use crate::wire::{Response, answer};

/// A text that grows family by family.
#[derive(Default)]
struct Report(String);

impl Report {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let _ = match labels {
            "" => writeln!(self.0, "{name} {value}"),
            labels => writeln!(self.0, "{name}{{{labels}}} {value}"),
        };
    }
}

/// Writes everything out.
pub async fn answer(server: &Server) -> Response {
    let mut report = Report(String::with_capacity(64 * 1024));
    requests(server, &mut report);
    objects(server, &mut report);
    flow(server, &mut report);
    server.admission.report(&mut report.0);
    health(server, &mut report).await;
    process(server, &mut report);
    report.0.push_str(&client::metrics::report());
    answer::bytes(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", report.0.into_bytes())
}

fn labels(l: &Labels) -> String {
    let Labels { verb, scope, group, version, resource, subresource, .. } = l;
    format!(
        "component=\"apiserver\",group=\"{group}\",resource=\"{resource}\",scope=\"{scope}\",subresource=\"{subresource}\",verb=\"{verb}\",version=\"{version}\""
    )
}

fn requests(server: &Server, report: &mut Report) {
    let requests = server.metrics.requests.read();
    let mut all: Vec<_> = requests.values().collect();
    all.sort_by_key(|series| (labels(&series.0), series.0.code));
    let name = "apiserver_request_total";
    report.family(name, "counter", "Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code.");
    for (l, series) in all.iter().map(|s| (&s.0, &s.1)) {
        let dry = if l.dry_run { "All" } else { "" };
        let labels = format!("code=\"{}\",dry_run=\"{dry}\",{}", l.code, labels(l));
        report.sample(name, &labels, series.took.count());
    }
    let name = "apiserver_request_duration_seconds";
    report.family(name, "histogram", "Response latency distribution in seconds for each verb, dry run value, group, version, resource, subresource, scope and component.");
    let timed = |l: &Labels| l.code < 400 && !matches!(l.verb, "WATCH" | "CONNECT");
    for (l, series) in all.iter().map(|s| (&s.0, &s.1)).filter(|(l, _)| timed(l)) {
        let labels = format!("dry_run=\"{}\",{}", if l.dry_run { "All" } else { "" }, labels(l));
        series.took.write(&mut report.0, name, &labels);
    }
    let name = "apiserver_response_sizes";
    report.family(name, "histogram", "Response size distribution in bytes for each group, version, verb, resource, subresource, scope and component.");
    for (l, series) in all.iter().map(|s| (&s.0, &s.1)).filter(|(l, s)| l.code < 400 && s.sizes.count() > 0) {
        series.sizes.write(&mut report.0, name, &labels(l));
    }
    let name = "apiserver_longrunning_requests";
    report.family(name, "gauge", "Gauge of all active long-running apiserver requests broken out by verb, group, version, resource, scope and component. Not all requests are tracked this way.");
    for (l, series) in all.iter().map(|s| (&s.0, &s.1)).filter(|(l, _)| l.verb == "WATCH" && l.code == 200) {
        report.sample(name, &labels(l), series.running.load(Ordering::Relaxed));
    }
    let name = "apiserver_current_inflight_requests";
    report.family(
        name,
        "gauge",
        "Maximal number of currently used inflight request limit of this apiserver per request kind in last second.",
    );
    for (kind, count) in ["readOnly", "mutating"].iter().zip(&server.metrics.in_flight) {
        report.sample(name, &format!("request_kind=\"{kind}\""), count.load(Ordering::Relaxed));
    }
}

fn objects(server: &Server, report: &mut Report) {
    let catalog = server.catalog.load();
    let counts: Vec<(String, String, usize)> = catalog
        .iter()
        .filter(|kind| kind.has_verb("get") && kind.api_version() == kind.storage.api_version)
        .map(|kind| {
            let count = server.store.snapshot(&crate::rest::prefix(kind, ""), None).map_or(0, |all| all.count());
            (kind.group.to_string(), kind.plural.to_string(), count)
        })
        .collect();
    let name = "apiserver_storage_objects";
    report.family(name, "gauge", "Number of stored objects at the time of last check split by kind.");
    for (group, resource, count) in &counts {
        let dot = if group.is_empty() { "" } else { "." };
        report.sample(name, &format!("resource=\"{resource}{dot}{group}\""), count);
    }
    let name = "apiserver_resource_objects";
    report.family(name, "gauge", "Number of stored objects at the time of last check split by kind.");
    for (group, resource, count) in &counts {
        report.sample(name, &format!("group=\"{group}\",resource=\"{resource}\""), count);
    }
    let stats = server.store.stats();
    let rows: [(&str, &str, &str, f64); 5] = [
        ("etcd_requests_total", "counter", "Etcd request counts for each operation.", stats.commits as f64),
        (
            "etcd_request_errors_total",
            "counter",
            "Etcd failed request counts for each operation.",
            stats.refused as f64,
        ),
        (
            "regatta_store_batches_total",
            "counter",
            "Batches that were made durable, each with one sync.",
            stats.batches as f64,
        ),
        (
            "regatta_store_write_seconds_total",
            "counter",
            "Time spent on making batches durable.",
            stats.writing.as_secs_f64(),
        ),
        ("regatta_store_revision", "gauge", "The newest revision.", server.store.revision() as f64),
    ];
    for (name, kind, help, value) in rows {
        report.family(name, kind, help);
        let labels = if name.starts_with("etcd") { "operation=\"txn\",type=\"all\"" } else { "" };
        report.sample(name, labels, value);
    }
}

fn flow(server: &Server, report: &mut Report) {
    let usage = server.flow.levels.usage();
    type Column = fn(&crate::flow::levels::Usage) -> usize;
    let columns: [(&str, &str, Column); 2] = [
        ("nominal_limit_seats", "Nominal number of execution seats configured for each priority level", |u| u.nominal),
        (
            "current_inqueue_seats",
            "Number of seats currently pending in queues of the API Priority and Fairness subsystem",
            |u| u.waiting,
        ),
    ];
    for (name, help, column) in columns {
        let name = format!("apiserver_flowcontrol_{name}");
        report.family(&name, "gauge", help);
        for level in &usage {
            report.sample(&name, &format!("priority_level=\"{}\"", level.level), column(level));
        }
    }
    let schemas = server.flow.schemas.load();
    let labels =
        |s: &crate::flow::schemas::Schema| format!("flow_schema=\"{}\",priority_level=\"{}\"", s.name, s.level);
    type Count = fn(&crate::flow::Counts) -> &AtomicI64;
    let gauges: [(&str, &str, Count); 3] = [
        (
            "current_executing_requests",
            "Number of requests in initial (for a WATCH) or any (for a non-WATCH) execution stage in the API Priority and Fairness subsystem",
            |counts| &counts.executing,
        ),
        (
            "current_executing_seats",
            "Concurrency (number of seats) occupied by the currently executing (initial stage for a WATCH, any stage otherwise) requests in the API Priority and Fairness subsystem",
            |counts| &counts.seats,
        ),
        (
            "current_inqueue_requests",
            "Number of requests currently pending in queues of the API Priority and Fairness subsystem",
            |counts| &counts.waiting,
        ),
    ];
    for (name, help, count) in gauges {
        let name = format!("apiserver_flowcontrol_{name}");
        report.family(&name, "gauge", help);
        for s in &schemas.0 {
            report.sample(&name, &labels(s), count(&s.counts).load(Ordering::Relaxed));
        }
    }
    let name = "apiserver_flowcontrol_request_wait_duration_seconds";
    report.family(name, "histogram", "Length of time a request spent waiting in its queue");
    for s in &schemas.0 {
        for (executed, waited) in [false, true].into_iter().zip(&s.counts.waited).filter(|(_, w)| w.count() > 0) {
            waited.write(&mut report.0, name, &format!("execute=\"{executed}\",{}", labels(s)));
        }
    }
    let name = "apiserver_flowcontrol_dispatched_requests_total";
    report.family(name, "counter", "Number of requests executed by API Priority and Fairness subsystem");
    for s in &schemas.0 {
        report.sample(name, &labels(s), s.counts.dispatched.load(Ordering::Relaxed));
    }
    let name = "apiserver_flowcontrol_rejected_requests_total";
    report.family(name, "counter", "Number of requests rejected by API Priority and Fairness subsystem");
    for s in &schemas.0 {
        let reasons: [(&str, &AtomicU64); 3] = [
            ("queue-full", &s.counts.full),
            ("concurrency-limit", &s.counts.no_seat),
            ("time-out", &s.counts.timed_out),
        ];
        for (reason, count) in reasons {
            report.sample(name, &format!("{},reason=\"{reason}\"", labels(s)), count.load(Ordering::Relaxed));
        }
    }
}

async fn health(server: &Server, report: &mut Report) {
    let name = "kubernetes_healthcheck";
    report.family(name, "gauge", "This metric records the result of a single healthcheck.");
    for endpoint in ["healthz", "livez", "readyz"] {
        for check in crate::health::checks(endpoint) {
            let passes = u8::from(crate::health::passes(server, check).await);
            report.sample(name, &format!("name=\"{check}\",type=\"{endpoint}\""), passes);
        }
    }
}

fn process(server: &Server, report: &mut Report) {
    let name = "kubernetes_build_info";
    report.family(name, "gauge", "A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, build date, Go version, and compiler from which Kubernetes was built, and platform on which it is running.");
    report.sample(name, &format!("git_version=\"v{MAJOR}.{MINOR}.0+regatta\",major=\"{MAJOR}\",minor=\"{MINOR}\""), 1);
    let started = server.metrics.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let resident = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096;
    // After the name in parentheses: user and system time are the 12th and 13th field, in hundredths of a second.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks: u64 = stat
        .rsplit(')')
        .next()
        .map(|rest| rest.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum())
        .unwrap_or(0);
    let files = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let rows = [
        ("process_start_time_seconds", "gauge", "Start time of the process since unix epoch in seconds.", started),
        ("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.", resident as f64),
        (
            "process_cpu_seconds_total",
            "counter",
            "Total user and system CPU time spent in seconds.",
            ticks as f64 / 100.0,
        ),
        ("process_open_fds", "gauge", "Number of open file descriptors.", files as f64),
    ];
    for (name, kind, help, value) in rows {
        report.family(name, kind, help);
        report.sample(name, "", value);
    }
}
