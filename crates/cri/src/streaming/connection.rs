//! One connection to a runtime's streaming server, upgraded to SPDY/3.1.

use std::io;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use kubelet::spdy::{Frame, Headers, Reader, Writer};
use runtime::cri::{Code, CriError, Result};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// Frames on their way in either direction.
const BACKLOG: usize = 16;

/// Something for the other side.
pub enum Outgoing {
    Stream(u32, Headers),
    /// Data of a stream, and whether they are its last.
    Data(u32, Vec<u8>, bool),
    Pong(u32),
}

/// Data of a stream, and whether they are its last.
pub struct Incoming {
    pub stream: u32,
    pub data: Vec<u8>,
    pub end: bool,
}

/// The connection lasts for as long as somebody holds a sender of [`Connection::outgoing`].
pub struct Connection {
    outgoing: mpsc::Sender<Outgoing>,
    next: u32,
}

impl Connection {
    /// Makes a stream with these headers and gives its number.
    pub fn stream(&mut self, headers: &[(&str, &str)]) -> u32 {
        let id = self.next;
        self.next += 2;
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        // There are fewer streams than the queue is long; where the connection is gone, reading tells so.
        let _ = self.outgoing.try_send(Outgoing::Stream(id, headers));
        id
    }

    pub fn outgoing(self) -> mpsc::Sender<Outgoing> {
        self.outgoing
    }
}

fn failed(url: &str, error: impl std::fmt::Display) -> CriError {
    CriError::new(Code::Unavailable, format!("cannot reach the container runtime's streams at {url}: {error}"))
}

/// Connects, and agrees on a protocol of streams.
pub async fn open(url: &str, protocol: &'static str) -> Result<(Connection, mpsc::Receiver<Incoming>)> {
    let uri: Uri = url.parse().map_err(|error| failed(url, error))?;
    let (Some("http"), Some(host)) = (uri.scheme_str(), uri.authority()) else {
        return Err(failed(url, "only http is spoken on a node"));
    };
    let address = if host.port().is_some() { host.to_string() } else { format!("{host}:80") };
    let stream = TcpStream::connect(&address).await.map_err(|error| failed(url, error))?;
    let _ = stream.set_nodelay(true);
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
    let (mut sender, driver) = handshake.await.map_err(|error| failed(url, error))?;
    tokio::spawn(driver.with_upgrades());
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = path.parse().map_err(|error| failed(url, error))?;
    let host = HeaderValue::from_str(host.as_str()).map_err(|error| failed(url, error))?;
    for (name, value) in [
        (header::HOST, host),
        (header::CONNECTION, HeaderValue::from_static("Upgrade")),
        (header::UPGRADE, HeaderValue::from_static("SPDY/3.1")),
        (header::HeaderName::from_static("x-stream-protocol-version"), HeaderValue::from_static(protocol)),
    ] {
        request.headers_mut().insert(name, value);
    }
    let response = sender.send_request(request).await.map_err(|error| failed(url, error))?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let status = response.status();
        let body = response.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        return Err(failed(url, format!("{status}: {}", String::from_utf8_lossy(&body).trim())));
    }
    let upgraded = hyper::upgrade::on(response).await.map_err(|error| failed(url, error))?;
    let (read, mut write) = tokio::io::split(TokioIo::new(upgraded));
    let (mut reader, mut writer) = (Reader::new(read), Writer::new()?);
    let (outgoing, mut leaving) = mpsc::channel(BACKLOG);
    let (arrive, arriving) = mpsc::channel(BACKLOG);
    // Held weakly: answering pings alone does not keep the connection.
    let pongs = outgoing.downgrade();
    tokio::spawn(async move {
        loop {
            let incoming = match reader.next().await {
                Ok(Some(Frame::Data { stream, fin, data })) => Incoming { stream, data, end: fin },
                Ok(Some(Frame::Reset { stream, .. })) => Incoming { stream, data: Vec::new(), end: true },
                Ok(Some(Frame::Ping(id))) => {
                    if let (0, Some(pongs)) = (id % 2, pongs.upgrade()) {
                        let _ = pongs.send(Outgoing::Pong(id)).await;
                    }
                    continue;
                }
                Ok(Some(Frame::GoAway) | None) | Err(_) => return,
                Ok(Some(_)) => continue,
            };
            if arrive.send(incoming).await.is_err() {
                return;
            }
        }
    });
    tokio::spawn(async move {
        let sent: io::Result<()> = async {
            while let Some(item) = leaving.recv().await {
                let frame = match item {
                    Outgoing::Stream(stream, headers) => Frame::SynStream { stream, fin: false, headers },
                    Outgoing::Data(stream, data, fin) => Frame::Data { stream, fin, data },
                    Outgoing::Pong(id) => Frame::Ping(id),
                };
                write.write_all(&writer.encode(&frame)?).await?;
                write.flush().await?;
            }
            write.write_all(&writer.encode(&Frame::GoAway)?).await?;
            write.shutdown().await
        }
        .await;
        if let Err(error) = sent {
            tracing::debug!(%error, "a connection to the container runtime's streams broke");
        }
    });
    Ok((Connection { outgoing, next: 1 }, arriving))
}
