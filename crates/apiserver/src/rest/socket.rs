//! A watch over a WebSocket: each event is a message of its own, text where the format is text.

use api::Status;
use bytes::{Buf, Bytes};
use futures::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::wire::{Body, Format, Response};

/// Whether the client asks for a WebSocket.
pub fn asked_for(headers: &HeaderMap) -> bool {
    let named = headers.get(header::UPGRADE).and_then(|v| v.to_str().ok());
    crate::special::forward::upgrades(headers) && named.is_some_and(|name| name.eq_ignore_ascii_case("websocket"))
}

/// Makes a WebSocket of a watch's answer.
pub fn serve(headers: &HeaderMap, upgrade: OnUpgrade, watch: Response, format: Format) -> Result<Response, Status> {
    if watch.status() != StatusCode::OK {
        return Ok(watch);
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).ok_or_else(|| Status::bad_request("challenge not found"))?;
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(Status::internal)?;
    tokio::spawn(pass(upgrade, watch.into_body(), format));
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    Ok(response)
}

/// Passes the events on until either side ends.
async fn pass(upgrade: OnUpgrade, body: Body, format: Format) {
    let Ok(upgraded) = upgrade.await else { return };
    let mut socket: WebSocketStream<TokioIo<Upgraded>> =
        WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
    let mut chunks = match body {
        Body::Stream(chunks) => chunks,
        Body::Full(bytes) => futures::stream::iter([bytes]).boxed(),
        Body::Through(_) => return,
    };
    loop {
        tokio::select! {
            chunk = chunks.next() => {
                let Some(chunk) = chunk else { break };
                for message in messages(chunk, format) {
                    if socket.send(message).await.is_err() {
                        return;
                    }
                }
            }
            // What the client says is of no interest, but that it goes is.
            said = socket.next() => match said {
                Some(Ok(Message::Close(_)) | Err(_)) | None => break,
                Some(Ok(_)) => {}
            },
        }
    }
    let _ = socket.close(None).await;
}

/// The events of a chunk, one message each.
fn messages(mut chunk: Bytes, format: Format) -> Vec<Message> {
    let mut all = Vec::new();
    if format != Format::Protobuf {
        let lines = chunk.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        all.extend(lines.map(|line| Message::text(String::from_utf8_lossy(line).into_owned())));
        return all;
    }
    // Each has its length in front.
    while chunk.len() >= 4 {
        let length = chunk.get_u32() as usize;
        all.push(Message::binary(chunk.split_to(length.min(chunk.len()))));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_event_is_a_message() {
        let json = messages(Bytes::from_static(b"{\"a\":1}\n{\"b\":2}\n"), Format::Json);
        assert_eq!(json, [Message::text("{\"a\":1}"), Message::text("{\"b\":2}")]);
        let binary = messages(Bytes::from_static(b"\0\0\0\x01x\0\0\0\x02yz"), Format::Protobuf);
        assert_eq!(binary, [Message::binary(&b"x"[..]), Message::binary(&b"yz"[..])]);
    }
}
