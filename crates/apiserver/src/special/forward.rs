//! Passing a request on: to a kubelet, a pod, a service or another server. After an upgrade the two connections are one and
//! the bytes of both sides are copied, whatever protocol they speak: WebSocket, SPDY/3.1 or another.

use api::Status;
use api::status::Reason;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use hyper_util::rt::TokioIo;

use crate::server::Stream;
use crate::wire::{Body, Request, Response};

/// Headers that are about one connection and go no further.
const HOP_BY_HOP: [HeaderName; 7] = [
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];
/// What one direction of an upgraded connection may hold.
const PIPE: usize = 32 * 1024;

/// Whether the client wants another protocol on its connection.
pub fn upgrades(headers: &HeaderMap) -> bool {
    let connection = headers.get_all(header::CONNECTION).iter().filter_map(|v| v.to_str().ok());
    headers.contains_key(header::UPGRADE)
        && connection.flat_map(|text| text.split(',')).any(|token| token.trim().eq_ignore_ascii_case("upgrade"))
}

/// What a peer that cannot be reached is answered for, in upstream's words.
pub fn unreachable(why: impl std::fmt::Display) -> Status {
    Status::new(Reason::ServiceUnavailable, format!("error trying to reach service: {why}"))
}

/// Sends the request on under another path and passes the answer back.
pub async fn forward(stream: Box<dyn Stream>, path: &str, mut request: Request) -> Result<Response, Status> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(unreachable)?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a proxied connection ended");
        }
    });
    let ours = hyper::upgrade::on(&mut request);
    let host = host(&request);
    let (parts, body) = request.into_parts();
    let upgrades = upgrades(&parts.headers);
    let mut onward = http::Request::new(if upgrades { Body::empty() } else { body });
    *onward.method_mut() = parts.method;
    *onward.uri_mut() = path.parse().map_err(|_| Status::bad_request("the path cannot be proxied"))?;
    *onward.headers_mut() = without_hops(parts.headers, upgrades);
    onward.headers_mut().insert(header::HOST, host);
    let mut answered = sender.send_request(onward).await.map_err(unreachable)?;
    let status = answered.status();
    let switches = status == StatusCode::SWITCHING_PROTOCOLS;
    if switches && !upgrades {
        return Err(unreachable("it changed the protocol unasked"));
    }
    let headers = without_hops(answered.headers().clone(), switches);
    let mut response = if switches {
        let theirs = hyper::upgrade::on(&mut answered);
        tokio::spawn(async move {
            let (Ok(ours), Ok(theirs)) = (ours.await, theirs.await) else { return };
            let (mut ours, mut theirs) = (TokioIo::new(ours), TokioIo::new(theirs));
            // Either side may hang up whenever it likes.
            let _ = tokio::io::copy_bidirectional_with_sizes(&mut ours, &mut theirs, PIPE, PIPE).await;
        });
        Response::new(Body::empty())
    } else {
        Response::new(Body::Through(answered.into_body()))
    };
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

/// The host that the client named, which goes on as it is.
pub fn host(request: &Request) -> HeaderValue {
    let named = request.headers().get(header::HOST).cloned();
    let authority = || request.uri().authority().and_then(|a| HeaderValue::from_str(a.as_str()).ok());
    named.or_else(authority).unwrap_or(HeaderValue::from_static("localhost"))
}

/// The headers that go on. `Connection` and `Upgrade` do so only for an upgrade.
fn without_hops(mut headers: HeaderMap, upgrades: bool) -> HeaderMap {
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
    if !upgrades {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .flat_map(|text| text.split(','))
            .filter_map(|name| name.trim().parse().ok())
            .collect();
        for name in named.into_iter().chain([header::CONNECTION, header::UPGRADE]) {
            headers.remove(name);
        }
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = list.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v)));
        pairs.collect()
    }

    #[test]
    fn an_upgrade_is_asked_for_by_both_headers() {
        assert!(upgrades(&headers(&[("upgrade", "SPDY/3.1"), ("connection", "keep-alive, Upgrade")])));
        assert!(!upgrades(&headers(&[("upgrade", "h2c")])));
        assert!(!upgrades(&headers(&[("connection", "upgrade")])));
    }

    #[test]
    fn what_is_about_one_connection_goes_no_further() {
        let sent = headers(&[("connection", "close, x-own"), ("x-own", "1"), ("te", "trailers"), ("x-kept", "1")]);
        assert_eq!(without_hops(sent, false), headers(&[("x-kept", "1")]));
        let sent = headers(&[("connection", "upgrade"), ("upgrade", "websocket")]);
        assert_eq!(without_hops(sent.clone(), true), sent);
    }
}
