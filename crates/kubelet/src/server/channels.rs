//! The channels of a remote command in one WebSocket: the first byte of each message says which.
//!
//! Protocols `channel.k8s.io`, `v4.channel.k8s.io` (a status ends it) and `v5.channel.k8s.io` (a channel can be closed).

use bytes::Bytes;
use runtime::cri::TerminalSize;
use serde_json::{Value, json};

pub const STDOUT: u8 = 1;
pub const STDERR: u8 = 2;
pub const ERROR: u8 = 3;
const STDIN: u8 = 0;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// The protocols from the one that is liked best.
pub const PROTOCOLS: [&str; 4] = ["v5.channel.k8s.io", "v4.channel.k8s.io", "channel.k8s.io", ""];

/// What a client's message says.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    Stdin(Bytes),
    CloseStdin,
    Resize(TerminalSize),
    /// Nothing that has a meaning.
    Other,
}

pub fn decode(message: Bytes) -> Message {
    match message.first() {
        Some(&STDIN) => Message::Stdin(message.slice(1..)),
        Some(&CLOSE) if message.get(1) == Some(&STDIN) => Message::CloseStdin,
        Some(&RESIZE) => {
            let size: Value = serde_json::from_slice(&message[1..]).unwrap_or_default();
            let side = |name: &str| size[name].as_u64().and_then(|n| u16::try_from(n).ok());
            match (side("Width"), side("Height")) {
                (Some(width), Some(height)) => Message::Resize(TerminalSize { width, height }),
                _ => Message::Other,
            }
        }
        _ => Message::Other,
    }
}

pub fn encode(channel: u8, data: &[u8]) -> Bytes {
    let mut message = Vec::with_capacity(data.len() + 1);
    message.push(channel);
    message.extend_from_slice(data);
    message.into()
}

/// How a command ended, as the `v1.Status` on the error channel says it.
pub fn status(outcome: &Result<i32, String>) -> Value {
    match outcome {
        Ok(0) => json!({"metadata": {}, "status": "Success"}),
        Ok(code) => json!({"metadata": {}, "status": "Failure",
            "message": format!("command terminated with non-zero exit code: command terminated with exit code {code}"),
            "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]}}),
        Err(message) => {
            json!({"metadata": {}, "status": "Failure", "message": format!("Internal error occurred: {message}"),
            "reason": "InternalError", "details": {"causes": [{"message": message}]}, "code": 500})
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_go_to_their_channels() {
        for (message, expected) in [
            (&b"\0hi"[..], Message::Stdin(Bytes::from_static(b"hi"))),
            (b"\xff\0", Message::CloseStdin),
            (b"\xff\x01", Message::Other),
            (b"\x04{\"Width\":80,\"Height\":24}", Message::Resize(TerminalSize { width: 80, height: 24 })),
            (b"\x04{", Message::Other),
            (b"", Message::Other),
        ] {
            assert_eq!(decode(Bytes::from_static(message)), expected);
        }
    }

    #[test]
    fn an_exit_code_is_a_cause() {
        assert_eq!(status(&Ok(3))["details"]["causes"][0], json!({"reason": "ExitCode", "message": "3"}));
        assert_eq!(status(&Ok(0))["status"], "Success");
    }
}
