//! How many requests are worked on at once. The cluster's own parts never wait; everybody else shares a bounded number of
//! seats and a bounded queue, so that a flood costs neither memory nor the cluster its leader.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use api::Status;
use api::status::Reason;
use client::Identity;
use tokio::sync::Semaphore;

use crate::access::{ANONYMOUS, MASTERS, SERVICE_ACCOUNT, member, user};
use crate::guard;
use crate::server::Server;
use crate::stack::Next;
use crate::wire::{Request, Response, answer};

/// As upstream's `--max-requests-inflight` and `--max-mutating-requests-inflight` together.
const SEATS: usize = 600;
/// How many may wait for a seat, and for how long.
const QUEUE: usize = 2000;
const PATIENCE: Duration = Duration::from_secs(15);

/// The seats and the queue.
pub struct Flow {
    seats: Semaphore,
    waiting: AtomicUsize,
}

impl Default for Flow {
    fn default() -> Self {
        Flow { seats: Semaphore::new(SEATS), waiting: AtomicUsize::new(0) }
    }
}

/// Passes the request on when it has a seat, or answers 429.
pub async fn limit(server: Arc<Server>, request: Request, next: Next) -> Response {
    if guard::info(&request).long_running() || is_own(&user(&request)) {
        return next.run(request).await;
    }
    let flow = &server.flow;
    let seat = match flow.seats.try_acquire() {
        Ok(seat) => Some(seat),
        Err(_) if flow.waiting.load(Ordering::Relaxed) >= QUEUE => None,
        Err(_) => {
            flow.waiting.fetch_add(1, Ordering::Relaxed);
            let seat = tokio::time::timeout(PATIENCE, flow.seats.acquire()).await;
            flow.waiting.fetch_sub(1, Ordering::Relaxed);
            seat.ok().and_then(Result::ok)
        }
    };
    if seat.is_none() {
        let mut status = Status::new(Reason::TooManyRequests, "Too many requests, please try again later.");
        status.details.get_or_insert_default().retry_after_seconds = 1;
        return answer::error(&status);
    }
    next.run(request).await
}

/// The control plane, nodes and administrators.
fn is_own(user: &Identity) -> bool {
    let name = user.name.as_str();
    let account = name.strip_prefix(SERVICE_ACCOUNT).map(|rest| rest.starts_with("kube-system:"));
    member(user, MASTERS) || account.unwrap_or(name.starts_with("system:") && name != ANONYMOUS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_clusters_own_parts_are_exempt() {
        let table = [
            (Identity::node("n"), true),
            (Identity::controller("job-controller"), true),
            (Identity::component("system:kube-scheduler"), true),
            (Identity::admin("a"), true),
            (Identity::service_account("default", "x"), false),
            (Identity::component("jane"), false),
            (Identity::anonymous(), false),
        ];
        for (user, own) in table {
            assert_eq!(is_own(&user), own, "{}", user.name);
        }
    }
}
