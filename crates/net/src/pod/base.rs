//! The table's rules that stand for as long as the node does; what changes with pods and services are its sets.
//!
//! A packet's way: `services` translates what is for a service or a host port (before routing, and for the node's own
//! connections in the output hook); `forward`, `output` and `input` reject what nobody serves; `masquerade` hides what must
//! come back through this node. The routes of the pod and service ranges end at the anchor interface, which leads
//! nowhere, so whatever is about to leave by it is for an address that nobody serves, and without the rules it still goes nowhere.

use crate::nft::{Chain, Data, Family, Field, Hook, Kind, Rule, Set, Table, Type, Verdict, key};
use ipnet::IpNet;
use std::net::IpAddr;

/// The mark of packets whose source is to be hidden behind this node; the bit that kube-proxy uses.
pub const MASQUERADE: u32 = 0x4000;
/// The chain that tells the sender at once that nobody is there.
pub const REJECT: &str = "reject";

const NAT_DST: i32 = -100;
const NAT_SRC: i32 = 100;
const RAW: i32 = -300;
const FILTER: i32 = 0;

/// What the rules depend on.
#[derive(Clone, Debug)]
pub struct Ranges {
    /// The addresses of this node's pods.
    pub pods: Vec<IpNet>,
    /// The addresses of all pods of the cluster.
    pub cluster: Vec<IpNet>,
    pub services: Vec<IpNet>,
}

/// What the node itself serves within the service range: the cluster's DNS.
#[derive(Clone, Debug)]
pub struct Served {
    pub addresses: Vec<IpAddr>,
    /// The port that it listens on; clients ask [`DNS`], and are led there.
    pub port: u16,
}

/// The port at which clients ask for names.
pub const DNS: u16 = 53;

/// The gateway through which the routes of the pod and service ranges lead to the anchor, by which the rules know them: an address
/// that is set aside for being nobody's (RFC 7600, RFC 6666).
pub fn nowhere(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([192, 0, 0, 8]),
        Family::V6 => IpAddr::from([0x100, 0, 0, 0, 0, 0, 0, 1]),
    }
}

/// Names of sets of one address family.
pub fn set(name: &str, family: Family) -> String {
    format!("{name}-{}", family.suffix())
}

/// The table with no pods' host ports and no services. `prefix` begins the names of the interfaces of pods, `anchor` is the
/// interface that leads nowhere, which also begins with it.
pub fn table(name: &str, prefix: &str, anchor: &str, ranges: &Ranges, served: &Served) -> Table {
    let mut table = Table::new(name);
    for family in Family::ALL {
        sets(&mut table, family);
    }
    if served.port != DNS {
        lead_to(&mut table, served);
    }
    let goto = |chain: &str| Verdict::Goto(chain.to_owned());
    let jump = |chain: &str| Verdict::Jump(chain.to_owned());
    let mut chain = |name: &str, hook: Option<Hook>, rules: Vec<Rule>| {
        table.chains.insert(name.to_owned(), Chain { hook, rules });
    };
    let at = |kind, hook, priority| Some(Hook { kind, hook, priority });

    chain(
        "prerouting-nat",
        at("nat", libc::NF_INET_PRE_ROUTING, NAT_DST),
        vec![Rule::default().verdict(&jump("services"))],
    );
    chain("output-nat", at("nat", libc::NF_INET_LOCAL_OUT, NAT_DST), vec![Rule::default().verdict(&jump("services"))]);
    chain("services", None, Family::ALL.into_iter().flat_map(services).collect());
    chain("postrouting-nat", at("nat", libc::NF_INET_POST_ROUTING, NAT_SRC), masquerade(prefix, ranges));
    chain("prerouting-raw", at("filter", libc::NF_INET_PRE_ROUTING, RAW), loopback(prefix));

    let unserved = Rule::default().begins().verdict(&jump("unserved"));
    let door = Rule::default().to_interface(anchor).verdict(&goto(REJECT));
    chain("forward", at("filter", libc::NF_INET_FORWARD, FILTER), vec![unserved.clone(), door]);
    // In the output hook the interface is still that of the address before its translation, but the route is not.
    let doors = Family::ALL.map(|family| Rule::family(family).through(nowhere(family)).verdict(&goto(REJECT)));
    let output = [unserved.clone()].into_iter().chain(doors).collect();
    chain("output", at("filter", libc::NF_INET_LOCAL_OUT, FILTER), output);
    let mut input = vec![unserved];
    for range in &ranges.services {
        // Of the service range only the DNS address is an address of this machine, and only for DNS.
        let family = Family::of(range.addr());
        let rule = Rule::family(family).within(Field::Daddr(family), *range, true).dport_is_not(served.port).begins();
        input.push(rule.verdict(&goto(REJECT)));
    }
    chain("input", at("filter", libc::NF_INET_LOCAL_IN, FILTER), input);
    let unserved = Family::ALL.into_iter().flat_map(|family| {
        [
            Rule::family(family)
                .vmap(&[Field::L4Proto, Field::Daddr(family), Field::Dport], &set("unserved-addresses", family)),
            Rule::family(family).to_local().vmap(&[Field::L4Proto, Field::Dport], &set("unserved-node-ports", family)),
        ]
    });
    chain("unserved", None, unserved.collect());
    chain(
        REJECT,
        None,
        vec![
            Rule::default().l4proto(libc::IPPROTO_TCP as u8).reject_tcp_reset(),
            Rule::default().reject_port_unreachable(),
        ],
    );
    table
}

fn sets(table: &mut Table, family: Family) {
    let address = Type::Address(family);
    let by_address = [Type::Proto, address, Type::Port];
    let by_port = [Type::Proto, Type::Port];
    let to = || Kind::Values(vec![address, Type::Port]);
    let mut add = |name, key: &[Type], kind| table.sets.insert(set(name, family), Set::new(key, kind));
    add("service-addresses", &by_address, Kind::Verdicts);
    add("service-node-ports", &by_port, Kind::Verdicts);
    add("unserved-addresses", &by_address, Kind::Verdicts);
    add("unserved-node-ports", &by_port, Kind::Verdicts);
    add("host-ports", &by_address, to());
    add("host-ports-any", &by_port, to());
    add("hairpins", &[address, address], Kind::Set);
    add("host-port-hairpins", &[address, address], Kind::Set);
}

/// Translates what is for the usual port, which another program has taken on every address of the machine.
fn lead_to(table: &mut Table, served: &Served) {
    for address in &served.addresses {
        let Some(ports) = table.sets.get_mut(&set("host-ports", Family::of(*address))) else { continue };
        for protocol in [libc::IPPROTO_UDP, libc::IPPROTO_TCP] {
            let to = Data::Value(key::address_port(*address, served.port));
            ports.elements.insert(key::proto_address_port(protocol as u8, *address, DNS), to);
        }
    }
}

fn services(family: Family) -> [Rule; 4] {
    let by_address = [Field::L4Proto, Field::Daddr(family), Field::Dport];
    let by_port = [Field::L4Proto, Field::Dport];
    [
        Rule::family(family).vmap(&by_address, &set("service-addresses", family)),
        Rule::family(family).to_local().vmap(&by_port, &set("service-node-ports", family)),
        Rule::family(family).dnat_by_map(family, &by_address, &set("host-ports", family)),
        Rule::family(family).to_local().dnat_by_map(family, &by_port, &set("host-ports-any", family)),
    ]
}

fn masquerade(prefix: &str, ranges: &Ranges) -> Vec<Rule> {
    let mut rules = Vec::new();
    for family in Family::ALL {
        // A pod that reaches itself through a service must answer to the node, not to itself.
        let pair = [Field::Saddr(family), Field::Daddr(family)];
        for hairpins in ["hairpins", "host-port-hairpins"] {
            rules.push(Rule::family(family).in_set(&pair, &set(hairpins, family)).masquerade());
        }
    }
    let loopback = Rule::family(Family::V4).within(Field::Saddr(Family::V4), loopback_range(), true);
    rules.push(loopback.to_interfaces(prefix, true).masquerade());
    rules.push(Rule::default().marked(MASQUERADE).clear_mark(MASQUERADE).masquerade());
    for pods in &ranges.pods {
        let family = Family::of(pods.addr());
        let mut rule = Rule::family(family).within(Field::Saddr(family), *pods, true).to_interfaces(prefix, false);
        for range in ranges.cluster.iter().chain(&ranges.services).filter(|range| Family::of(range.addr()) == family) {
            rule = rule.within(Field::Daddr(family), *range, false);
        }
        rules.push(rule.masquerade());
    }
    rules
}

/// Node ports answer on the loopback address too, for which pods' interfaces route it; no pod may use that.
fn loopback(prefix: &str) -> Vec<Rule> {
    [Field::Saddr(Family::V4), Field::Daddr(Family::V4)]
        .map(|address| {
            let rule = Rule::family(Family::V4).from_interfaces(prefix);
            rule.within(address, loopback_range(), true).verdict(&Verdict::Drop)
        })
        .into()
}

fn loopback_range() -> IpNet {
    IpNet::new_assert(IpAddr::from([127, 0, 0, 0]), 8)
}
