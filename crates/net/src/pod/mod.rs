//! The network of a node's pods: an address for each, a way between them, and the doors that stay closed.
//!
//! Each pod's `eth0` is one end of a veth pair; the node routes the pod's single address to the other end and is the pod's
//! gateway. So every packet of a pod passes the node's routing and rules, also between two pods of one node: services,
//! their answers and policies need no bridge filtering, and as both neighbours are fixed entries nobody asks for addresses.
//! The anchor, a bridge without ports, carries the gateway's and the DNS address and is where the routes of the pod and
//! service ranges end: what is routed there is for an address that nobody serves, and is rejected (see [`base`]).

mod attach;
pub mod base;
pub mod foreign;
pub mod forwarding;
pub mod ipam;
mod link;
pub mod probe;

pub use base::{Ranges, Served};

use crate::netlink::{Failure, Socket};
use crate::nft::{self, Family, Nft, key};
use ipam::{Ipam, Record};
use ipnet::IpNet;
use link::Mac;
use nix::errno::Errno;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Addresses(#[from] ipam::Error),
    #[error(transparent)]
    Nft(#[from] nft::Error),
    #[error("{what}: {source}")]
    Netlink { what: &'static str, source: Failure },
    #[error("network namespace {path}: {source}")]
    Namespace { path: PathBuf, source: io::Error },
    #[error("{path} is not {wanted} and cannot be set: {source}")]
    Sysctl { path: &'static str, wanted: &'static str, source: io::Error },
    #[error("the host port {port} is taken by pod {holder}")]
    HostPortTaken { port: u16, holder: String },
    #[error("the route to {range} is another program's, on interface {interface:?}")]
    RouteTaken { range: IpNet, interface: String },
    #[error("the pod range {range} leaves no address for pods")]
    Range { range: IpNet },
}

/// What a node's network is made of.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster's id: letters and digits, six or more, made from the data directory.
    pub id: String,
    /// Where the records are kept; only this network's.
    pub directory: PathBuf,
    /// Where the cluster keeps what ends with the machine's run; below a directory of all clusters.
    pub run: PathBuf,
    pub ranges: Ranges,
    /// CNI plugins attach the pods: the node has no address and no route of its own in the pods' range, which is theirs.
    pub plugins: bool,
    /// What this node itself serves of the service range.
    pub served: Served,
    pub mtu: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    pub fn number(self) -> u8 {
        (match self {
            Protocol::Tcp => libc::IPPROTO_TCP,
            Protocol::Udp => libc::IPPROTO_UDP,
            Protocol::Sctp => libc::IPPROTO_SCTP,
        }) as u8
    }

    /// As the API writes it; nothing means TCP.
    pub fn named(name: Option<&str>) -> Option<Protocol> {
        match name {
            None | Some("" | "TCP") => Some(Protocol::Tcp),
            Some("UDP") => Some(Protocol::Udp),
            Some("SCTP") => Some(Protocol::Sctp),
            Some(_) => None,
        }
    }
}

/// A port of the node that leads to a port of the pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    pub protocol: Protocol,
    pub container_port: u16,
    pub host_port: u16,
    /// Only on this address of the node; on all where there is none.
    pub host_ip: Option<IpAddr>,
}

#[derive(Clone, Debug)]
pub struct AttachRequest {
    pub sandbox_id: String,
    pub namespace: String,
    pub name: String,
    pub netns: PathBuf,
    pub port_mappings: Vec<PortMapping>,
}

/// A node's pod network. Clones are handles to the same one.
#[derive(Clone, Debug)]
pub struct PodNetwork(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: Config,
    prefix: String,
    ipam: Mutex<Ipam>,
    nft: Nft,
}

impl PodNetwork {
    /// Brings the node's part up, adopting what an earlier life left; blocking, for some milliseconds. Everything is made in the
    /// calling thread's network namespace.
    pub fn open(config: Config) -> Result<PodNetwork, Error> {
        let small = |range: &&IpNet| range.max_prefix_len() - range.prefix_len() < 2;
        if let Some(range) = config.ranges.pods.iter().find(small) {
            return Err(Error::Range { range: *range });
        }
        let prefix = interface_prefix(&config.id);
        let ipam = Ipam::open(&config.directory, &config.ranges.pods)?;
        forwarding::enable(&config.ranges, &config.run)?;
        let mut base = base::table(&table_name(&config.id), &prefix, &prefix, &config.ranges, &config.served);
        ipam.records().for_each(|record| host_ports(&mut base, record, true));
        let nft = Nft::open(base)?;
        let network = PodNetwork(Arc::new(Inner { config, prefix, ipam: Mutex::new(ipam), nft }));
        network.anchor()?;
        Ok(network)
    }

    /// The node's table, which the proxy adds services to.
    pub fn nft(&self) -> Nft {
        self.0.nft.clone()
    }

    /// The gateway of each range: the node's own address in it, on the anchor.
    pub fn gateways(&self) -> Vec<IpAddr> {
        self.0.config.ranges.pods.iter().map(|range| ipam::at(*range, 1)).collect()
    }

    /// Gives the sandbox an address and connects its namespace. Doing it again changes nothing and answers the same.
    pub async fn attach(&self, request: AttachRequest) -> Result<Vec<IpAddr>, Error> {
        let network = self.clone();
        on_own_thread(move || network.attach_now(&request)).await
    }

    /// Disconnects the sandbox and gives its address back; nothing to do is no error.
    pub async fn detach(&self, sandbox: &str) -> Result<(), Error> {
        let (network, sandbox) = (self.clone(), sandbox.to_owned());
        on_own_thread(move || network.detach_now(&sandbox)).await
    }

    /// The sandboxes that have an address.
    pub fn attached(&self) -> Vec<String> {
        self.0.ipam.lock().records().map(|record| record.sandbox.clone()).collect()
    }

    /// Detaches every sandbox that is not in `valid`, which must name those too that are just being attached, and removes interfaces of this cluster that belong to none.
    pub async fn gc(&self, valid: HashSet<String>) -> Result<(), Error> {
        let network = self.clone();
        on_own_thread(move || network.gc_now(&valid)).await
    }

    /// Removes everything of the cluster `id` from the kernel, and its records.
    pub fn purge(id: &str, directory: &Path, run: &Path) -> Result<(), Error> {
        Nft::remove(&table_name(id))?;
        forwarding::restore(id, run)?;
        let mut socket = Socket::route().map_err(netlink("netlink"))?;
        remove_links(&mut socket, &interface_prefix(id), |_| true)?;
        match std::fs::remove_dir_all(directory) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(ipam::Error::Disk { path: directory.to_owned(), source }.into())
            }
            _ => Ok(()),
        }
    }

    /// The interface with the gateway's and the served addresses, where the closed ranges' routes end.
    fn anchor(&self) -> Result<(), Error> {
        let Inner { config, prefix, .. } = &*self.0;
        let what = "the node's interface for the cluster's addresses";
        let mut socket = Socket::route().map_err(netlink(what))?;
        socket.run(vec![link::new_bridge(prefix)]).map_err(netlink(what))?;
        let anchor = link::find(&mut socket, prefix).map_err(netlink(what))?;
        let index = anchor.ok_or(Errno::ENODEV).map_err(netlink(what))?.index;
        let gateways = if config.plugins { Vec::new() } else { self.gateways() };
        // What is sent to a node port on the loopback address must get as far as the rule that refuses it.
        let mut messages = vec![link::up(index), link::route_loopback(index)];
        messages.extend(gateways.iter().chain(&config.served.addresses).map(|address| link::address(index, *address)));
        let Ranges { pods, cluster, services } = &config.ranges;
        let pods = if config.plugins { &[][..] } else { &[&pods[..], &cluster[..]].concat() };
        let others = foreign::places(&config.id).map_err(netlink(what))?;
        for range in pods.iter().chain(services) {
            // The kernel would put ours in place of one that is as good.
            if let Some(other) = others.iter().find(|other| other.range == range.trunc() && other.priority == Some(0)) {
                return Err(Error::RouteTaken { range: other.range, interface: other.interface.clone() });
            }
            let family = Family::of(range.addr());
            let source = gateways.iter().find(|gateway| Family::of(**gateway) == family);
            if source.is_some() || config.plugins {
                messages.push(link::route(index, range.trunc(), Some(base::nowhere(family)), source.copied()));
            }
        }
        socket.run(messages).map_err(netlink(what))
    }

    fn attach_now(&self, request: &AttachRequest) -> Result<Vec<IpAddr>, Error> {
        let namespace = |source| Error::Namespace { path: request.netns.clone(), source };
        let netns = std::fs::File::open(&request.netns).map_err(namespace)?;
        let known = self.0.ipam.lock().get(&request.sandbox_id).is_some();
        let record = self.allocate(request)?;
        let wire = attach::Wire {
            link: self.link_name(&record),
            host_mac: mac(0x59, record.addresses[0]),
            pod_mac: mac(0x58, record.addresses[0]),
            addresses: record.addresses.clone(),
            gateways: self.gateways(),
            mtu: self.0.config.mtu,
        };
        let done = wire.connect(&netns).map_err(|source| Error::Netlink { what: "connecting the pod", source });
        let done = done.and_then(|()| self.publish(&record, true));
        if let Err(error) = done {
            // A new sandbox's address goes back at once, and the caller's retry begins anew; one that was attached before is
            // left as it is.
            if !known && let Err(cleanup) = self.detach_now(&request.sandbox_id) {
                tracing::warn!(sandbox = request.sandbox_id, error = %cleanup, "a failed attachment could not be undone");
            }
            return Err(error);
        }
        Ok(record.addresses)
    }

    fn allocate(&self, request: &AttachRequest) -> Result<Record, Error> {
        let mut ipam = self.0.ipam.lock();
        let ports: Vec<_> = request.port_mappings.iter().filter(|port| port.host_port != 0).cloned().collect();
        for other in ipam.records().filter(|record| record.sandbox != request.sandbox_id) {
            if let Some(port) = ports.iter().find(|port| other.ports.iter().any(|taken| collide(port, taken))) {
                let holder = format!("{}/{}", other.namespace, other.name);
                return Err(Error::HostPortTaken { port: port.host_port, holder });
            }
        }
        Ok(ipam.allocate(Record {
            version: ipam::VERSION,
            sandbox: request.sandbox_id.clone(),
            namespace: request.namespace.clone(),
            name: request.name.clone(),
            addresses: Vec::new(),
            ports,
        })?)
    }

    fn detach_now(&self, sandbox: &str) -> Result<(), Error> {
        let Some(record) = self.0.ipam.lock().get(sandbox).cloned() else { return Ok(()) };
        let what = "disconnecting the pod";
        let mut socket = Socket::route().map_err(netlink(what))?;
        socket.run(vec![link::delete(&self.link_name(&record))]).map_err(netlink(what))?;
        self.publish(&record, false)?;
        if record.ports.iter().any(|port| port.protocol == Protocol::Udp) {
            for address in &record.addresses {
                crate::proxy::forget(*address).map_err(netlink(what))?;
            }
        }
        Ok(self.0.ipam.lock().release(sandbox)?)
    }

    fn gc_now(&self, valid: &HashSet<String>) -> Result<(), Error> {
        let records: Vec<Record> = self.0.ipam.lock().records().cloned().collect();
        let (kept, gone): (Vec<_>, Vec<_>) = records.into_iter().partition(|record| valid.contains(&record.sandbox));
        for record in gone {
            self.detach_now(&record.sandbox)?;
        }
        let mut names: HashSet<String> = kept.iter().map(|record| self.link_name(record)).collect();
        names.insert(self.0.prefix.clone());
        let mut socket = Socket::route().map_err(netlink("netlink"))?;
        // Held, so that no sandbox is being attached meanwhile with an address that is not in `kept`.
        let ipam = self.0.ipam.lock();
        names.extend(ipam.records().map(|record| self.name_in(&ipam, record)));
        remove_links(&mut socket, &self.0.prefix, |name| !names.contains(name))
    }

    /// Adds a pod's host ports to the rules, or takes them out; a pod without any costs no transaction.
    fn publish(&self, record: &Record, present: bool) -> Result<(), Error> {
        if record.ports.is_empty() {
            return Ok(());
        }
        Ok(self.0.nft.change_soon(|table| host_ports(table, record, present))?)
    }

    fn link_name(&self, record: &Record) -> String {
        self.name_in(&self.0.ipam.lock(), record)
    }

    /// Unique among attached sandboxes, as the address is.
    fn name_in(&self, ipam: &Ipam, record: &Record) -> String {
        format!(
            "{}{:x}",
            self.0.prefix,
            record.addresses.first().and_then(|address| ipam.offset(*address)).unwrap_or(0)
        )
    }
}

/// The node's address for cluster DNS: the tenth of the service range.
pub fn dns_address(services: IpNet) -> IpAddr {
    ipam::at(services, 10)
}

/// The name of a cluster's table.
pub fn table_name(id: &str) -> String {
    format!("regatta-{id}")
}

/// What the names of a cluster's interfaces begin with; the anchor's is just this.
pub fn interface_prefix(id: &str) -> String {
    format!("rg{}", id.chars().filter(char::is_ascii_alphanumeric).take(6).collect::<String>())
}

fn netlink<E: Into<Failure>>(what: &'static str) -> impl FnOnce(E) -> Error {
    move |source| Error::Netlink { what, source: source.into() }
}

/// A hardware address made from an IP address, so that both ends know each other's without asking.
fn mac(side: u8, address: IpAddr) -> Mac {
    let bytes = nft::octets(address);
    let tail = &bytes[bytes.len() - 4..];
    [0x0a, side, tail[0], tail[1], tail[2], tail[3]]
}

fn collide(one: &PortMapping, other: &PortMapping) -> bool {
    let specific = |mapping: &PortMapping| mapping.host_ip.filter(|address| !address.is_unspecified());
    let overlap = match (specific(one), specific(other)) {
        (Some(one), Some(other)) => one == other,
        _ => true,
    };
    overlap && one.protocol == other.protocol && one.host_port == other.host_port
}

fn host_ports(table: &mut nft::Table, record: &Record, present: bool) {
    let mut put = |set: &str, family, key: Vec<u8>, data: nft::Data| {
        let Some(set) = table.sets.get_mut(&base::set(set, family)) else { return };
        match present {
            true => set.elements.insert(key, data),
            false => set.elements.remove(&key),
        };
    };
    for address in record.addresses.iter().copied().filter(|_| !record.ports.is_empty()) {
        let family = Family::of(address);
        put("host-port-hairpins", family, key::pair(address, address), nft::Data::Member);
        for port in &record.ports {
            let number = port.protocol.number();
            let to = nft::Data::Value(key::address_port(address, port.container_port));
            match port.host_ip.filter(|host| !host.is_unspecified()) {
                None => put("host-ports-any", family, key::proto_port(number, port.host_port), to),
                Some(host) if Family::of(host) == family => {
                    put("host-ports", family, key::proto_address_port(number, host, port.host_port), to);
                }
                Some(_) => {}
            }
        }
    }
}

fn remove_links(socket: &mut Socket, prefix: &str, gone: impl Fn(&str) -> bool) -> Result<(), Error> {
    let what = "removing interfaces";
    let links = link::list(socket).map_err(netlink(what))?;
    let ours = links.into_iter().map(|link| link.name).filter(|name| name.starts_with(prefix) && gone(name));
    socket.run(ours.map(|name| link::delete(&name)).collect()).map_err(netlink(what))
}

/// Runs `work` on a thread of its own, which may enter another namespace and is then gone.
async fn on_own_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let (answer, answered) = tokio::sync::oneshot::channel();
    let spawned = std::thread::Builder::new().name("net-attach".into()).spawn(move || answer.send(work()).is_ok());
    let refused = |source| Error::Namespace { path: "/proc/thread-self/ns/net".into(), source };
    spawned.map_err(refused)?;
    answered.await.map_err(|_| refused(io::Error::other("the thread that worked on it has ended early")))?
}
