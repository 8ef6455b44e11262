//! The handshakes of WebSocket and SPDY, each of which chooses one of the subprotocols that the client offers.

use futures::future::BoxFuture;
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::{Body, Refusal, full};

pub type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// The header in which SPDY's clients offer protocols and learn of the one that is taken.
const SPDY_PROTOCOL: &str = "x-stream-protocol-version";

/// The largest message that a client may send.
const MESSAGE_MAX: usize = 32 * 1024 * 1024;

/// An accepted handshake.
pub struct Upgrade {
    /// The subprotocol; empty where the client offered none.
    pub protocol: &'static str,
    pub response: Response<Body>,
    /// The socket, once the response is sent.
    pub socket: BoxFuture<'static, Result<Socket, hyper::Error>>,
}

/// Whether the request asks for a WebSocket.
pub fn is_websocket(request: &Request<Incoming>) -> bool {
    let upgrade = request.headers().get(UPGRADE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    upgrade.eq_ignore_ascii_case("websocket")
}

/// Accepts with the first of `protocols` that the client offers.
pub fn websocket(request: Request<Incoming>, protocols: &[&'static str]) -> Result<Upgrade, Refusal> {
    if !is_websocket(&request) {
        return Err(Refusal::bad_request("Upgrade request required"));
    }
    let key = request.headers().get(SEC_WEBSOCKET_KEY).ok_or_else(|| Refusal::bad_request("no WebSocket key"))?;
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(Refusal::internal)?;
    let offered = offered(&request, SEC_WEBSOCKET_PROTOCOL.as_str());
    let chosen = protocols.iter().copied().find(|p| offered.iter().any(|o| o == p));
    let protocol = match chosen {
        Some(protocol) => protocol,
        None if offered.is_empty() && protocols.contains(&"") => "",
        None => {
            return Err(Refusal(
                StatusCode::FORBIDDEN,
                format!("unable to upgrade: unsupported subprotocols {offered:?}"),
            ));
        }
    };
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    if !protocol.is_empty() {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    }
    let socket = Box::pin(async move {
        let stream = TokioIo::new(hyper::upgrade::on(request).await?);
        let config = WebSocketConfig::default().max_message_size(Some(MESSAGE_MAX)).max_frame_size(Some(MESSAGE_MAX));
        Ok(WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await)
    });
    Ok(Upgrade { protocol, response, socket })
}

/// An accepted handshake of SPDY.
pub struct Spdy {
    pub protocol: &'static str,
    pub response: Response<Body>,
    /// The connection, once the response is sent.
    pub stream: BoxFuture<'static, Result<TokioIo<Upgraded>, hyper::Error>>,
}

/// Accepts with the first of `protocols` that the client offers.
pub fn spdy(request: Request<Incoming>, protocols: &[&'static str]) -> Result<Spdy, Refusal> {
    let asked = request.headers().get(UPGRADE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !asked.eq_ignore_ascii_case("SPDY/3.1") {
        return Err(Refusal::bad_request("Upgrade request required"));
    }
    let offered = offered(&request, SPDY_PROTOCOL);
    let Some(protocol) = protocols.iter().copied().find(|p| offered.iter().any(|o| o == p)) else {
        let message = format!(
            "unable to upgrade: unable to negotiate protocol: client supports [{}], server accepts [{}]",
            offered.join(" "),
            protocols.join(" ")
        );
        return Err(Refusal(StatusCode::FORBIDDEN, message));
    };
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    headers.insert(SPDY_PROTOCOL, HeaderValue::from_static(protocol));
    let stream = Box::pin(async move { hyper::upgrade::on(request).await.map(TokioIo::new) });
    Ok(Spdy { protocol, response, stream })
}

/// The protocols that a request's headers of this name offer.
fn offered(request: &Request<Incoming>, header: &str) -> Vec<String> {
    let values = request.headers().get_all(header).iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',').map(|p| p.trim().to_owned())).collect()
}
