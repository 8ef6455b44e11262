//! Links, addresses, routes and neighbours by rtnetlink.

use crate::netlink::{Message, Socket, attribute};
use crate::nft::{Family, octets};
use ipnet::IpNet;
use nix::errno::Errno;
use std::net::IpAddr;

const UP: u32 = libc::IFF_UP as u32;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_LINKINFO: u16 = 18;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const VETH_PEER: u16 = 1;
const INET_CONF: u16 = 1;
/// `IPV4_DEVCONF_ROUTE_LOCALNET` of linux/ip.h.
const ROUTE_LOCALNET: u16 = 26;
/// `IF_OPER_UP` of linux/if.h.
const OPERATIONAL: u8 = 6;
const CREATE: i32 = libc::NLM_F_CREATE | libc::NLM_F_EXCL;

/// A hardware address.
pub type Mac = [u8; 6];

/// `struct ifinfomsg`
fn link_header(index: u32, flags: u32) -> Vec<u8> {
    [0u32, index, flags, flags].iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn named(message: Message, name: &str, mac: Mac, mtu: u32) -> Message {
    message.text(libc::IFLA_IFNAME, name).attr(libc::IFLA_ADDRESS, mac).attr(libc::IFLA_MTU, mtu.to_ne_bytes())
}

/// One end of a veth pair: its name and its hardware address.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    pub name: &'a str,
    pub mac: Mac,
}

/// A pair, the second end in the namespace behind the descriptor. Neither is up: that needs both.
pub fn new_veth(host: End<'_>, pod: End<'_>, netns: i32, mtu: u32) -> Message {
    let message = Message::new(libc::RTM_NEWLINK, CREATE, &link_header(0, 0));
    named(message, host.name, host.mac, mtu).nest(IFLA_LINKINFO, |info| {
        info.text(INFO_KIND, "veth").nest(INFO_DATA, |data| {
            data.nest(VETH_PEER, |peer| {
                let peer = peer.raw(&link_header(0, 0));
                named(peer, pod.name, pod.mac, mtu).attr(IFLA_NET_NS_FD, netns.to_ne_bytes())
            })
        })
    })
}

/// A bridge without ports: an interface that is up and leads nowhere.
pub fn new_bridge(name: &str) -> Message {
    Message::new(libc::RTM_NEWLINK, CREATE, &link_header(0, UP))
        .text(libc::IFLA_IFNAME, name)
        .nest(IFLA_LINKINFO, |info| info.text(INFO_KIND, "bridge"))
        .tolerating(Errno::EEXIST)
}

pub fn up(index: u32) -> Message {
    Message::new(libc::RTM_NEWLINK, 0, &link_header(index, UP))
}

/// Lets packets from the loopback address leave by the interface, for node ports on that address.
pub fn route_loopback(index: u32) -> Message {
    Message::new(libc::RTM_NEWLINK, 0, &link_header(index, 0)).nest(IFLA_AF_SPEC, |spec| {
        spec.nest(libc::AF_INET as u16, |inet| {
            inet.nest(INET_CONF, |conf| conf.attr(ROUTE_LOCALNET, 1u32.to_ne_bytes()))
        })
    })
}

pub fn delete(name: &str) -> Message {
    Message::new(libc::RTM_DELLINK, 0, &link_header(0, 0)).text(libc::IFLA_IFNAME, name).tolerating(Errno::ENODEV)
}

/// The single address, without a range that would be on the link.
pub fn address(index: u32, address: IpAddr) -> Message {
    const NODAD: u8 = 0x02;
    let bytes = octets(address);
    let header = [&[Family::of(address).number(), bytes.len() as u8 * 8, NODAD, 0][..], &index.to_ne_bytes()].concat();
    Message::new(libc::RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_REPLACE, &header)
        .attr(libc::IFA_LOCAL, &bytes)
        .attr(libc::IFA_ADDRESS, &bytes)
        .tolerating(Errno::EEXIST)
}

/// A route to `range` out of a link, directly or through `gateway`, from the address `source`.
pub fn route(index: u32, range: IpNet, gateway: Option<IpAddr>, source: Option<IpAddr>) -> Message {
    const STATIC: u8 = libc::RTPROT_STATIC;
    const ONLINK: u32 = 4;
    let family = Family::of(range.addr());
    let scope = if gateway.is_none() && family == Family::V4 { libc::RT_SCOPE_LINK } else { libc::RT_SCOPE_UNIVERSE };
    let flags = if gateway.is_some() { ONLINK } else { 0 };
    let fixed = [family.number(), range.prefix_len(), 0, 0, libc::RT_TABLE_MAIN, STATIC, scope, libc::RTN_UNICAST];
    let header = [&fixed[..], &flags.to_ne_bytes()].concat();
    let mut message = Message::new(libc::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_REPLACE, &header)
        .attr(libc::RTA_OIF, index.to_ne_bytes());
    if range.prefix_len() > 0 {
        message = message.attr(libc::RTA_DST, octets(range.network()));
    }
    if let Some(gateway) = gateway {
        message = message.attr(libc::RTA_GATEWAY, octets(gateway));
    }
    if let Some(source) = source {
        message = message.attr(libc::RTA_PREFSRC, octets(source));
    }
    message
}

/// The range of one address.
pub fn single(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

/// A neighbour that never needs to be asked for.
pub fn neighbour(index: u32, address: IpAddr, mac: Mac) -> Message {
    let fixed = [Family::of(address).number(), 0, 0, 0];
    let header = [&fixed[..], &index.to_ne_bytes(), &0x80u16.to_ne_bytes(), &[0, 0]].concat();
    Message::new(libc::RTM_NEWNEIGH, libc::NLM_F_CREATE | libc::NLM_F_REPLACE, &header)
        .attr(libc::NDA_DST, octets(address))
        .attr(libc::NDA_LLADDR, mac)
}

/// The range of all addresses of an address's family.
pub fn everything(like: IpAddr) -> IpNet {
    let none = match Family::of(like) {
        Family::V4 => IpAddr::from([0; 4]),
        Family::V6 => IpAddr::from([0; 16]),
    };
    IpNet::new_assert(none, 0)
}

/// A link as the kernel tells it.
#[derive(Debug)]
pub struct Link {
    pub name: String,
    pub index: u32,
    pub mac: Mac,
    /// Whether it carries packets, which it does a moment after both ends were set up: until then the kernel drops them.
    pub running: bool,
}

impl Link {
    fn read(payload: &[u8]) -> Option<Link> {
        let index = payload.get(4..8)?.try_into().ok()?;
        let attributes = payload.get(16..)?;
        let name = attribute(attributes, libc::IFLA_IFNAME)?;
        let mac = attribute(attributes, libc::IFLA_ADDRESS).and_then(|mac| mac.try_into().ok());
        Some(Link {
            name: String::from_utf8_lossy(name.strip_suffix(b"\0").unwrap_or(name)).into_owned(),
            index: u32::from_ne_bytes(index),
            mac: mac.unwrap_or_default(),
            running: attribute(attributes, libc::IFLA_OPERSTATE) == Some(&[OPERATIONAL]),
        })
    }
}

/// Every link of the socket's namespace.
pub fn list(socket: &mut Socket) -> nix::Result<Vec<Link>> {
    let mut links = Vec::new();
    socket.dump(Message::new(libc::RTM_GETLINK, 0, &link_header(0, 0)), |payload| links.extend(Link::read(payload)))?;
    Ok(links)
}

/// The link of this name in the socket's namespace.
pub fn find(socket: &mut Socket, name: &str) -> nix::Result<Option<Link>> {
    let mut link = None;
    let request = Message::new(libc::RTM_GETLINK, 0, &link_header(0, 0)).text(libc::IFLA_IFNAME, name);
    match socket.get(request, |payload| link = Link::read(payload)) {
        Ok(()) | Err(Errno::ENODEV) => Ok(link),
        Err(errno) => Err(errno),
    }
}
