//! The layer that finds out who is asking: the connection's identity, a bearer token, or nobody.

use std::sync::Arc;

use api::Status;
use client::Identity;
use http::header;

use super::{AUTHENTICATED, Peer, UNAUTHENTICATED, anonymous, member};
use crate::server::Server;
use crate::stack::Next;
use crate::wire::{Request, Response, answer};

/// Puts an `Arc<Identity>` into the request's extensions, or answers 401.
pub async fn authenticate(server: Arc<Server>, mut request: Request, next: Next) -> Response {
    let identity = match identify(&server, &request) {
        Ok(identity) => identity,
        Err(status) => return answer::error(&status),
    };
    // Credentials go no further than this layer.
    request.headers_mut().remove(header::AUTHORIZATION);
    request.extensions_mut().insert(identity);
    next.run(request).await
}

fn identify(server: &Server, request: &Request) -> Result<Arc<Identity>, Status> {
    let refused = match request.extensions().get::<Peer>() {
        Some(Peer::Known(identity)) => return Ok(with_authenticated(identity)),
        Some(Peer::Refused) => true,
        Some(Peer::Unknown) | None => false,
    };
    let bearer = bearer(request);
    match bearer {
        Some(token) => {
            let audiences = [crate::access::token::ISSUER.to_owned()];
            let (identity, _) = server.tokens.authenticate(&server.store, token, &audiences)?;
            Ok(with_authenticated(&Arc::new(identity)))
        }
        None if refused || request.headers().contains_key(header::AUTHORIZATION) => Err(Status::unauthorized()),
        None => Ok(Arc::new(anonymous())),
    }
}

/// The bearer token of the Authorization header, or of a WebSocket's subprotocol, where browsers must put it.
fn bearer(request: &Request) -> Option<&str> {
    let header = request.headers().get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = header.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim()).filter(|t| !t.is_empty())
}

fn with_authenticated(identity: &Arc<Identity>) -> Arc<Identity> {
    if member(identity, AUTHENTICATED) || member(identity, UNAUTHENTICATED) {
        return identity.clone();
    }
    let mut identity = Identity::clone(identity);
    identity.groups.push(AUTHENTICATED.to_owned());
    Arc::new(identity)
}
