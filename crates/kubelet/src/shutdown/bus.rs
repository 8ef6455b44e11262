//! As much of D-Bus as it takes to speak to logind: calls with strings, answers, signals, and descriptors that come with them.
//!
//! The format is described at <https://dbus.freedesktop.org/doc/dbus-specification.html>. All of it blocks.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, IoSliceMut, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
pub const SIGNAL: u8 = 4;
/// The longest message that is read.
const MESSAGE_MAX: usize = 1 << 20;

/// A connection to a bus.
pub struct Bus {
    stream: UnixStream,
    serial: u32,
    read: VecDeque<u8>,
    fds: VecDeque<OwnedFd>,
    /// Signals that came while an answer was waited for.
    waiting: VecDeque<Message>,
}

#[derive(Debug)]
pub struct Message {
    pub kind: u8,
    reply_to: u32,
    pub member: String,
    pub body: Vec<u8>,
    pub fds: Vec<OwnedFd>,
}

/// Who is called, and what.
#[derive(Clone, Copy)]
pub struct Method {
    pub destination: &'static str,
    pub path: &'static str,
    pub interface: &'static str,
    pub member: &'static str,
}

/// What a method is called with.
#[derive(Clone, Copy)]
pub enum Argument<'a> {
    Text(&'a str),
    Number(i32),
}

const BUS: Method = Method {
    destination: "org.freedesktop.DBus",
    path: "/org/freedesktop/DBus",
    interface: "org.freedesktop.DBus",
    member: "Hello",
};

impl Bus {
    /// Connects as the user that this process runs as.
    pub fn connect(socket: &Path) -> io::Result<Bus> {
        let mut stream = UnixStream::connect(socket)?;
        let uid: String = nix::unistd::geteuid().to_string().bytes().map(|b| format!("{b:02x}")).collect();
        stream.write_all(format!("\0AUTH EXTERNAL {uid}\r\n").as_bytes())?;
        let mut answers = BufReader::new(stream.try_clone()?);
        let mut expect = |word: &str| -> io::Result<()> {
            let mut line = String::new();
            answers.read_line(&mut line)?;
            if line.starts_with(word) { Ok(()) } else { Err(io::Error::other(format!("the bus answers {line:?}"))) }
        };
        expect("OK ")?;
        stream.write_all(b"NEGOTIATE_UNIX_FD\r\n")?;
        expect("AGREE_UNIX_FD")?;
        stream.write_all(b"BEGIN\r\n")?;
        let (read, fds, waiting) = Default::default();
        let mut bus = Bus { stream, serial: 0, read, fds, waiting };
        bus.call(BUS, &[])?;
        Ok(bus)
    }

    /// Asks for the signals that a rule selects.
    pub fn select(&mut self, rule: &str) -> io::Result<()> {
        self.call(Method { member: "AddMatch", ..BUS }, &[Argument::Text(rule)]).map(drop)
    }

    /// Calls and waits for the answer.
    pub fn call(&mut self, method: Method, arguments: &[Argument]) -> io::Result<Message> {
        self.serial += 1;
        self.stream.write_all(&encode(self.serial, method, arguments))?;
        loop {
            let message = self.receive()?;
            match message.kind {
                METHOD_RETURN if message.reply_to == self.serial => return Ok(message),
                ERROR if message.reply_to == self.serial => {
                    let why = Reader { bytes: &message.body, at: 0 }.string().unwrap_or_default();
                    return Err(io::Error::other(format!("{}: {why}", method.member)));
                }
                SIGNAL => self.waiting.push_back(message),
                _ => {}
            }
        }
    }

    /// The next signal.
    pub fn signal(&mut self) -> io::Result<Message> {
        loop {
            let message = match self.waiting.pop_front() {
                Some(message) => message,
                None => self.receive()?,
            };
            if message.kind == SIGNAL {
                return Ok(message);
            }
        }
    }

    fn receive(&mut self) -> io::Result<Message> {
        self.fill(16)?;
        let header: Vec<u8> = self.read.iter().take(16).copied().collect();
        if header[0] != b'l' {
            return Err(io::Error::other("a message of the bus is not in this machine's order of bytes"));
        }
        let number =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]) as usize;
        let begin = (16 + number(12)).next_multiple_of(8);
        let length = begin + number(4);
        if length > MESSAGE_MAX {
            return Err(io::Error::other("a message of the bus is too long"));
        }
        self.fill(length)?;
        let bytes: Vec<u8> = self.read.drain(..length).collect();
        decode(&bytes, begin, &mut self.fds).ok_or_else(|| io::Error::other("a message of the bus cannot be read"))
    }

    /// Reads until there are so many bytes.
    fn fill(&mut self, wanted: usize) -> io::Result<()> {
        let mut buffer = vec![0; 4096];
        while self.read.len() < wanted {
            let mut control = nix::cmsg_space!([RawFd; 16]);
            let mut slices = [IoSliceMut::new(&mut buffer)];
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            let message = recvmsg::<()>(self.stream.as_raw_fd(), &mut slices, Some(&mut control), flags)?;
            for item in message.cmsgs()? {
                if let ControlMessageOwned::ScmRights(received) = item {
                    // SAFETY: the kernel has just made these descriptors for this process, and nobody else has them.
                    #[allow(unsafe_code)]
                    self.fds.extend(received.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
                }
            }
            let length = message.bytes;
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.read.extend(&buffer[..length]);
        }
        Ok(())
    }
}

fn align(out: &mut Vec<u8>, to: usize) {
    out.resize(out.len().next_multiple_of(to), 0);
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    align(out, 4);
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.bytes());
    out.push(0);
}

fn encode(serial: u32, method: Method, arguments: &[Argument]) -> Vec<u8> {
    let mut body = Vec::new();
    let mut signature = Vec::new();
    for argument in arguments {
        match argument {
            Argument::Text(text) => {
                signature.push(b's');
                put_string(&mut body, text);
            }
            Argument::Number(number) => {
                signature.push(b'i');
                align(&mut body, 4);
                body.extend(number.to_le_bytes());
            }
        }
    }
    let mut out = vec![b'l', METHOD_CALL, 0, 1];
    out.extend((body.len() as u32).to_le_bytes());
    out.extend(serial.to_le_bytes());
    out.extend([0; 4]);
    let fields =
        [(1, b'o', method.path), (2, b's', method.interface), (3, b's', method.member), (6, b's', method.destination)];
    for (code, kind, text) in fields {
        align(&mut out, 8);
        out.extend([code, 1, kind, 0]);
        put_string(&mut out, text);
    }
    if !arguments.is_empty() {
        align(&mut out, 8);
        out.extend([8, 1, b'g', 0, signature.len() as u8]);
        out.extend(signature);
        out.push(0);
    }
    let length = (out.len() - 16) as u32;
    out[12..16].copy_from_slice(&length.to_le_bytes());
    align(&mut out, 8);
    out.extend(body);
    out
}

/// Reads values one after the other; none where there is no more, or something else.
pub struct Reader<'a> {
    pub bytes: &'a [u8],
    pub at: usize,
}

impl Reader<'_> {
    fn skip_to(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn byte(&mut self) -> Option<u8> {
        self.at += 1;
        self.bytes.get(self.at - 1).copied()
    }

    pub fn number(&mut self) -> Option<u32> {
        self.skip_to(4);
        let bytes = self.bytes.get(self.at..self.at + 4)?;
        self.at += 4;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    }

    pub fn string(&mut self) -> Option<String> {
        let length = self.number()? as usize;
        self.text(length)
    }

    fn text(&mut self, length: usize) -> Option<String> {
        let bytes = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        self.at += length + 1;
        String::from_utf8(bytes.to_vec()).ok()
    }

    fn signature(&mut self) -> Option<String> {
        let length = usize::from(self.byte()?);
        self.text(length)
    }

    /// A number of 64 bits, in a variant.
    pub fn variant_long(&mut self) -> Option<u64> {
        if self.signature()? != "t" {
            return None;
        }
        self.skip_to(8);
        Some(u64::from_le_bytes(self.bytes.get(self.at..self.at + 8)?.try_into().ok()?))
    }
}

fn decode(bytes: &[u8], begin: usize, fds: &mut VecDeque<OwnedFd>) -> Option<Message> {
    let fields = 16 + u32::from_le_bytes(bytes.get(12..16)?.try_into().ok()?) as usize;
    let mut message =
        Message { kind: *bytes.get(1)?, reply_to: 0, member: String::new(), body: Vec::new(), fds: Vec::new() };
    let mut reader = Reader { bytes: bytes.get(..fields)?, at: 16 };
    while reader.at < fields {
        reader.skip_to(8);
        let code = reader.byte()?;
        match (code, reader.signature()?.as_str()) {
            (3, "s") => message.member = reader.string()?,
            (5, "u") => message.reply_to = reader.number()?,
            (9, "u") => message.fds = fds.drain(..(reader.number()? as usize).min(fds.len())).collect(),
            (_, "s" | "o") => drop(reader.string()?),
            (_, "g") => drop(reader.signature()?),
            (_, "u") => drop(reader.number().map(|_| String::new())?),
            _ => return None,
        }
    }
    message.body = bytes.get(begin..)?.to_vec();
    Some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_as_it_was_written() {
        let method = Method { destination: "a.b", path: "/c", interface: "d.e", member: "Do" };
        let bytes = encode(7, method, &[Argument::Text("one"), Argument::Text("zwölf"), Argument::Number(1)]);
        let signature = [8, 1, b'g', 0, 3, b's', b's', b'i', 0];
        assert!(bytes.windows(signature.len()).any(|part| part == signature));
        let begin = (16 + u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize).next_multiple_of(8);
        let message = decode(&bytes, begin, &mut VecDeque::new()).unwrap();
        let mut body = Reader { bytes: &message.body, at: 0 };
        assert_eq!((message.kind, message.member.as_str()), (METHOD_CALL, "Do"));
        assert_eq!(
            (body.string().as_deref(), body.string().as_deref(), body.number(), body.number()),
            (Some("one"), Some("zwölf"), Some(1), None)
        );
        for cut in 0..bytes.len() {
            // Whatever a bus may send, nothing breaks.
            let _ = decode(&bytes[..cut], begin.min(cut), &mut VecDeque::new());
        }
        let mut long = Reader { bytes: &[1, b't', 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0], at: 0 };
        assert_eq!(long.variant_long(), Some(5));
    }

    /// Against the bus of this machine's own daemon, where there is one.
    #[test]
    fn a_bus_answers_calls_and_says_what_is_wrong() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("bus");
        let address = format!("--address=unix:path={}", socket.display());
        let daemon = std::process::Command::new("dbus-daemon").args(["--session", "--nofork", &address]).spawn();
        let Ok(mut daemon) = daemon else {
            let whole = ["REGATTA_SPEC", "CI"].iter().any(|name| std::env::var_os(name).is_some());
            assert!(!whole, "needs dbus-daemon");
            return eprintln!("skipped: needs dbus-daemon");
        };
        let began = std::time::Instant::now();
        while !socket.exists() && began.elapsed().as_secs() < 30 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let mut bus = Bus::connect(&socket).unwrap();
        let id = bus.call(Method { member: "GetId", ..BUS }, &[]).unwrap();
        assert_eq!(Reader { bytes: &id.body, at: 0 }.string().unwrap().len(), 32);
        bus.select("type='signal',member='NameAcquired'").unwrap();
        let error = bus.call(Method { member: "Nothing", ..BUS }, &[Argument::Text("x")]).unwrap_err();
        assert!(error.to_string().starts_with("Nothing: "), "{error}");
        assert_eq!(bus.signal().unwrap().member, "NameAcquired");
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        assert!(bus.signal().is_err());
    }
}
