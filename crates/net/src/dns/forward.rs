//! Questions about other names, handed to the node's own resolvers, with a small memory.

use hickory_proto::op::{Edns, Message, Query};
use hickory_proto::rr::{RData, RecordType};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(2);
const ROUNDS: usize = 2;
/// The longest that an answer is remembered, and how many are.
const MEMORY: u32 = 30;
const REMEMBERED: usize = 1000;
const PAYLOAD: u16 = 1232;

type Question = (String, RecordType);

/// The way to the resolvers that the node uses itself.
#[derive(Debug)]
pub struct Forwarder {
    resolv_conf: PathBuf,
    /// Never asked: the cluster's own.
    except: Vec<IpAddr>,
    upstreams: Mutex<(Option<SystemTime>, Vec<SocketAddr>)>,
    memory: Mutex<HashMap<Question, (Instant, u32, Message)>>,
}

impl Forwarder {
    pub fn new(resolv_conf: PathBuf, except: Vec<IpAddr>) -> Forwarder {
        let (upstreams, memory) = Default::default();
        Forwarder { resolv_conf, except, upstreams, memory }
    }

    /// The answer of the first resolver that gives one.
    pub async fn resolve(&self, query: &Query) -> io::Result<Message> {
        let question = (query.name().to_ascii().to_lowercase(), query.query_type());
        if let Some(known) = self.remembered(&question) {
            return Ok(known);
        }
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the node has no resolver to ask");
        let upstreams = self.upstreams();
        for upstream in upstreams.iter().cycle().take(upstreams.len() * ROUNDS) {
            match timeout(PATIENCE, ask(*upstream, query)).await {
                Ok(Ok(answer)) => {
                    self.remember(question, &answer);
                    return Ok(answer);
                }
                Ok(Err(error)) => last = error,
                Err(elapsed) => last = elapsed.into(),
            }
        }
        Err(last)
    }

    /// As the file says now; it is read again when it has changed.
    fn upstreams(&self) -> Vec<SocketAddr> {
        let changed = std::fs::metadata(&self.resolv_conf).and_then(|file| file.modified()).ok();
        let mut known = self.upstreams.lock();
        if known.0 != changed || changed.is_none() {
            let text = std::fs::read_to_string(&self.resolv_conf).unwrap_or_default();
            let servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse().ok());
            let servers = servers.filter(|server| !self.except.contains(server));
            *known = (changed, servers.map(|server| SocketAddr::new(server, 53)).collect());
        }
        known.1.clone()
    }

    fn remembered(&self, question: &Question) -> Option<Message> {
        let memory = self.memory.lock();
        let (since, life, message) = memory.get(question)?;
        let age = u32::try_from(since.elapsed().as_secs()).ok().filter(|age| age < life)?;
        let mut message = message.clone();
        for record in message.answers.iter_mut().chain(&mut message.authorities).chain(&mut message.additionals) {
            record.ttl = record.ttl.saturating_sub(age);
        }
        Some(message)
    }

    fn remember(&self, question: Question, answer: &Message) {
        let life = life(answer);
        if life == 0 {
            return;
        }
        let mut memory = self.memory.lock();
        if memory.len() >= REMEMBERED {
            memory.retain(|_, (since, life, _)| since.elapsed().as_secs() < u64::from(*life));
        }
        if memory.len() < REMEMBERED {
            memory.insert(question, (Instant::now(), life, answer.clone()));
        }
    }
}

/// For how long an answer holds: its shortest record, or what the zone says of names that do not exist.
fn life(answer: &Message) -> u32 {
    use hickory_proto::op::ResponseCode::{NXDomain, NoError};
    if answer.metadata.truncation || !matches!(answer.metadata.response_code, NoError | NXDomain) {
        return 0;
    }
    let absent = answer.authorities.iter().filter_map(|record| match &record.data {
        RData::SOA(soa) => Some(soa.minimum.min(record.ttl)),
        _ => None,
    });
    answer.answers.iter().map(|record| record.ttl).min().or_else(|| absent.min()).unwrap_or(0).min(MEMORY)
}

async fn ask(upstream: SocketAddr, query: &Query) -> io::Result<Message> {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(query.clone());
    let mut edns = Edns::new();
    edns.set_max_payload(PAYLOAD);
    message.set_edns(edns);
    let bytes = message.to_vec().map_err(io::Error::other)?;
    let mut answer = over_udp(upstream, &bytes, message.metadata.id).await?;
    if answer.metadata.truncation {
        answer = over_tcp(upstream, &bytes).await?;
    }
    let same = answer.queries.first().is_some_and(|asked| {
        asked.name().to_ascii().eq_ignore_ascii_case(&query.name().to_ascii())
            && asked.query_type() == query.query_type()
    });
    if answer.metadata.id != message.metadata.id || !same {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the resolver answered another question"));
    }
    Ok(answer)
}

/// A fresh socket, so a fresh port, each time: with the number it is what a forged answer would have to guess.
async fn over_udp(upstream: SocketAddr, query: &[u8], id: u16) -> io::Result<Message> {
    let any = if upstream.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(upstream).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        match Message::from_vec(&buffer[..length]) {
            Ok(answer) if answer.metadata.id == id => return Ok(answer),
            _ => {}
        }
    }
}

async fn over_tcp(upstream: SocketAddr, query: &[u8]) -> io::Result<Message> {
    let mut stream = TcpStream::connect(upstream).await?;
    stream.write_all(&super::framed(query)).await?;
    let length = stream.read_u16().await?;
    let mut buffer = vec![0; length.into()];
    stream.read_exact(&mut buffer).await?;
    Message::from_vec(&buffer).map_err(io::Error::other)
}
