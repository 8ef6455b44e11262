//! SPDY/3.1 frames, as far as streams of Kubernetes need them. Headers are compressed in one zlib stream a direction, which begins with
//! the specification's dictionary.

use std::io;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use tokio::io::{AsyncRead, AsyncReadExt};

const VERSION: u16 = 0x8003;
pub const FIN: u8 = 1;
/// A frame's longest, beyond what anybody sends.
const FRAME_MAX: usize = 16 * 1024 * 1024 - 1;
const HEADERS_MAX: usize = 64 * 1024;

/// Header names and values.
pub type Headers = Vec<(String, String)>;

#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    SynStream {
        stream: u32,
        fin: bool,
        headers: Headers,
    },
    SynReply {
        stream: u32,
        headers: Headers,
    },
    Reset {
        stream: u32,
        status: u32,
    },
    Ping(u32),
    GoAway,
    Data {
        stream: u32,
        fin: bool,
        data: Vec<u8>,
    },
    /// Settings, windows and what else needs no answer.
    Other,
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message.to_owned())
}

/// Reads frames from one side of a connection.
pub struct Reader<R> {
    stream: R,
    inflate: Decompress,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub fn new(stream: R) -> Reader<R> {
        Reader { stream, inflate: Decompress::new(true) }
    }

    /// The next frame, `None` at the end.
    pub async fn next(&mut self) -> io::Result<Option<Frame>> {
        let mut head = [0; 8];
        match self.stream.read_exact(&mut head).await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            done => done?,
        };
        let [a, b, c, d, flags, length @ ..] = head;
        let length = u32::from_be_bytes([0, length[0], length[1], length[2]]) as usize;
        let mut body = vec![0; length.min(FRAME_MAX)];
        self.stream.read_exact(&mut body).await?;
        if a & 0x80 == 0 {
            let stream = u32::from_be_bytes([a, b, c, d]);
            return Ok(Some(Frame::Data { stream, fin: flags & FIN != 0, data: body }));
        }
        if u16::from_be_bytes([a, b]) != VERSION {
            return Err(invalid("not SPDY/3"));
        }
        let word = |at: usize| {
            let bytes = body.get(at..at + 4).and_then(|b| <[u8; 4]>::try_from(b).ok());
            bytes.map(|b| u32::from_be_bytes(b) & 0x7fff_ffff).ok_or_else(|| invalid("short frame"))
        };
        let frame = match u16::from_be_bytes([c, d]) {
            1 => {
                let stream = word(0)?;
                let block = body.get(10..).ok_or_else(|| invalid("short frame"))?;
                Frame::SynStream { stream, fin: flags & FIN != 0, headers: self.headers(block)? }
            }
            2 => Frame::SynReply { stream: word(0)?, headers: self.headers(&body[4..])? },
            3 => Frame::Reset { stream: word(0)?, status: word(4)? },
            6 => Frame::Ping(u32::from_be_bytes([body[0], body[1], body[2], body[3]])),
            7 => Frame::GoAway,
            8 => {
                // Nobody sends these, but the compression's state must follow.
                self.headers(body.get(4..).unwrap_or_default())?;
                Frame::Other
            }
            _ => Frame::Other,
        };
        Ok(Some(frame))
    }

    fn headers(&mut self, block: &[u8]) -> io::Result<Headers> {
        let mut plain = Vec::new();
        let mut at = 0;
        loop {
            let mut room = [0; 4096];
            let (before_in, before_out) = (self.inflate.total_in(), self.inflate.total_out());
            let status = self.inflate.decompress(&block[at..], &mut room, FlushDecompress::Sync);
            at += (self.inflate.total_in() - before_in) as usize;
            let got = (self.inflate.total_out() - before_out) as usize;
            plain.extend_from_slice(&room[..got]);
            match status {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.inflate.set_dictionary(&dictionary()).map_err(io::Error::other)?;
                    continue;
                }
                Err(error) => return Err(io::Error::other(error)),
                Ok(Status::StreamEnd) => break,
                Ok(_) if at >= block.len() && got < room.len() => break,
                Ok(Status::BufError) if got == 0 => break,
                Ok(_) => {}
            }
            if plain.len() > HEADERS_MAX {
                return Err(invalid("headers too long"));
            }
        }
        parse(&plain)
    }
}

fn parse(plain: &[u8]) -> io::Result<Headers> {
    let mut rest = plain;
    let word = |rest: &mut &[u8]| {
        let (head, tail) = rest.split_at_checked(4).ok_or_else(|| invalid("short headers"))?;
        *rest = tail;
        Ok::<_, io::Error>(u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize)
    };
    let count = word(&mut rest)?;
    let mut headers = Headers::new();
    for _ in 0..count {
        let mut pair = [const { String::new() }; 2];
        for text in &mut pair {
            let length = word(&mut rest)?;
            let (head, tail) = rest.split_at_checked(length).ok_or_else(|| invalid("short headers"))?;
            *text = String::from_utf8_lossy(head).into_owned();
            rest = tail;
        }
        let [name, value] = pair;
        headers.push((name, value));
    }
    Ok(headers)
}

/// Writes frames of one side of a connection.
pub struct Writer {
    deflate: Compress,
}

impl Writer {
    pub fn new() -> io::Result<Writer> {
        let mut deflate = Compress::new(Compression::fast(), true);
        deflate.set_dictionary(&dictionary()).map_err(io::Error::other)?;
        Ok(Writer { deflate })
    }

    /// The frame's bytes. They must be sent in the order in which they are made.
    pub fn encode(&mut self, frame: &Frame) -> io::Result<Vec<u8>> {
        let bytes = match frame {
            Frame::Data { stream, fin, data } => {
                let mut out = stream.to_be_bytes().to_vec();
                out.extend(head(u8::from(*fin), data.len()));
                out.extend_from_slice(data);
                out
            }
            Frame::SynReply { stream, headers } => {
                let mut body = stream.to_be_bytes().to_vec();
                body.extend(self.compress(headers)?);
                control(2, 0, &body)
            }
            Frame::SynStream { stream, fin, headers } => {
                let mut body = stream.to_be_bytes().to_vec();
                body.extend([0; 6]);
                body.extend(self.compress(headers)?);
                control(1, u8::from(*fin), &body)
            }
            Frame::Reset { stream, status } => control(3, 0, &[stream.to_be_bytes(), status.to_be_bytes()].concat()),
            Frame::Ping(id) => control(6, 0, &id.to_be_bytes()),
            Frame::GoAway => control(7, 0, &[0; 8]),
            Frame::Other => Vec::new(),
        };
        Ok(bytes)
    }

    fn compress(&mut self, headers: &Headers) -> io::Result<Vec<u8>> {
        let mut plain = (headers.len() as u32).to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend((text.len() as u32).to_be_bytes());
            plain.extend_from_slice(text.as_bytes());
        }
        // Enough for anything, since what cannot be compressed grows by little.
        let mut out = Vec::with_capacity(plain.len() + 256);
        self.deflate.compress_vec(&plain, &mut out, FlushCompress::Sync).map_err(io::Error::other)?;
        Ok(out)
    }
}

fn head(flags: u8, length: usize) -> [u8; 4] {
    let length = (length as u32).to_be_bytes();
    [flags, length[1], length[2], length[3]]
}

fn control(kind: u16, flags: u8, body: &[u8]) -> Vec<u8> {
    let mut out = VERSION.to_be_bytes().to_vec();
    out.extend(kind.to_be_bytes());
    out.extend(head(flags, body.len()));
    out.extend_from_slice(body);
    out
}

/// The dictionary of section 2.6.10.1 of the SPDY/3 draft: common words, each after its length, and common text.
fn dictionary() -> Vec<u8> {
    const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language \
        accept-ranges age allow authorization cache-control connection content-base content-encoding content-language \
        content-length content-location content-md5 content-range content-type date etag expect expires from host \
        if-match if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards \
        pragma proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding \
        upgrade user-agent vary via warning www-authenticate method get status 200|OK version HTTP/1.1 url public \
        set-cookie keep-alive origin";
    const TEXT: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
        203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized\
        403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable\
        Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT\
        chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,\
        text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";
    let mut out = Vec::new();
    for word in WORDS.split_whitespace() {
        let word = word.replace('|', " ");
        out.extend((word.len() as u32).to_be_bytes());
        out.extend(word.bytes());
    }
    out.extend(TEXT.bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_is_the_one_of_the_specification() {
        let (mut a, mut b) = (1_u32, 0_u32);
        for byte in dictionary() {
            a = (a + u32::from(byte)) % 65521;
            b = (b + a) % 65521;
        }
        assert_eq!((dictionary().len(), b << 16 | a), (1423, 0xe3c6_a7c2));
    }

    #[tokio::test]
    async fn frames_come_back_as_they_went() {
        let headers =
            |port: &str| vec![("streamtype".to_owned(), "data".to_owned()), ("port".to_owned(), port.to_owned())];
        let frames = [
            Frame::SynStream { stream: 1, fin: true, headers: headers("80") },
            Frame::SynStream { stream: 3, fin: false, headers: headers(&"9".repeat(9000)) },
            Frame::SynReply { stream: 1, headers: Vec::new() },
            Frame::Data { stream: 3, fin: true, data: b"hello".to_vec() },
            Frame::Ping(7),
            Frame::Reset { stream: 3, status: 5 },
            Frame::GoAway,
        ];
        let mut writer = Writer::new().unwrap();
        let bytes: Vec<u8> = frames.iter().flat_map(|f| writer.encode(f).unwrap()).collect();
        let mut reader = Reader::new(bytes.as_slice());
        for frame in frames {
            assert_eq!(reader.next().await.unwrap(), Some(frame));
        }
        assert_eq!(reader.next().await.unwrap(), None);
    }
}
