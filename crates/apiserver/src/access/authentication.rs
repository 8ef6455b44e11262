//! The layer that finds out who is asking: the connection's identity, a bearer token, or nobody.

use std::sync::Arc;

use api::Status;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use client::Identity;
use http::{HeaderMap, HeaderValue, header};

use super::{AUTHENTICATED, Peer, UNAUTHENTICATED, anonymous, member, usage};
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
    hide_protocol(request.headers_mut());
    request.extensions_mut().insert(identity);
    next.run(request).await
}

fn identify(server: &Arc<Server>, request: &Request) -> Result<Arc<Identity>, Status> {
    let refused = match request.extensions().get::<Peer>() {
        Some(Peer::Known(identity)) => return Ok(with_authenticated(identity)),
        Some(Peer::Refused) => true,
        Some(Peer::Unknown) | None => false,
    };
    let bearer = match bearer(request) {
        Some(token) => Some(token.to_owned()),
        None => protocol_token(request.headers())?,
    };
    match bearer {
        Some(token) => {
            let audiences = [crate::access::token::ISSUER.to_owned()];
            let (identity, _) = usage::authenticate(server, &token, &audiences)?;
            Ok(with_authenticated(&Arc::new(identity)))
        }
        None if refused || request.headers().contains_key(header::AUTHORIZATION) => Err(Status::unauthorized()),
        None => Ok(Arc::new(anonymous())),
    }
}

/// The bearer token of the Authorization header.
fn bearer(request: &Request) -> Option<&str> {
    let header = request.headers().get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = header.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim()).filter(|t| !t.is_empty())
}

/// What a WebSocket's subprotocol begins with that carries a token, since browsers can set no other header.
const TOKEN_PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

fn protocols(headers: &HeaderMap) -> Vec<&str> {
    let texts = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|v| v.to_str().ok());
    texts.flat_map(|text| text.split(',')).map(str::trim).filter(|p| !p.is_empty()).collect()
}

/// The token among a WebSocket's subprotocols. There must be another one, which the answer can name.
fn protocol_token(headers: &HeaderMap) -> Result<Option<String>, Status> {
    let protocols = protocols(headers);
    let mut tokens = protocols.iter().filter_map(|p| p.strip_prefix(TOKEN_PROTOCOL));
    let Some(token) = tokens.next() else { return Ok(None) };
    let decoded = URL_SAFE_NO_PAD.decode(token).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    match decoded {
        Some(token) if tokens.next().is_none() && protocols.len() > 1 => Ok(Some(token)),
        _ => Err(Status::unauthorized()),
    }
}

/// Takes the token out of a WebSocket's subprotocols.
fn hide_protocol(headers: &mut HeaderMap) {
    let all = protocols(headers);
    if all.iter().any(|p| p.starts_with(TOKEN_PROTOCOL)) {
        let kept: Vec<&str> = all.into_iter().filter(|p| !p.starts_with(TOKEN_PROTOCOL)).collect();
        if let Ok(kept) = HeaderValue::from_str(&kept.join(", ")) {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, kept);
        }
    }
}

fn with_authenticated(identity: &Arc<Identity>) -> Arc<Identity> {
    if member(identity, AUTHENTICATED) || member(identity, UNAUTHENTICATED) {
        return identity.clone();
    }
    let mut identity = Identity::clone(identity);
    identity.groups.push(AUTHENTICATED.to_owned());
    Arc::new(identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_browsers_token_is_read_from_the_subprotocols_and_goes_no_further() {
        let read = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(text));
            let token = protocol_token(&headers);
            hide_protocol(&mut headers);
            (token.map_err(|status| status.code), headers[header::SEC_WEBSOCKET_PROTOCOL].to_str().map(str::to_owned))
        };
        let (token, left) = read("base64url.bearer.authorization.k8s.io.dG9rZW4, v5.channel.k8s.io");
        assert_eq!((token, left.ok().as_deref()), (Ok(Some("token".to_owned())), Some("v5.channel.k8s.io")));
        assert_eq!(read("v5.channel.k8s.io").0, Ok(None));
        assert_eq!(read("base64url.bearer.authorization.k8s.io.dG9rZW4").0, Err(401));
        assert_eq!(read("base64url.bearer.authorization.k8s.io.!, v5.channel.k8s.io").0, Err(401));
    }
}
