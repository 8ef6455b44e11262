//! Priority and fairness: every request belongs to a flow of a priority level, by the first FlowSchema that matches it. A level
//! has a number of seats; what finds none waits in one of its queues, or is refused, so that one noisy client starves
//! nobody else: neither in its own level, whose queues take turns, nor in another.
//!
//! [`defaults`] are the objects that are always there, [`keeper`] follows the objects in the store, [`schemas`] says to what a
//! request belongs, [`levels`] has the seats and the queues.

mod defaults;
pub mod keeper;
pub mod levels;
pub mod schemas;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use api::Status;
use api::status::Reason;
use arc_swap::ArcSwap;
use client::metrics::Histogram;
use http::{HeaderName, HeaderValue};

use crate::access::user;
use crate::guard;
use crate::rest::prefix;
use crate::server::Server;
use crate::stack::Next;
use crate::wire::{Query, Request, RequestInfo, Response, answer};
use levels::{Levels, Refusal};
use schemas::Schemas;

/// How long a request may wait for its seats.
const PATIENCE: Duration = Duration::from_secs(15);
/// A list takes a seat for each so many objects that it looks at, and no more seats than that.
const OBJECTS_PER_SEAT: usize = 100;
const MOST_SEATS: usize = 10;
const SCHEMA_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

/// Everything of priority and fairness that requests see.
#[derive(Default)]
pub struct Flow {
    pub schemas: ArcSwap<Schemas>,
    pub levels: Levels,
}

/// Upper bounds of how long a request waits, in seconds.
const BOUNDS: [f64; 13] = [0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0];

/// What became of a FlowSchema's requests.
#[derive(Debug)]
pub struct Counts {
    pub executing: AtomicI64,
    pub waiting: AtomicI64,
    pub dispatched: AtomicU64,
    pub full: AtomicU64,
    pub no_seat: AtomicU64,
    pub timed_out: AtomicU64,
    pub seats: AtomicI64,
    /// How long requests waited that were refused in the end, and those that were not.
    pub waited: [Histogram<{ BOUNDS.len() }>; 2],
}

impl Default for Counts {
    fn default() -> Self {
        Counts {
            executing: AtomicI64::default(),
            waiting: AtomicI64::default(),
            dispatched: AtomicU64::default(),
            full: AtomicU64::default(),
            no_seat: AtomicU64::default(),
            timed_out: AtomicU64::default(),
            seats: AtomicI64::default(),
            waited: std::array::from_fn(|_| Histogram::new(&BOUNDS)),
        }
    }
}

/// Adds to a number while this lives.
struct Held<'c>(&'c AtomicI64, i64);

impl<'c> Held<'c> {
    fn of(count: &'c AtomicI64, number: usize) -> Self {
        let number = i64::try_from(number).unwrap_or(i64::MAX);
        count.fetch_add(number, Ordering::Relaxed);
        Held(count, number)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

/// Passes the request on when it has its seats, or answers 429.
pub async fn limit(server: Arc<Server>, request: Request, next: Next) -> Response {
    let info = guard::info(&request);
    let watches = info.verb == "watch";
    if info.long_running() && !watches {
        return next.run(request).await;
    }
    let schemas = server.flow.schemas.load_full();
    let Some(found) = schemas.find(&user(&request), &info) else { return next.run(request).await };
    let schema = found.schema;
    let counts = &schema.counts;
    let seats = seats(&server, &info, &guard::query(&request));
    let seat = if schema.exempt {
        None
    } else {
        let (waiting, began) = (Held::of(&counts.waiting, 1), Instant::now());
        let taken = server.flow.levels.take(&schema.level, found.flow, seats, PATIENCE).await;
        drop(waiting);
        counts.waited[usize::from(taken.is_ok())].record(began.elapsed().as_secs_f64());
        match taken {
            Ok(seat) => seat,
            Err(refusal) => {
                let count = match refusal {
                    Refusal::Full => &counts.full,
                    Refusal::NoSeat => &counts.no_seat,
                    Refusal::TimedOut => &counts.timed_out,
                };
                count.fetch_add(1, Ordering::Relaxed);
                return marked(too_many(), schema);
            }
        }
    };
    counts.dispatched.fetch_add(1, Ordering::Relaxed);
    let executing = (Held::of(&counts.executing, 1), Held::of(&counts.seats, seats));
    let response = next.run(request).await;
    drop((seat, executing));
    marked(response, schema)
}

fn too_many() -> Response {
    let mut status = Status::new(Reason::TooManyRequests, "Too many requests, please try again later.");
    status.details.get_or_insert_default().retry_after_seconds = 1;
    answer::error(&status)
}

/// Tells the client to what its request belonged.
fn marked(mut response: Response, schema: &schemas::Schema) -> Response {
    let (schema, level) = &schema.uids;
    response.headers_mut().insert(SCHEMA_UID, schema.clone());
    response.headers_mut().insert(LEVEL_UID, level.clone());
    response
}

/// How many seats the request takes: a list of many objects is much work.
fn seats(server: &Server, info: &RequestInfo, query: &Query) -> usize {
    if info.verb != "list" {
        return 1;
    }
    let catalog = server.catalog.load();
    let Some(kind) = catalog.get(&info.group, &info.version, &info.resource) else { return 1 };
    let stored = server.store.snapshot(&prefix(kind, ""), None).map_or(0, |all| all.count());
    let limit = query.integer("limit").ok().flatten().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
    stored.min(limit.unwrap_or(stored)).div_ceil(OBJECTS_PER_SEAT).clamp(1, MOST_SEATS)
}

fn uid(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}
