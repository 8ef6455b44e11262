//! What the cluster's names mean, by the Kubernetes DNS specification 1.1.0, straight from services and their endpoints.

use crate::proxy::cluster_addresses;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

/// A port that SRV records tell.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    pub name: String,
    /// In small letters, as in names.
    pub protocol: String,
    pub number: u16,
}

/// One ready endpoint of a headless service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Host {
    /// The pod's hostname, or else its address with dashes.
    pub label: String,
    pub address: IpAddr,
    pub ports: Vec<Port>,
}

/// What one service's name means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// One address each family, and its ports.
    Cluster(Vec<IpAddr>, Vec<Port>),
    Headless(BTreeSet<Host>),
    /// Another name, without the closing dot.
    External(String),
}

impl Entry {
    /// The entry of a service; none while it has no address yet.
    pub fn of(service: &Service, slices: &[EndpointSlice]) -> Option<Entry> {
        let spec = service.spec.as_ref()?;
        if spec.type_.as_deref() == Some("ExternalName") {
            return spec
                .external_name
                .as_deref()
                .map(|name| Entry::External(name.trim_end_matches('.').to_lowercase()));
        }
        if spec.cluster_ip.as_deref() == Some("None") {
            return Some(Entry::Headless(slices.iter().flat_map(hosts).collect()));
        }
        let addresses: Vec<IpAddr> = cluster_addresses(spec).collect();
        let ports = spec.ports.iter().flatten();
        let ports = ports.map(|found| port(found.name.as_deref(), found.protocol.as_deref(), found.port));
        (!addresses.is_empty()).then(|| Entry::Cluster(addresses, ports.collect()))
    }

    /// Each address that leads back to this service, with the label that stands before its name.
    fn reverse(&self) -> Vec<(IpAddr, Option<&str>)> {
        match self {
            Entry::Cluster(addresses, _) => addresses.iter().map(|address| (*address, None)).collect(),
            Entry::Headless(hosts) => hosts.iter().map(|host| (host.address, Some(host.label.as_str()))).collect(),
            Entry::External(_) => Vec::new(),
        }
    }
}

fn hosts(slice: &EndpointSlice) -> Vec<Host> {
    let ports = slice.ports.iter().flatten();
    let numbered = ports.filter_map(|found| Some((found, found.port?)));
    let ports: Vec<Port> =
        numbered.map(|(found, number)| port(found.name.as_deref(), found.protocol.as_deref(), number)).collect();
    let endpoints = slice.endpoints.iter().flatten();
    let ready = endpoints.filter(|endpoint| endpoint.conditions.as_ref().and_then(|all| all.ready).unwrap_or(true));
    let named = ready.flat_map(|endpoint| {
        let addresses = endpoint.addresses.iter().filter_map(|address| address.parse::<IpAddr>().ok());
        addresses.map(|address| (endpoint.hostname.clone().unwrap_or_else(|| dashed(address)), address))
    });
    named.map(|(label, address)| Host { label, address, ports: ports.clone() }).collect()
}

fn port(name: Option<&str>, protocol: Option<&str>, number: i32) -> Port {
    Port {
        name: name.unwrap_or_default().to_lowercase(),
        protocol: protocol.unwrap_or("TCP").to_lowercase(),
        number: number as u16,
    }
}

fn dashed(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

fn undashed(label: &str) -> Option<IpAddr> {
    label.replace('-', ".").parse().or_else(|_| label.replace('-', ":").parse()).ok()
}

/// What a name leads to; owner names other than the one asked for are relative to the cluster's domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// No such name.
    Nothing,
    /// The name exists; the records are those of any type that it has.
    Addresses(Vec<IpAddr>),
    /// Port and target, with the targets' addresses.
    Services(Vec<(u16, String)>, Vec<(String, IpAddr)>),
    /// Addresses of the name, and its SRV records.
    Both(Vec<IpAddr>, Vec<(u16, String)>, Vec<(String, IpAddr)>),
    Alias(String),
    Text(&'static str),
}

/// All services of the cluster, by what they are asked for.
#[derive(Debug, Default)]
pub struct Index {
    namespaces: BTreeSet<String>,
    /// By namespace and name.
    entries: HashMap<String, BTreeMap<String, Entry>>,
    /// Names relative to the cluster's domain.
    reverse: HashMap<IpAddr, BTreeSet<String>>,
}

impl Index {
    pub fn set_namespace(&mut self, name: &str, present: bool) {
        match present {
            true => self.namespaces.insert(name.to_owned()),
            false => self.namespaces.remove(name),
        };
    }

    pub fn set(&mut self, namespace: &str, name: &str, entry: Option<Entry>) {
        let of_namespace = self.entries.entry(namespace.to_owned()).or_default();
        let old = match &entry {
            Some(entry) => of_namespace.insert(name.to_owned(), entry.clone()),
            None => of_namespace.remove(name),
        };
        if of_namespace.is_empty() {
            self.entries.remove(namespace);
        }
        for (address, label) in old.iter().flat_map(Entry::reverse) {
            if let Some(names) = self.reverse.get_mut(&address) {
                names.remove(&full(label, name, namespace));
                if names.is_empty() {
                    self.reverse.remove(&address);
                }
            }
        }
        for (address, label) in entry.iter().flat_map(Entry::reverse) {
            self.reverse.entry(address).or_default().insert(full(label, name, namespace));
        }
    }

    /// The names of an address, relative to the cluster's domain.
    pub fn names(&self, address: IpAddr) -> Vec<String> {
        self.reverse.get(&address).into_iter().flatten().cloned().collect()
    }

    /// What the labels before the cluster's domain mean; all in small letters.
    pub fn lookup(&self, labels: &[&str], server: &[IpAddr]) -> Answer {
        let exists = |yes: bool| if yes { Answer::Addresses(Vec::new()) } else { Answer::Nothing };
        match labels {
            [] | ["svc" | "pod" | "dns"] => exists(true),
            ["ns", "dns"] => Answer::Addresses(server.to_vec()),
            ["dns-version"] => Answer::Text("1.1.0"),
            [namespace, "svc" | "pod"] => exists(self.namespaces.contains(*namespace)),
            [pod, namespace, "pod"] => match undashed(pod).filter(|_| self.namespaces.contains(*namespace)) {
                Some(address) => Answer::Addresses(vec![address]),
                None => Answer::Nothing,
            },
            [before @ .., service, namespace, "svc"] => {
                match self.entries.get(*namespace).and_then(|entries| entries.get(*service)) {
                    Some(entry) => within(entry, before, &full(None, service, namespace)),
                    None => Answer::Nothing,
                }
            }
            _ => Answer::Nothing,
        }
    }
}

fn full(label: Option<&str>, service: &str, namespace: &str) -> String {
    match label {
        Some(label) => format!("{label}.{service}.{namespace}.svc"),
        None => format!("{service}.{namespace}.svc"),
    }
}

/// What stands before a service's name.
fn within(entry: &Entry, before: &[&str], name: &str) -> Answer {
    let services = |port: Option<&str>, protocol: Option<&str>| {
        let asked = |found: &Port| {
            port.is_none_or(|port| !port.is_empty() && port == found.name)
                && protocol.is_none_or(|p| p == found.protocol)
        };
        let mut srv = BTreeSet::new();
        let mut targets = BTreeSet::new();
        let mut add = |ports: &[Port], target: &str, addresses: &[IpAddr]| {
            for found in ports.iter().filter(|found| asked(found)) {
                srv.insert((found.number, target.to_owned()));
                targets.extend(addresses.iter().map(|address| (target.to_owned(), *address)));
            }
        };
        match entry {
            Entry::Cluster(addresses, ports) => add(ports, name, addresses),
            Entry::Headless(hosts) => {
                hosts.iter().for_each(|host| add(&host.ports, &format!("{}.{name}", host.label), &[host.address]));
            }
            Entry::External(_) => {}
        }
        (srv.into_iter().collect::<Vec<_>>(), targets.into_iter().collect::<Vec<_>>())
    };
    match (entry, before) {
        (Entry::External(target), []) => Answer::Alias(target.clone()),
        (Entry::External(_), _) => Answer::Nothing,
        (_, []) => {
            let addresses = match entry {
                Entry::Headless(hosts) => {
                    hosts.iter().map(|host| host.address).collect::<BTreeSet<_>>().into_iter().collect()
                }
                Entry::Cluster(addresses, _) => addresses.clone(),
                Entry::External(_) => Vec::new(),
            };
            // A headless service without ready endpoints has no name, as with CoreDNS.
            if addresses.is_empty() {
                return Answer::Nothing;
            }
            let (srv, targets) = services(None, None);
            Answer::Both(addresses, srv, targets)
        }
        (_, [protocol]) if protocol.starts_with('_') => match services(None, Some(&protocol[1..])).0.is_empty() {
            true => Answer::Nothing,
            false => Answer::Addresses(Vec::new()),
        },
        (_, [port, protocol]) if port.starts_with('_') && protocol.starts_with('_') => {
            let (srv, targets) = services(Some(&port[1..]), Some(&protocol[1..]));
            if srv.is_empty() { Answer::Nothing } else { Answer::Services(srv, targets) }
        }
        (Entry::Headless(hosts), [label]) => {
            let own: Vec<_> = hosts.iter().filter(|host| host.label == *label).map(|host| host.address).collect();
            if own.is_empty() { Answer::Nothing } else { Answer::Addresses(own) }
        }
        _ => Answer::Nothing,
    }
}

/// Whether an address is of a range whose names only the cluster knows.
pub fn ours(ranges: &[IpNet], address: IpAddr) -> bool {
    ranges.iter().any(|range| range.contains(&address))
}
