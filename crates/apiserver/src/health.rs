//! `/healthz`, `/livez` and `/readyz`, with `?verbose`, `?exclude` and single checks, worded as upstream words them.

use std::fmt::Write;
use std::sync::atomic::Ordering;

use http::{HeaderValue, StatusCode, header};

use crate::server::Server;
use crate::wire::{Query, Response, answer};

/// The checks, in upstream's names; those marked matter only for readiness.
const CHECKS: &[(&str, bool)] = &[
    ("ping", false),
    ("log", false),
    ("etcd", false),
    ("etcd-readiness", true),
    ("informer-sync", true),
    ("poststarthook/start-apiserver-admission-initializer", false),
    ("poststarthook/generic-apiserver-start-informers", false),
    ("poststarthook/priority-and-fairness-config-consumer", false),
    ("poststarthook/priority-and-fairness-config-producer", false),
    ("poststarthook/rbac/bootstrap-roles", false),
    ("poststarthook/scheduling/bootstrap-system-priority-classes", false),
    ("poststarthook/start-service-ip-repair-controllers", false),
    ("shutdown", true),
];

/// The checks of an endpoint.
pub fn checks(endpoint: &str) -> impl Iterator<Item = &'static str> + use<> {
    let ready = endpoint == "readyz";
    CHECKS.iter().filter(move |(_, readiness)| ready || !readiness).map(|(name, _)| *name)
}

/// Answers `/readyz` or `/readyz/<check>`.
pub async fn answer(server: &Server, path: &str, query: &Query) -> Response {
    let (endpoint, single) = path[1..].split_once('/').unwrap_or((&path[1..], ""));
    let mut checks = checks(endpoint);
    if !single.is_empty() {
        return match checks.find(|name| *name == single) {
            None => text(StatusCode::NOT_FOUND, "404 page not found\n".to_owned()),
            Some(name) if passes(server, name).await => text(StatusCode::OK, "ok".to_owned()),
            Some(name) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("internal server error: {name} failed\n")),
        };
    }
    let mut excluded: Vec<&str> = query.all("exclude").collect();
    let (mut report, mut healthy) = (String::new(), true);
    for name in checks {
        let before = excluded.len();
        excluded.retain(|excluded| *excluded != name);
        // Writing into a text cannot fail.
        let _ = if excluded.len() < before {
            writeln!(report, "[+]{name} excluded: ok")
        } else if passes(server, name).await {
            writeln!(report, "[+]{name} ok")
        } else {
            healthy = false;
            writeln!(report, "[-]{name} failed: reason withheld")
        };
    }
    if !excluded.is_empty() {
        let unknown: Vec<String> = excluded.iter().map(|name| format!("{name:?}")).collect();
        let unknown = unknown.join(",");
        let _ = writeln!(report, "warn: some health checks cannot be excluded: no matches for {unknown}");
    }
    match (healthy, query.has("verbose")) {
        (true, false) => text(StatusCode::OK, "ok".to_owned()),
        (true, true) => text(StatusCode::OK, format!("{report}{endpoint} check passed\n")),
        (false, _) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{report}{endpoint} check failed\n")),
    }
}

fn text(code: StatusCode, text: String) -> Response {
    let mut response = answer::text(code, text);
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Whether a check passes.
pub async fn passes(server: &Server, check: &str) -> bool {
    match check {
        "etcd" | "etcd-readiness" => server.store.fresh().await.is_ok() && server.store.is_writable(),
        "shutdown" => server.ready.load(Ordering::Acquire) && !server.stopping.is_cancelled(),
        _ => true,
    }
}
