//! Cluster DNS: names of services and pods answered from the shared caches, all others by the node's resolvers.
//!
//! It listens on the service range's tenth address, which the pod network puts on the node's anchor interface, so every
//! node's pods are answered by their own node and no packet is translated.

mod answer;
mod forward;
mod index;
mod service;

pub use answer::{Reply, Zone};
pub use index::{Answer, Entry, Host, Index, Port};
pub use service::ensure_service;

use crate::slices::Slices;
use client::{Caches, Key};
use forward::Forwarder;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::RData;
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use parking_lot::RwLock;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// What a sender without EDNS can take, and what is told to one with it.
const PLAIN: usize = 512;
const PAYLOAD: u16 = 1232;
const IDLE: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
pub struct Config {
    pub zone: Zone,
    /// The port to listen on at the zone's addresses.
    pub port: u16,
    /// The node's resolvers, read again whenever it changes.
    pub resolv_conf: PathBuf,
}

/// A server whose addresses are bound. It answers once it runs.
#[derive(Debug)]
pub struct Dns {
    shared: Arc<Shared>,
    sockets: Vec<(Arc<UdpSocket>, TcpListener)>,
}

#[derive(Debug)]
struct Shared {
    zone: Zone,
    /// None until the caches are in: till then the cluster's names are unknown, not absent.
    index: RwLock<Option<Index>>,
    forwarder: Forwarder,
}

impl Dns {
    /// Binds the port at the zone's addresses.
    pub async fn bind(config: Config) -> io::Result<Dns> {
        let (addresses, port) = (config.zone.addresses.clone(), config.port);
        Dns::bind_to(config, addresses.into_iter().map(|address| SocketAddr::new(address, port)).collect()).await
    }

    /// A port that can be listened on beside a program that listens on `port` of every address of the machine, as some
    /// resolvers do: the port itself, where there is no such program.
    pub fn free_port(port: u16) -> io::Result<u16> {
        // An address of the machine's own that nobody else names: it is taken only with all others.
        const PROBE: Ipv4Addr = Ipv4Addr::new(127, 83, 119, 53);
        let udp = match std::net::UdpSocket::bind((PROBE, port)) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && port != 0 => return Dns::free_port(0),
            bound => bound?,
        };
        let chosen = udp.local_addr()?.port();
        match std::net::TcpListener::bind((PROBE, chosen)) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Dns::free_port(0),
            bound => bound.map(|_| chosen),
        }
    }

    /// Binds these addresses.
    pub async fn bind_to(config: Config, addresses: Vec<SocketAddr>) -> io::Result<Dns> {
        let taken = |address: SocketAddr| {
            move |error: io::Error| {
                io::Error::new(error.kind(), format!("cluster DNS cannot listen on {address}: {error}"))
            }
        };
        let mut sockets = Vec::new();
        for address in addresses {
            let udp = UdpSocket::bind(address).await.map_err(taken(address))?;
            let tcp = TcpListener::bind(address).await.map_err(taken(address))?;
            sockets.push((Arc::new(udp), tcp));
        }
        let forwarder = Forwarder::new(config.resolv_conf, config.zone.addresses.clone());
        let shared = Shared { zone: config.zone, index: RwLock::new(None), forwarder };
        Ok(Dns { shared: Arc::new(shared), sockets })
    }

    /// Answers from what the caches hold, until the task is dropped.
    pub async fn run(self, caches: Caches) {
        let following = follow(self.shared.clone(), caches);
        // Neither ends; where one fails, the other is of no use alone.
        tokio::select! {
            () = following => {}
            () = self.serve() => {}
        }
    }

    /// Answers from a fixed index.
    pub async fn run_with(self, index: Index) {
        *self.shared.index.write() = Some(index);
        self.serve().await;
    }

    /// Ends only when a task has failed, and ends the others with it.
    async fn serve(self) {
        let mut tasks = tokio::task::JoinSet::new();
        for (udp, tcp) in self.sockets {
            tasks.spawn(datagrams(self.shared.clone(), udp));
            tasks.spawn(connections(self.shared.clone(), tcp));
        }
        tasks.join_next().await;
    }
}

/// Keeps the index equal to what the API says.
async fn follow(shared: Arc<Shared>, caches: Caches) {
    let (services, slices) = (caches.get::<Service>(), caches.get::<EndpointSlice>());
    let namespaces = caches.get::<Namespace>();
    tokio::join!(services.synced(), slices.synced(), namespaces.synced());
    let (mut service_changes, mut slice_changes) = (services.subscribe(), slices.subscribe());
    let mut namespace_changes = namespaces.subscribe();
    let mut owners = Slices::default();
    // All that is there is taken before the first question is answered.
    let mut first = Index::default();
    while let Some(change) = namespace_changes.try_next() {
        first.set_namespace(&change.key.name, change.new.is_some());
    }
    while let Some(change) = slice_changes.try_next() {
        owners.note(&change);
    }
    let entry = |owners: &Slices, key: &Key| {
        let service = services.read(&key.namespace, &key.name)?;
        Entry::of(&service, &owners.of(key, &slices))
    };
    while let Some(change) = service_changes.try_next() {
        first.set(&change.key.namespace, &change.key.name, entry(&owners, &change.key));
    }
    *shared.index.write() = Some(first);
    loop {
        let touched = tokio::select! {
            change = service_changes.next() => vec![change.key],
            change = slice_changes.next() => owners.note(&change),
            change = namespace_changes.next() => {
                if let Some(index) = &mut *shared.index.write() {
                    index.set_namespace(&change.key.name, change.new.is_some());
                }
                continue;
            }
        };
        for key in touched {
            let entry = entry(&owners, &key);
            if let Some(index) = &mut *shared.index.write() {
                index.set(&key.namespace, &key.name, entry);
            }
        }
    }
}

async fn datagrams(shared: Arc<Shared>, socket: Arc<UdpSocket>) {
    let mut buffer = vec![0; 4096];
    loop {
        // An error is that of an earlier answer whose receiver is gone.
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else { continue };
        let Ok(query) = Message::from_vec(&buffer[..length]) else { continue };
        let limit = query.edns.as_ref().map_or(PLAIN, |edns| usize::from(edns.max_payload().clamp(512, 4096)));
        match shared.at_once(&query) {
            Step::Done(reply) => send(&socket, peer, &reply, limit).await,
            Step::Ask(partial) => {
                let (shared, socket) = (shared.clone(), socket.clone());
                tokio::spawn(async move {
                    let reply = shared.forwarded(&query, partial).await;
                    send(&socket, peer, &reply, limit).await;
                });
            }
        }
    }
}

async fn send(socket: &UdpSocket, peer: SocketAddr, reply: &Message, limit: usize) {
    let bytes = match reply.to_vec() {
        Ok(bytes) if bytes.len() <= limit => Ok(bytes),
        _ => reply.truncate().to_vec(),
    };
    if let Ok(bytes) = bytes
        && let Err(error) = socket.send_to(&bytes, peer).await
    {
        tracing::debug!(%peer, %error, "a DNS answer could not be sent");
    }
}

async fn connections(shared: Arc<Shared>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(conversation(shared.clone(), stream))),
            // Out of file descriptors, most likely: some will be closed.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn conversation(shared: Arc<Shared>, mut stream: TcpStream) -> io::Result<()> {
    loop {
        let length = tokio::time::timeout(IDLE, stream.read_u16()).await??;
        let mut buffer = vec![0; length.into()];
        tokio::time::timeout(IDLE, stream.read_exact(&mut buffer)).await??;
        let query = Message::from_vec(&buffer).map_err(io::Error::other)?;
        let reply = match shared.at_once(&query) {
            Step::Done(reply) => reply,
            Step::Ask(partial) => shared.forwarded(&query, partial).await,
        };
        stream.write_all(&framed(&reply.to_vec().map_err(io::Error::other)?)).await?;
    }
}

/// A message as TCP carries it: behind its length.
fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes()[..], message].concat()
}

/// A reply, whole or as far as the cluster knows.
enum Step {
    Done(Message),
    /// The node's resolvers must be asked for the rest.
    Ask(Message),
}

impl Shared {
    /// The reply to a question of the cluster; the reply so far where others must be asked.
    fn at_once(&self, query: &Message) -> Step {
        let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
        reply.metadata.recursion_desired = query.metadata.recursion_desired;
        reply.metadata.recursion_available = true;
        reply.add_queries(query.queries.iter().cloned());
        if query.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(PAYLOAD);
            reply.set_edns(edns);
        }
        let refuse = |mut reply: Message, code| {
            reply.metadata.response_code = code;
            Step::Done(reply)
        };
        if query.metadata.message_type != MessageType::Query || query.metadata.op_code != OpCode::Query {
            return refuse(reply, ResponseCode::NotImp);
        }
        let [question] = &query.queries[..] else { return refuse(reply, ResponseCode::FormErr) };
        let index = self.index.read();
        let found = match &*index {
            Some(index) => self.zone.reply(index, question.name(), question.query_type()),
            None => match self.zone.reply(&Index::default(), question.name(), question.query_type()) {
                Some(_) => return refuse(reply, ResponseCode::ServFail),
                None => None,
            },
        };
        let Some(mut found) = found else { return Step::Ask(reply) };
        // Clients take the first: each shall come first at times.
        let places = found.answers.len();
        if places > 1 && found.answers.iter().all(|record| record.record_type() == question.query_type()) {
            found.answers.rotate_left(usize::from(query.metadata.id) % places);
        }
        reply.metadata.response_code = found.code;
        reply.metadata.authoritative = true;
        reply.add_answers(found.answers).add_authorities(found.authorities).add_additionals(found.additionals);
        if found.follow.is_some() { Step::Ask(reply) } else { Step::Done(reply) }
    }

    /// Completes a reply with what the node's resolvers say: of the question, or of the name that the answer so far ends in.
    async fn forwarded(&self, query: &Message, mut reply: Message) -> Message {
        let Some(mut question) = query.queries.first().cloned() else { return reply };
        if let Some(RData::CNAME(target)) = reply.answers.last().map(|record| &record.data) {
            question.set_name(target.0.clone());
        }
        match self.forwarder.resolve(&question).await {
            Ok(answer) => {
                reply.metadata.response_code = answer.metadata.response_code;
                reply.add_answers(answer.answers).add_authorities(answer.authorities);
                reply.add_additionals(answer.additionals);
            }
            Err(error) => {
                tracing::debug!(name = %question.name(), %error, "a name could not be resolved");
                reply.metadata.response_code = ResponseCode::ServFail;
            }
        }
        reply
    }
}

/// The address that the zone's server has in a service range.
pub fn address(services: ipnet::IpNet) -> IpAddr {
    crate::pod::dns_address(services)
}

#[cfg(test)]
mod tests;
