//! The channels of a remote command, what their messages say, and how a command's end is told.
//!
//! In a WebSocket the protocols are `channel.k8s.io`, `v4.channel.k8s.io` (a status ends it) and `v5.channel.k8s.io` (a channel
//! can be closed), the first two also in base64.

use bytes::Bytes;
use runtime::cri::TerminalSize;
use serde_json::{Value, json};

pub const STDIN: u8 = 0;
pub const STDOUT: u8 = 1;
pub const STDERR: u8 = 2;
pub const ERROR: u8 = 3;
pub const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// The protocols from the one that is liked best.
pub const PROTOCOLS: [&str; 6] = [
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
    "",
];

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
            let told: Value = serde_json::from_slice(&message[1..]).unwrap_or_default();
            size(&told).map_or(Message::Other, Message::Resize)
        }
        _ => Message::Other,
    }
}

/// A terminal's size as clients write it.
pub fn size(told: &Value) -> Option<TerminalSize> {
    let side = |name: &str| told[name].as_u64().and_then(|n| u16::try_from(n).ok());
    Some(TerminalSize { width: side("Width")?, height: side("Height")? })
}

pub fn encode(channel: u8, data: &[u8]) -> Bytes {
    let mut message = Vec::with_capacity(data.len() + 1);
    message.push(channel);
    message.extend_from_slice(data);
    message.into()
}

/// How a command ended, as the `v1.Status` on the error channel says it.
fn status(outcome: &Result<i32, String>) -> Value {
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

/// What is said at the end. From the fourth protocol on that is a status; before, nothing where all went well, and plain words
/// where it did not.
pub fn told(outcome: &Result<i32, String>, protocol: &str) -> Option<String> {
    let status = status(outcome);
    if protocol.starts_with("v4.") || protocol.starts_with("v5.") {
        return Some(status.to_string());
    }
    status["message"].as_str().map(str::to_owned)
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
        assert_eq!(told(&Ok(0), "v3.channel.k8s.io"), None);
        assert!(told(&Ok(3), "").is_some_and(|words| words.ends_with("exit code 3")));
    }
}
