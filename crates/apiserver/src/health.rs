//! `/healthz`, `/livez` and `/readyz`, with `?verbose`, `?exclude` and single checks.

use std::sync::atomic::Ordering;

use http::StatusCode;

use crate::server::Server;
use crate::wire::{Query, Response, answer};

/// The checks, in upstream's names; those marked matter only for readiness.
const CHECKS: &[(&str, bool)] = &[
    ("ping", false),
    ("log", false),
    ("etcd", false),
    ("poststarthook/start-regatta-apiserver", false),
    ("shutdown", true),
];

/// Answers `/readyz` or `/readyz/<check>`.
pub async fn answer(server: &Server, path: &str, query: &Query) -> Response {
    let (endpoint, single) = path[1..].split_once('/').unwrap_or((&path[1..], ""));
    let excluded: Vec<&str> = query.all("exclude").collect();
    let checks = CHECKS.iter().filter(|(name, readiness)| {
        (single.is_empty() || single == *name) && (!readiness || endpoint == "readyz") && !excluded.contains(name)
    });
    let mut report = String::new();
    let (mut healthy, mut any) = (true, single.is_empty());
    for (name, _) in checks {
        any = true;
        if passes(server, name).await {
            report.push_str(&format!("[+]{name} ok\n"));
        } else {
            healthy = false;
            report.push_str(&format!("[-]{name} failed: reason withheld\n"));
        }
    }
    if !any {
        return answer::text(StatusCode::NOT_FOUND, "404 page not found\n");
    }
    match (healthy, query.has("verbose")) {
        (true, false) => answer::text(StatusCode::OK, "ok"),
        (true, true) => answer::text(StatusCode::OK, format!("{report}{endpoint} check passed\n")),
        (false, _) => answer::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{report}{endpoint} check failed\n")),
    }
}

async fn passes(server: &Server, check: &str) -> bool {
    match check {
        "etcd" => server.store.fresh().await.is_ok(),
        "shutdown" => server.ready.load(Ordering::Acquire),
        _ => true,
    }
}
