//! Who is asking, and whether they may.

pub mod authentication;
pub mod authorization;
pub mod certificate;
pub mod grants;
pub mod impersonation;
pub mod token;
pub mod usage;

use std::sync::Arc;

use client::Identity;

use crate::wire::Request;

pub const MASTERS: &str = "system:masters";
pub const AUTHENTICATED: &str = "system:authenticated";
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
pub const ANONYMOUS: &str = "system:anonymous";
pub const SERVICE_ACCOUNTS: &str = "system:serviceaccounts";
/// What a service account's user name begins with.
pub const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// The identity of a connection, put into every request's extensions by the server that accepted it.
#[derive(Clone)]
pub enum Peer {
    /// No certificate was shown.
    Unknown,
    /// An in-memory caller or a verified client certificate.
    Known(Arc<Identity>),
    /// A client certificate that the cluster's CA did not sign.
    Refused,
}

/// The user whom the layers found.
pub fn user(request: &Request) -> Arc<Identity> {
    request.extensions().get::<Arc<Identity>>().cloned().unwrap_or_else(|| Arc::new(anonymous()))
}

/// Who asks without credentials.
pub fn anonymous() -> Identity {
    Identity {
        name: ANONYMOUS.to_owned(),
        uid: String::new(),
        groups: vec![UNAUTHENTICATED.to_owned()],
        extra: Default::default(),
    }
}

/// Whether the user is in the group.
pub fn member(user: &Identity, group: &str) -> bool {
    user.groups.iter().any(|g| g == group)
}
