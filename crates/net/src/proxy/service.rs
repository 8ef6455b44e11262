//! One Service and its EndpointSlices as chains, sets and elements of the node's table: a pure function.
//!
//! For each port and address family there is a chain `service…` that picks one endpoint, `local…` that picks one of this
//! node, and `external…` for what comes to node ports, external addresses and load balancers. What has no endpoint is
//! put into the maps of `unserved`.

use super::Node;
use super::endpoints::{Endpoints, choose};
use crate::nft::{Chain, Data, Family, Field, Kind, Rule, Set, Type, Verdict, key};
use crate::pod::Protocol;
use crate::pod::base::{self, MASQUERADE, REJECT};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

/// What one service adds to the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fragment {
    pub chains: BTreeMap<String, Chain>,
    pub sets: BTreeMap<String, Set>,
    /// Elements of the table's standing sets.
    pub elements: Vec<(String, Vec<u8>, Data)>,
    /// Where UDP packets go, by which stale connection tracking entries are known.
    pub datagrams: Vec<Datagrams>,
}

/// A UDP port of a service and the endpoints behind it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Datagrams {
    /// None for a node port, which is on every address of the node.
    pub address: Option<IpAddr>,
    pub port: u16,
    pub endpoints: Vec<SocketAddr>,
}

/// The fragment of a service; empty for headless ones, ExternalName and those that another proxy serves.
pub fn compile(service: &Service, slices: &[EndpointSlice], node: &Node) -> Fragment {
    let mut fragment = Fragment::default();
    let Some(spec) = service.spec.as_ref().filter(|_| serves(service)) else { return fragment };
    for family in Family::ALL {
        let addresses: Vec<IpAddr> = cluster_addresses(spec).filter(|address| Family::of(*address) == family).collect();
        if addresses.is_empty() || addresses.iter().any(|address| node.served.contains(address)) {
            continue;
        }
        for port in spec.ports.iter().flatten() {
            let Some(protocol) = Protocol::named(port.protocol.as_deref()) else { continue };
            let name = port.name.as_deref().unwrap_or_default();
            let endpoints = choose(slices, name, port.protocol.as_deref().unwrap_or("TCP"), family, node);
            let metadata = &service.metadata;
            let label = format!(
                "{}/{}/{}/{protocol:?}/{}",
                family.suffix(),
                metadata.namespace.as_deref().unwrap_or_default(),
                metadata.name.as_deref().unwrap_or_default(),
                port.port,
            );
            let builder =
                Builder { fragment: &mut fragment, service, spec, port, protocol, family, node, endpoints, label };
            builder.build(&addresses);
        }
    }
    fragment
}

fn serves(service: &Service) -> bool {
    let labels = service.metadata.labels.as_ref();
    let foreign = labels.is_some_and(|labels| labels.contains_key("service.kubernetes.io/service-proxy-name"));
    let named = service.spec.as_ref().is_some_and(|spec| spec.type_.as_deref() == Some("ExternalName"));
    !foreign && !named
}

/// The cluster addresses; `None` of a headless service is no address.
pub fn cluster_addresses(spec: &ServiceSpec) -> impl Iterator<Item = IpAddr> {
    let all = spec.cluster_ips.as_deref().filter(|all| !all.is_empty());
    all.unwrap_or(spec.cluster_ip.as_slice()).iter().filter_map(|address| address.parse().ok())
}

struct Builder<'a> {
    fragment: &'a mut Fragment,
    service: &'a Service,
    spec: &'a ServiceSpec,
    port: &'a ServicePort,
    protocol: Protocol,
    family: Family,
    node: &'a Node,
    endpoints: Endpoints,
    label: String,
}

impl Builder<'_> {
    fn build(mut self, addresses: &[IpAddr]) {
        let (cluster, local) = (self.endpoints.cluster.clone(), self.endpoints.local.clone());
        let off_cluster = self.off_cluster();
        let service = self.balance("service", off_cluster.clone(), &cluster);
        let wants_local = |policy: &Option<String>| policy.as_deref() == Some("Local");
        let (internal_local, external_local) =
            (wants_local(&self.spec.internal_traffic_policy), wants_local(&self.spec.external_traffic_policy));
        let local_chain = if internal_local || external_local { self.balance("local", vec![], &local) } else { None };
        let internal = match (&local_chain, internal_local) {
            (Some(chain), true) => {
                let rules = off_cluster.into_iter().chain([Rule::default().verdict(&goto(chain))]);
                Some(self.chain("internal", rules.collect()))
            }
            (None, true) => None,
            _ => service.clone(),
        };
        for address in addresses {
            self.address(*address, &internal);
        }
        if internal_local {
            addresses.iter().for_each(|address| self.datagrams(Some(*address), self.port.port, &local));
        } else {
            addresses.iter().for_each(|address| self.datagrams(Some(*address), self.port.port, &cluster));
        }
        self.external(&service, external_local.then_some(&local_chain));
        for endpoint in cluster.iter().chain(&local).map(SocketAddr::ip).collect::<BTreeSet<_>>() {
            if self.node.pods.iter().any(|range| range.contains(&endpoint)) {
                self.element("hairpins", key::pair(endpoint, endpoint), Data::Member);
            }
        }
    }

    /// What comes from outside to node ports, external addresses and load balancers.
    fn external(&mut self, service: &Option<String>, local: Option<&Option<String>>) {
        let node_port = self.port.node_port.filter(|port| *port != 0);
        let of_family = |address: &String| address.parse().ok().filter(|address| Family::of(*address) == self.family);
        let addresses: Vec<IpAddr> = self.spec.external_ips.iter().flatten().filter_map(of_family).collect();
        let status = self.service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        let ingress = status.into_iter().flat_map(|status| status.ingress.iter().flatten());
        let ours = ingress.filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"));
        let balancers: Vec<IpAddr> = ours.filter_map(|ingress| ingress.ip.as_ref().and_then(of_family)).collect();
        if node_port.is_none() && addresses.is_empty() && balancers.is_empty() {
            return;
        }
        let chain = self.external_chain(service, local);
        let unserved = match local {
            Some(None) if chain.is_some() => Some(Verdict::Drop),
            _ if chain.is_none() => Some(goto(REJECT)),
            _ => None,
        };
        let proto = self.protocol.number();
        if let Some(port) = node_port {
            let key = key::proto_port(proto, port as u16);
            self.reach("service-node-ports", "unserved-node-ports", key, &chain, &unserved);
            let endpoints = self.endpoints.cluster.iter().chain(&self.endpoints.local).copied().collect::<Vec<_>>();
            self.datagrams(None, port, &endpoints);
        }
        let firewall = chain.as_ref().and_then(|chain| self.firewall(chain)).or(chain.clone());
        let both = addresses
            .iter()
            .map(|address| (address, &chain))
            .chain(balancers.iter().map(|address| (address, &firewall)));
        for (address, chain) in both {
            let key = key::proto_address_port(proto, *address, self.port.port as u16);
            self.reach("service-addresses", "unserved-addresses", key, chain, &unserved);
            let endpoints = self.endpoints.cluster.iter().chain(&self.endpoints.local).copied().collect::<Vec<_>>();
            self.datagrams(Some(*address), self.port.port, &endpoints);
        }
    }

    /// With the policy Cluster the client's address is hidden, so that answers come back through this node. With Local it is
    /// kept, but clients of the cluster itself still reach every endpoint.
    fn external_chain(&mut self, service: &Option<String>, local: Option<&Option<String>>) -> Option<String> {
        let mut rules = Vec::new();
        if let Some(service) = service {
            match local {
                None => rules.push(Rule::default().set_mark(MASQUERADE).verdict(&goto(service))),
                Some(_) => {
                    let family = self.family;
                    let ours = self.node.pods.iter().filter(|range| Family::of(range.addr()) == family);
                    rules.extend(ours.map(|range| {
                        Rule::family(family).within(Field::Saddr(family), *range, true).verdict(&goto(service))
                    }));
                    rules.push(Rule::default().from_local().set_mark(MASQUERADE).verdict(&goto(service)));
                }
            }
        }
        if let Some(Some(local)) = local {
            rules.push(Rule::default().verdict(&goto(local)));
        }
        (!rules.is_empty()).then(|| self.chain("external", rules))
    }

    /// Only the allowed sources reach a load balancer's address.
    fn firewall(&mut self, external: &str) -> Option<String> {
        let family = self.family;
        let ranges = self.spec.load_balancer_source_ranges.as_deref().filter(|ranges| !ranges.is_empty())?;
        let parsed = ranges.iter().filter_map(|range| range.trim().parse::<IpNet>().ok());
        let allowed = parsed.filter(|range| Family::of(range.addr()) == family);
        let allow = |range| Rule::family(family).within(Field::Saddr(family), range, true).verdict(&goto(external));
        let rules = allowed.map(allow).chain([Rule::default().verdict(&Verdict::Drop)]).collect();
        Some(self.chain("firewall", rules))
    }

    /// A client that is no pod and no node of the cluster must get its answers through this node.
    fn off_cluster(&self) -> Vec<Rule> {
        let family = self.family;
        let mut rule = Rule::family(family);
        let mut ranges = self.node.cluster.iter().filter(|range| Family::of(range.addr()) == family).peekable();
        if ranges.peek().is_none() {
            return Vec::new();
        }
        for range in ranges {
            rule = rule.within(Field::Saddr(family), *range, false);
        }
        vec![rule.set_mark(MASQUERADE)]
    }

    /// The chain that picks one of the endpoints; none where there are none.
    fn balance(&mut self, role: &str, mut rules: Vec<Rule>, endpoints: &[SocketAddr]) -> Option<String> {
        let family = self.family;
        match endpoints {
            [] => return None,
            [only] => rules.push(Rule::family(family).dnat_to(only.ip(), only.port())),
            _ => {
                let count = endpoints.len() as u32;
                let to = vec![Type::Address(family), Type::Port];
                let numbered = (0..).map(key::index).zip(endpoints.iter().map(|endpoint| Data::Value(value(endpoint))));
                let map = self.set(&format!("{role}-endpoints"), vec![Type::Index], Kind::Values(to.clone()), numbered);
                if let Some(timeout) = self.affinity() {
                    let members = endpoints.iter().map(|endpoint| (value(endpoint), Data::Member));
                    let alive = self.set(&format!("{role}-alive"), to.clone(), Kind::Set, members);
                    let learned = Kind::Learned(to, timeout);
                    let affinity = self.set(&format!("{role}-affinity"), vec![Type::Address(family)], learned, []);
                    rules.extend([
                        Rule::family(family).dnat_by_affinity(family, &affinity, &alive, timeout),
                        Rule::family(family).forget_affinity(family, &affinity),
                        Rule::family(family).dnat_with_affinity(family, count, &map, &affinity, timeout),
                    ]);
                } else {
                    rules.push(Rule::family(family).dnat_to_any(family, count, &map));
                }
            }
        }
        Some(self.chain(role, rules))
    }

    /// The time for which a client is sent to the same endpoint, in milliseconds.
    fn affinity(&self) -> Option<u64> {
        let on = self.spec.session_affinity.as_deref() == Some("ClientIP");
        let config = self.spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
        let seconds = config.and_then(|config| config.timeout_seconds).unwrap_or(10_800);
        on.then_some(seconds.max(1) as u64 * 1000)
    }

    fn address(&mut self, address: IpAddr, chain: &Option<String>) {
        let key = key::proto_address_port(self.protocol.number(), address, self.port.port as u16);
        // Endpoints that are only elsewhere may come to be here; the client shall try again.
        let unserved = if self.endpoints.any() { Verdict::Drop } else { goto(REJECT) };
        let unserved = chain.is_none().then_some(unserved);
        self.reach("service-addresses", "unserved-addresses", key, chain, &unserved);
    }

    fn reach(
        &mut self,
        served: &str,
        unserved: &str,
        key: Vec<u8>,
        chain: &Option<String>,
        otherwise: &Option<Verdict>,
    ) {
        if let Some(chain) = chain {
            self.element(served, key.clone(), Data::Verdict(goto(chain)));
        }
        if let Some(verdict) = otherwise {
            self.element(unserved, key, Data::Verdict(verdict.clone()));
        }
    }

    fn datagrams(&mut self, address: Option<IpAddr>, port: i32, endpoints: &[SocketAddr]) {
        if self.protocol == Protocol::Udp {
            self.fragment.datagrams.push(Datagrams { address, port: port as u16, endpoints: endpoints.to_vec() });
        }
    }

    fn chain(&mut self, role: &str, rules: Vec<Rule>) -> String {
        let name = format!("{role}{}", self.label);
        self.fragment.chains.insert(name.clone(), Chain::of(rules));
        name
    }

    fn set(
        &mut self,
        role: &str,
        key: Vec<Type>,
        kind: Kind,
        elements: impl IntoIterator<Item = (Vec<u8>, Data)>,
    ) -> String {
        let name = format!("{role}{}", self.label);
        self.fragment
            .sets
            .insert(name.clone(), Set { elements: elements.into_iter().collect(), ..Set::new(key, kind) });
        name
    }

    fn element(&mut self, set: &str, key: Vec<u8>, data: Data) {
        self.fragment.elements.push((base::set(set, self.family), key, data));
    }
}

fn goto(chain: &str) -> Verdict {
    Verdict::Goto(chain.to_owned())
}

fn value(endpoint: &SocketAddr) -> Vec<u8> {
    key::address_port(endpoint.ip(), endpoint.port())
}
