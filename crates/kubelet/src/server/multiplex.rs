//! A session's channels as streams of one SPDY connection: the client makes each and names it in a header.

use std::io;
use std::time::Duration;

use runtime::cri::TerminalSize;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::channels::{self, Message};
use super::session::{BACKLOG, Line, Output};
use super::spdy::{Frame, Headers, Reader, Writer};

/// The protocols from the one that is liked best. From the fourth on a status is the end's form, from the third on a terminal
/// has a size.
pub const PROTOCOLS: [&str; 4] = ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];

/// How long a client may take to make its streams.
const MAKING: Duration = Duration::from_secs(30);
/// How long a client may take to hang up after the end.
const LINGER: Duration = Duration::from_secs(10);
/// The longest description of a terminal's size that is waited for.
const SIZE_MAX: usize = 1024;

const REFUSED_STREAM: u32 = 3;

/// Whether clients of the protocol make a stream for the terminal's size.
pub fn resizes(protocol: &str) -> bool {
    matches!(protocol, "v4.channel.k8s.io" | "v3.channel.k8s.io")
}

/// The streams that a client has made, by channel.
#[derive(Default)]
struct Made(Vec<(u8, u32)>);

impl Made {
    fn channel(&self, stream: u32) -> Option<u8> {
        self.0.iter().find(|(_, id)| *id == stream).map(|(channel, _)| *channel)
    }

    fn stream(&self, channel: u8) -> Option<u32> {
        self.0.iter().find(|(own, _)| *own == channel).map(|(_, id)| *id)
    }

    fn has_all(&self, wanted: &[u8]) -> bool {
        wanted.iter().all(|channel| self.stream(*channel).is_some())
    }

    /// Takes a stream in, or gives the answer that refuses it.
    fn take(&mut self, stream: u32, headers: &Headers, wanted: &[u8]) -> Frame {
        let named = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("streamtype"));
        let channel = match named.map(|(_, kind)| kind.as_str()) {
            Some("stdin") => Some(channels::STDIN),
            Some("stdout") => Some(channels::STDOUT),
            Some("stderr") => Some(channels::STDERR),
            Some("error") => Some(channels::ERROR),
            Some("resize") => Some(channels::RESIZE),
            _ => None,
        };
        match channel.filter(|c| wanted.contains(c) && self.stream(*c).is_none()) {
            Some(channel) => {
                self.0.push((channel, stream));
                Frame::SynReply { stream, headers: Headers::new() }
            }
            None => Frame::Reset { stream, status: REFUSED_STREAM },
        }
    }
}

/// Serves a session once the client has made a stream for each of the `wanted` channels, until it ends.
pub async fn serve<S, F>(stream: S, wanted: &[u8], session: impl FnOnce(Line) -> F) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite,
    F: Future<Output = ()>,
{
    let (read, mut write) = tokio::io::split(stream);
    let (mut reader, mut writer) = (Reader::new(read), Writer::new()?);
    let mut made = Made::default();
    let mut early = Vec::new();
    let making = async {
        while !made.has_all(wanted) {
            let answer = match reader.next().await? {
                None | Some(Frame::GoAway) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                Some(Frame::SynStream { stream, headers, .. }) => made.take(stream, &headers, wanted),
                Some(Frame::Ping(id)) => Frame::Ping(id),
                Some(other) => {
                    early.push(other);
                    continue;
                }
            };
            write.write_all(&writer.encode(&answer)?).await?;
            write.flush().await?;
        }
        Ok(())
    };
    tokio::time::timeout(MAKING, making).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;

    let made = &made;
    let (line, arrives, mut leaves) = Line::new();
    let (replies, mut replying) = mpsc::channel(BACKLOG);
    let writing = async move {
        loop {
            let frame = tokio::select! {
                Some(frame) = replying.recv() => frame,
                output = leaves.recv() => match output {
                    None => break,
                    Some(output) => match frame(made, output) {
                        Some(frame) => frame,
                        None => continue,
                    },
                },
            };
            write.write_all(&writer.encode(&frame)?).await?;
            write.flush().await?;
        }
        write.shutdown().await
    };
    let reading = async move {
        let mut size = Vec::new();
        let mut early = early.into_iter();
        loop {
            let frame = match early.next() {
                Some(frame) => frame,
                None => match reader.next().await {
                    Ok(Some(Frame::GoAway) | None) | Err(_) => return,
                    Ok(Some(frame)) => frame,
                },
            };
            match frame {
                Frame::Data { stream, fin, data } => match made.channel(stream) {
                    Some(channels::STDIN) => {
                        if !data.is_empty() {
                            let _ = arrives.send(Message::Stdin(data.into())).await;
                        }
                        if fin {
                            let _ = arrives.send(Message::CloseStdin).await;
                        }
                    }
                    Some(channels::RESIZE) => {
                        size.extend(data);
                        for wanted in sizes(&mut size) {
                            let _ = arrives.send(Message::Resize(wanted)).await;
                        }
                    }
                    _ => {}
                },
                Frame::Reset { stream, .. } if made.channel(stream) == Some(channels::STDIN) => {
                    let _ = arrives.send(Message::CloseStdin).await;
                }
                Frame::SynStream { stream, .. } => {
                    let _ = replies.send(Frame::Reset { stream, status: REFUSED_STREAM }).await;
                }
                Frame::Ping(id) if id % 2 == 1 => {
                    let _ = replies.send(Frame::Ping(id)).await;
                }
                _ => {}
            }
        }
    };
    let work = futures::future::join(session(line), writing);
    futures::pin_mut!(work, reading);
    match futures::future::select(work, reading).await {
        // The client still reads; it hangs up when it has all.
        futures::future::Either::Left(((_, written), reading)) => {
            written?;
            let _ = tokio::time::timeout(LINGER, reading).await;
        }
        futures::future::Either::Right((_, work)) => {
            work.await.1?;
        }
    }
    Ok(())
}

fn frame(made: &Made, output: Output) -> Option<Frame> {
    let (channel, fin, data) = match output {
        Output::Data(channel, data) => (channel, false, data.to_vec()),
        Output::End(channel) => (channel, true, Vec::new()),
    };
    made.stream(channel).map(|stream| Frame::Data { stream, fin, data })
}

/// Takes the whole terminal sizes off the front of what has come.
fn sizes(text: &mut Vec<u8>) -> Vec<TerminalSize> {
    let mut parsed = serde_json::Deserializer::from_slice(text).into_iter::<serde_json::Value>();
    let found: Vec<_> = parsed.by_ref().map_while(Result::ok).filter_map(|size| channels::size(&size)).collect();
    let used = parsed.byte_offset();
    text.drain(..used);
    if text.len() > SIZE_MAX {
        text.clear();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_they_become_whole() {
        let mut text = Vec::new();
        let mut add = |more: &str| {
            text.extend(more.bytes());
            sizes(&mut text).into_iter().map(|s| (s.width, s.height)).collect::<Vec<_>>()
        };
        assert_eq!(add("{\"Width\":80,"), []);
        assert_eq!(add("\"Height\":24}\n{\"Width\":1,\"Height\":2}\n{"), [(80, 24), (1, 2)]);
        assert_eq!(add("\"Width\":3,\"Height\":4}"), [(3, 4)]);
    }

    #[test]
    fn a_stream_is_made_once_and_only_if_it_is_wanted() {
        let mut made = Made::default();
        let wanted = [channels::ERROR, channels::STDOUT];
        let mut take = |stream, kind: &str| {
            let headers = vec![("Streamtype".to_owned(), kind.to_owned())];
            matches!(made.take(stream, &headers, &wanted), Frame::SynReply { .. })
        };
        assert_eq!(
            [take(1, "error"), take(3, "stdin"), take(5, "stdout"), take(7, "stdout"), take(9, "x")],
            [true, false, true, false, false]
        );
        assert!(made.has_all(&wanted));
        assert_eq!((made.stream(channels::STDOUT), made.channel(1)), (Some(5), Some(channels::ERROR)));
    }
}
