//! What other programs and other clusters have in the machine's network: addresses and routes that the cluster's ranges
//! must not cover, and rules that drop what the node forwards.

use crate::netlink::{Message, Socket, attribute, attributes};
use crate::pod::{interface_prefix, link, table_name};
use ipnet::IpNet;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

/// An address, with the range that it says is on its link, or a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub range: IpNet,
    /// Empty for a route that leads to no interface.
    pub interface: String,
    /// Lower ones go first; of equal ones there is only one in the kernel. None for an address.
    pub priority: Option<u32>,
}

impl Place {
    /// Whether another cluster's interface has it.
    pub fn is_of_a_cluster(&self) -> bool {
        is_anchor(self.interface.get(..8).unwrap_or_default())
    }
}

/// Whether an interface is called as the clusters' anchors are.
fn is_anchor(name: &str) -> bool {
    name.len() == 8 && name.strip_prefix("rg").is_some_and(|id| id.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// The first place, of those that are not the default route, whose range has an address in common with this one.
pub fn overlapping(range: IpNet, places: &[Place]) -> Option<&Place> {
    let real = places.iter().filter(|place| place.range.prefix_len() > 0);
    let mut found = real.filter(|place| place.range.contains(&range) || range.contains(&place.range));
    found.next()
}

/// Every IPv4 address and route of the calling thread's network namespace that is not of the cluster `id`.
pub fn places(id: &str) -> nix::Result<Vec<Place>> {
    let mut socket = Socket::route()?;
    let names: HashMap<u32, String> =
        link::list(&mut socket)?.into_iter().map(|link| (link.index, link.name)).collect();
    let named = |index: Option<u32>| index.and_then(|index| names.get(&index)).cloned().unwrap_or_default();
    let mut places = Vec::new();
    let addresses = Message::new(libc::RTM_GETADDR, 0, &[libc::AF_INET as u8, 0, 0, 0, 0, 0, 0, 0]);
    socket.dump(addresses, |payload| places.extend(address(payload, named)))?;
    let routes = Message::new(libc::RTM_GETROUTE, 0, &[&[libc::AF_INET as u8][..], &[0; 11]].concat());
    socket.dump(routes, |payload| places.extend(route(payload, named)))?;
    let own = interface_prefix(id);
    places.retain(|place| !place.interface.starts_with(&own));
    Ok(places)
}

/// The anchors of other clusters in the calling thread's network namespace.
pub fn other_anchors(id: &str) -> nix::Result<Vec<String>> {
    let own = interface_prefix(id);
    let links = link::list(&mut Socket::route()?)?;
    Ok(links.into_iter().map(|link| link.name).filter(|name| is_anchor(name) && *name != own).collect())
}

fn v4(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes).ok().map(|octets| Ipv4Addr::from(octets).into())
}

fn number(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_ne_bytes)
}

/// `struct ifaddrmsg` and what follows it.
fn address(payload: &[u8], named: impl Fn(Option<u32>) -> String) -> Option<Place> {
    let (head, rest) = payload.split_at_checked(8)?;
    let address = attribute(rest, libc::IFA_ADDRESS).or_else(|| attribute(rest, libc::IFA_LOCAL)).and_then(v4)?;
    let range = IpNet::new(address, head[1]).ok()?.trunc();
    Some(Place { range, interface: named(number(&head[4..])), priority: None })
}

/// `struct rtmsg` and what follows it.
fn route(payload: &[u8], named: impl Fn(Option<u32>) -> String) -> Option<Place> {
    let (head, rest) = payload.split_at_checked(12)?;
    // What the kernel keeps beside each address is known by the address.
    if [libc::RTN_LOCAL, libc::RTN_BROADCAST, libc::RTN_ANYCAST, libc::RTN_MULTICAST].contains(&head[7]) {
        return None;
    }
    let range = match attribute(rest, libc::RTA_DST) {
        Some(address) => IpNet::new(v4(address)?, head[1]).ok()?.trunc(),
        None => IpNet::new(Ipv4Addr::UNSPECIFIED.into(), 0).ok()?,
    };
    let priority = attribute(rest, libc::RTA_PRIORITY).and_then(number).unwrap_or(0);
    Some(Place { range, interface: named(attribute(rest, libc::RTA_OIF).and_then(number)), priority: Some(priority) })
}

/// A chain that every forwarded packet passes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    family: u8,
    pub table: String,
    pub name: String,
    /// Whether what no rule of it lets pass is dropped.
    drops: bool,
}

impl Chain {
    /// As `nft` writes it: family, table and chain.
    pub fn shown(&self) -> String {
        let family = if i32::from(self.family) == libc::NFPROTO_IPV4 { "ip" } else { "inet" };
        format!("{family} {} {}", self.table, self.name)
    }
}

const NFNL_NFTABLES: u16 = 10 << 8;
const GET_CHAIN: u16 = NFNL_NFTABLES | 4;
const GET_RULE: u16 = NFNL_NFTABLES | 7;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const HOOK_NUMBER: u16 = 1;
const RULE_TABLE: u16 = 1;

/// Every chain of the forward hook that IPv4 packets pass. Those that the old iptables keeps apart from nftables are not
/// seen.
pub fn forward_chains() -> nix::Result<Vec<Chain>> {
    let mut chains = Vec::new();
    let all = Message::new(GET_CHAIN, 0, &[libc::NFPROTO_UNSPEC as u8, 0, 0, 0]);
    Socket::netfilter()?.dump(all, |payload| chains.extend(forward_chain(payload)))?;
    Ok(chains)
}

/// Other programs' chains that drop what is forwarded, and whose tables have no rule that names interfaces of ours.
pub fn firewalls(id: &str) -> nix::Result<Vec<Chain>> {
    let own = table_name(id);
    let mut socket = Socket::netfilter()?;
    let mut firewalls = Vec::new();
    for chain in forward_chains()?.into_iter().filter(|chain| chain.drops && chain.table != own) {
        let mut known = false;
        let rules = Message::new(GET_RULE, 0, &[chain.family, 0, 0, 0]).text(RULE_TABLE, &chain.table);
        socket.dump(rules, |payload| known |= names_ours(payload))?;
        if !known {
            firewalls.push(chain);
        }
    }
    Ok(firewalls)
}

fn forward_chain(payload: &[u8]) -> Option<Chain> {
    let (head, rest) = payload.split_at_checked(4)?;
    let text = |kind| {
        attribute(rest, kind).map(|text| String::from_utf8_lossy(text.strip_suffix(b"\0").unwrap_or(text)).into_owned())
    };
    let be32 = |bytes: &[u8]| bytes.try_into().ok().map(i32::from_be_bytes);
    let hook = attribute(attribute(rest, CHAIN_HOOK)?, HOOK_NUMBER).and_then(be32)?;
    let (table, name) = (text(CHAIN_TABLE)?, text(CHAIN_NAME)?);
    // firewalld lets its chain accept, and rejects by the last rule.
    let drops = attribute(rest, CHAIN_POLICY).and_then(be32) == Some(libc::NF_DROP) || table == "firewalld";
    let family = head[0];
    let passed = [libc::NFPROTO_IPV4, libc::NFPROTO_INET].contains(&i32::from(family));
    (passed && hook == libc::NF_INET_FORWARD).then_some(Chain { family, table, name, drops })
}

/// Whether a rule compares with a text that begins as the names of our interfaces do.
fn names_ours(payload: &[u8]) -> bool {
    const VALUE: u16 = 1;
    fn within(bytes: &[u8], depth: u8) -> bool {
        attributes(bytes).any(|(kind, data)| {
            (kind == VALUE && data.starts_with(b"rg")) || (depth > 0 && data.len() > 4 && within(data, depth - 1))
        })
    }
    payload.get(4..).is_some_and(|rest| within(rest, 6))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_collides_with_what_shares_an_address_but_not_with_the_default_route() {
        let place = |range: &str, interface: &str| Place {
            range: range.parse().unwrap(),
            interface: interface.into(),
            priority: Some(0),
        };
        let places = [
            place("0.0.0.0/0", "eth0"),
            place("192.168.1.0/24", "eth0"),
            place("10.42.0.7/32", "rg0a1b2c5"),
            place("172.16.0.0/12", "tun0"),
        ];
        for (range, interface) in [
            ("10.43.0.0/16", None),
            ("10.42.0.0/16", Some("rg0a1b2c5")),
            ("192.168.0.0/16", Some("eth0")),
            ("172.20.0.0/16", Some("tun0")),
        ] {
            let found = overlapping(range.parse().unwrap(), &places);
            assert_eq!(found.map(|place| place.interface.as_str()), interface, "{range}");
        }
        assert!(
            places[2].is_of_a_cluster()
                && !places[1].is_of_a_cluster()
                && !place("10.0.0.0/8", "rgx").is_of_a_cluster()
        );
    }
}
