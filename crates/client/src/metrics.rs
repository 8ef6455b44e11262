//! What all components of the process count, under the names that client-go and upstream's components give it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Once};

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

/// Counts values below upper bounds.
#[derive(Debug)]
pub struct Histogram<const N: usize> {
    bounds: &'static [f64; N],
    buckets: [AtomicU64; N],
    count: AtomicU64,
    /// The bits of a float.
    sum: AtomicU64,
}

impl<const N: usize> Histogram<N> {
    pub const fn new(bounds: &'static [f64; N]) -> Self {
        let buckets = [const { AtomicU64::new(0) }; N];
        Histogram { bounds, buckets, count: AtomicU64::new(0), sum: AtomicU64::new(0) }
    }

    pub fn record(&self, value: f64) {
        if let Some(bucket) = self.bounds.iter().position(|bound| value <= *bound) {
            self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        let add = |sum: u64| Some((f64::from_bits(sum) + value).to_bits());
        let _ = self.sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Writes the samples of one set of labels (`a="b",c="d"`).
    pub fn write(&self, out: &mut String, name: &str, labels: &str) {
        let comma = if labels.is_empty() { "" } else { "," };
        let mut below = 0;
        for (bound, bucket) in self.bounds.iter().zip(&self.buckets) {
            below += bucket.load(Ordering::Relaxed);
            let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {below}");
        }
        let count = self.count();
        let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}");
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let sum = f64::from_bits(self.sum.load(Ordering::Relaxed));
        let _ = writeln!(out, "{name}_sum{labels} {sum}\n{name}_count{labels} {count}");
    }
}

/// What a family counts for one set of labels.
pub trait Series: Send + Sync + 'static {
    const KIND: &'static str;
    fn write(&self, out: &mut String, name: &str, labels: &str);
}

impl Series for AtomicU64 {
    const KIND: &'static str = "counter";

    fn write(&self, out: &mut String, name: &str, labels: &str) {
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let _ = writeln!(out, "{name}{labels} {}", self.load(Ordering::Relaxed));
    }
}

impl<const N: usize> Series for Histogram<N> {
    const KIND: &'static str = "histogram";

    fn write(&self, out: &mut String, name: &str, labels: &str) {
        Histogram::write(self, out, name, labels);
    }
}

/// A metric by its labels' values, made as a `static` and told from its first use on.
pub struct Family<S, const L: usize> {
    name: &'static str,
    help: &'static str,
    labels: [&'static str; L],
    make: fn() -> S,
    series: Mutex<BTreeMap<[String; L], Arc<S>>>,
    told: Once,
}

impl<S: Series, const L: usize> Family<S, L> {
    pub const fn new(name: &'static str, help: &'static str, labels: [&'static str; L], make: fn() -> S) -> Self {
        Family { name, help, labels, make, series: Mutex::new(BTreeMap::new()), told: Once::new() }
    }

    /// The series of these values, for good.
    pub fn of(&'static self, values: [&str; L]) -> Arc<S> {
        self.told.call_once(|| ALL.families.lock().push(self));
        let mut series = self.series.lock();
        series.entry(values.map(str::to_owned)).or_insert_with(|| Arc::new((self.make)())).clone()
    }
}

/// A family without its types.
trait Told: Sync {
    fn write(&self, out: &mut String);
}

impl<S: Series, const L: usize> Told for Family<S, L> {
    fn write(&self, out: &mut String) {
        let _ = writeln!(out, "# HELP {} {}\n# TYPE {} {}", self.name, self.help, self.name, S::KIND);
        for (values, series) in self.series.lock().iter() {
            let labels: Vec<String> =
                self.labels.iter().zip(values).map(|(label, value)| format!("{label}={value:?}")).collect();
            series.write(out, self.name, &labels.join(","));
        }
    }
}

#[derive(Default)]
struct All {
    queues: Mutex<BTreeMap<String, Arc<QueueCounts>>>,
    /// By method and status code.
    requests: Mutex<BTreeMap<(String, u16), u64>>,
    families: Mutex<Vec<&'static dyn Told>>,
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
    ALL.families.lock().iter().for_each(|family| family.write(&mut out));
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
    #[test]
    fn families_count_by_their_labels() {
        static STARTS: Family<AtomicU64, 1> = Family::new("starts_total", "Starts", ["of"], || AtomicU64::new(0));
        static TIMES: Family<Histogram<2>, 0> = Family::new("times", "Times", [], || Histogram::new(&[0.5, 2.0]));
        STARTS.of(["a \"b\""]).fetch_add(3, Ordering::Relaxed);
        [0.25, 1.0, 8.0].into_iter().for_each(|took| TIMES.of([]).record(took));
        let report = report();
        for line in [
            "# TYPE starts_total counter\nstarts_total{of=\"a \\\"b\\\"\"} 3\n",
            "# TYPE times histogram\ntimes_bucket{le=\"0.5\"} 1\ntimes_bucket{le=\"2\"} 2\ntimes_bucket{le=\"+Inf\"} 3\n",
            "times_sum 9.25\ntimes_count 3\n",
        ] {
            assert!(report.contains(line), "{line} is not in {report}");
        }
    }
}
