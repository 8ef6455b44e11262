//! The layer for `Impersonate-*` headers. For now only `system:masters` may act as somebody else.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::Status;
use api::status::Reason;
use client::Identity;
use http::HeaderMap;

use super::{ANONYMOUS, AUTHENTICATED, MASTERS, SERVICE_ACCOUNT, SERVICE_ACCOUNTS, UNAUTHENTICATED, member, user};
use crate::server::Server;
use crate::stack::Next;
use crate::wire::query::unescape;
use crate::wire::{Request, Response, answer};

const EXTRA: &str = "impersonate-extra-";

/// Replaces the identity by the one that the headers ask for, or answers 403.
pub async fn impersonate(_: Arc<Server>, mut request: Request, next: Next) -> Response {
    if request.headers().keys().any(|name| name.as_str().starts_with("impersonate-")) {
        match impersonated(&user(&request), request.headers()) {
            Ok(identity) => request.extensions_mut().insert(Arc::new(identity)),
            Err(status) => return answer::error(&status),
        };
        // What is passed on is passed on for whom it is asked.
        let names: Vec<_> =
            request.headers().keys().filter(|n| n.as_str().starts_with("impersonate-")).cloned().collect();
        for name in names {
            request.headers_mut().remove(name);
        }
    }
    next.run(request).await
}

fn impersonated(requestor: &Identity, headers: &HeaderMap) -> Result<Identity, Status> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("").to_owned();
    let name = text("impersonate-user");
    if name.is_empty() {
        return Err(Status::internal("requested impersonation without impersonating a user"));
    }
    if !member(requestor, MASTERS) {
        let why = format!(
            "User {:?} cannot impersonate resource \"users\" in API group \"\" at the cluster scope",
            requestor.name
        );
        let status = Status::new(Reason::Forbidden, format!("users {name:?} is forbidden: {why}"));
        return Err(status.about("", "users", &name));
    }
    let mut groups: Vec<String> =
        headers.get_all("impersonate-group").iter().filter_map(|v| v.to_str().ok()).map(str::to_owned).collect();
    if groups.is_empty()
        && let Some((namespace, _)) = name.strip_prefix(SERVICE_ACCOUNT).and_then(|rest| rest.split_once(':'))
    {
        groups = vec![SERVICE_ACCOUNTS.to_owned(), format!("{SERVICE_ACCOUNTS}:{namespace}")];
    }
    let found = if name == ANONYMOUS { UNAUTHENTICATED } else { AUTHENTICATED };
    if !groups.iter().any(|g| g == AUTHENTICATED || g == UNAUTHENTICATED) {
        groups.push(found.to_owned());
    }
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (key, value) in headers {
        if let (Some(key), Ok(value)) = (key.as_str().strip_prefix(EXTRA), value.to_str()) {
            let key = unescape(key, false).unwrap_or_else(|| key.to_owned());
            extra.entry(key).or_default().push(value.to_owned());
        }
    }
    Ok(Identity { name, uid: text("impersonate-uid"), groups, extra: extra.into_iter().collect() })
}
