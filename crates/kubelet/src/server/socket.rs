//! A session's channels in one WebSocket: the first byte of each message says which; in the older textual protocols that is a
//! digit, and the rest is base64.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::channels;
use super::session::{Line, Output};
use super::upgrade::Socket;

/// Serves a session until it ends; it learns of the client's leaving.
pub async fn serve<F: Future<Output = ()>>(socket: Socket, protocol: &str, session: impl FnOnce(Line) -> F) {
    let textual = protocol.contains("base64");
    let (mut sink, mut source) = socket.split();
    let (line, arrives, mut leaves) = Line::new();
    let write = async move {
        while let Some(output) = leaves.recv().await {
            if let Output::Data(channel, data) = output {
                let frame = if textual {
                    Frame::Text(format!("{channel}{}", STANDARD.encode(&data)).into())
                } else {
                    Frame::Binary(channels::encode(channel, &data))
                };
                sink.send(frame).await?;
            }
        }
        // Without a code kubectl takes the end for a broken connection.
        sink.send(Frame::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))).await
    };
    let read = async move {
        while let Some(Ok(frame)) = source.next().await {
            let message = match frame {
                Frame::Text(text) if textual => plain(&text),
                Frame::Text(text) => text.into(),
                Frame::Binary(message) => message,
                Frame::Close(_) => break,
                _ => continue,
            };
            if arrives.send(channels::decode(message)).await.is_err() {
                break;
            }
        }
        drop(arrives);
        // The session's end is awaited.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        _ = futures::future::join(session(line), write) => {}
        () = read => {}
    }
}

/// The message that a textual one stands for; empty where it is none.
fn plain(text: &str) -> Bytes {
    let bytes = text.split_at_checked(1).and_then(|(channel, data)| {
        let channel: u8 = channel.parse().ok()?;
        Some(channels::encode(channel, &STANDARD.decode(data).ok()?))
    });
    bytes.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_textual_message_has_a_digit_and_base64() {
        for (text, expected) in [("0aGk=", &b"\0hi"[..]), ("0", b"\0"), ("x", b""), ("0!", b""), ("", b"")] {
            assert_eq!(plain(text), expected, "{text}");
        }
    }
}
