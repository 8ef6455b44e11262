//! The layer that asks whether the user may. It is enough that one authorizer allows it.

use std::sync::Arc;

use api::Status;
use api::status::{Reason, qualified};
use client::Identity;

use super::user;
use crate::guard;
use crate::server::Server;
use crate::stack::Next;
use crate::wire::{Request, RequestInfo, Response, answer};

/// Knows some of what users may do.
pub trait Authorizer: Send + Sync {
    /// Whether it allows the request. What none allows is forbidden.
    fn allows(&self, user: &Identity, info: &RequestInfo) -> bool;
}

/// Whether any authorizer allows the request.
pub fn allowed(server: &Server, user: &Identity, info: &RequestInfo) -> bool {
    server.authorizers.iter().any(|authorizer| authorizer.allows(user, info))
}

/// Lets the request through or answers 403 in upstream's words.
pub async fn authorize(server: Arc<Server>, request: Request, next: Next) -> Response {
    let (user, info) = (user(&request), guard::info(&request));
    if allowed(&server, &user, &info) {
        return next.run(request).await;
    }
    answer::error(&forbidden(&user, &info))
}

/// The 403 for a request.
pub fn forbidden(user: &Identity, info: &RequestInfo) -> Status {
    let who = &user.name;
    if !info.resource_request {
        let message = format!("forbidden: User {who:?} cannot {} path {:?}", info.verb, info.path);
        let mut status = Status::new(Reason::Forbidden, message);
        status.details = Some(Box::default());
        return status;
    }
    let at = if info.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {:?}", info.namespace)
    };
    let what = info.full_resource();
    let name = if info.name.is_empty() { String::new() } else { format!(" {:?}", info.name) };
    let message = format!(
        "{}{name} is forbidden: User {who:?} cannot {} resource {what:?} in API group {:?} {at}",
        qualified(&info.group, &info.resource),
        info.verb,
        info.group,
    );
    Status::new(Reason::Forbidden, message).about(&info.group, &info.resource, &info.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_worded_as_upstream_words_it() {
        let user = Identity { name: "x".to_owned(), ..Identity::default() };
        let info = RequestInfo {
            resource_request: true,
            verb: "list",
            resource: "pods".to_owned(),
            namespace: "default".to_owned(),
            ..RequestInfo::default()
        };
        let expected =
            r#"pods is forbidden: User "x" cannot list resource "pods" in API group "" in the namespace "default""#;
        assert_eq!(forbidden(&user, &info).message, expected);
        let info = RequestInfo { verb: "get", path: "/x".to_owned(), ..RequestInfo::default() };
        assert_eq!(forbidden(&user, &info).message, r#"forbidden: User "x" cannot get path "/x""#);
    }
}
