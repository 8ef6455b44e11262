//! Connection tracking entries of UDP, removed when the endpoint that they lead to serves no more: unlike TCP nothing else
//! would end them while the client keeps sending.

use super::service::Datagrams;
use crate::netlink::{Message, Socket, attribute};
use crate::nft::Family;
use nix::errno::Errno;
use std::net::{IpAddr, SocketAddr};

const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;

/// A UDP flow: where the client sent to, and who answers.
#[derive(Debug, PartialEq, Eq)]
struct Flow {
    to: SocketAddr,
    answering: SocketAddr,
    /// The original tuple, by which it is named.
    name: Vec<u8>,
}

impl Flow {
    fn read(payload: &[u8]) -> Option<Flow> {
        let attributes = payload.get(4..)?;
        let original = attribute(attributes, ORIGINAL)?;
        let proto = attribute(attribute(original, TUPLE_PROTO)?, 1)?;
        (proto == [libc::IPPROTO_UDP as u8]).then_some(())?;
        let reply = attribute(attributes, REPLY)?;
        Some(Flow { to: end(original, 2, 4, 3)?, answering: end(reply, 1, 3, 2)?, name: original.to_vec() })
    }

    fn stale(&self, datagrams: &[Datagrams]) -> bool {
        let translated = self.to != self.answering;
        let mine = |datagrams: &&Datagrams| {
            let addressed = datagrams.address.map_or(translated, |address| address == self.to.ip());
            addressed && datagrams.port == self.to.port()
        };
        let mut known = datagrams.iter().filter(mine).peekable();
        known.peek().is_some() && known.all(|datagrams| !datagrams.endpoints.contains(&self.answering))
    }
}

fn end(tuple: &[u8], v4: u16, v6: u16, port: u16) -> Option<SocketAddr> {
    let addresses = attribute(tuple, TUPLE_IP)?;
    let address = match attribute(addresses, v4) {
        Some(bytes) => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        None => IpAddr::from(<[u8; 16]>::try_from(attribute(addresses, v6)?).ok()?),
    };
    let port = attribute(attribute(tuple, TUPLE_PROTO)?, port)?;
    Some(SocketAddr::new(address, u16::from_be_bytes(port.try_into().ok()?)))
}

/// Removes the flows to these ports whose endpoint is no more among theirs; tells how many.
pub fn sweep(datagrams: &[Datagrams]) -> nix::Result<usize> {
    remove(|flow| flow.stale(datagrams))
}

/// Removes the flows that this address answers.
pub fn forget(address: IpAddr) -> nix::Result<usize> {
    remove(|flow| flow.answering.ip() == address && flow.to.ip() != address)
}

fn remove(gone: impl Fn(&Flow) -> bool) -> nix::Result<usize> {
    let mut socket = Socket::netfilter()?;
    let mut removals = Vec::new();
    for family in Family::ALL {
        let header = [family.number(), 0, 0, 0];
        socket.dump(Message::new(GET, 0, &header), |payload| {
            if let Some(flow) = Flow::read(payload).filter(|flow| gone(flow)) {
                let removal = Message::new(DELETE, 0, &header).nest(ORIGINAL, |tuple| tuple.raw(&flow.name));
                removals.push(removal.tolerating(Errno::ENOENT));
            }
        })?;
    }
    let count = removals.len();
    socket.run(removals).map_err(|failure| failure.errno)?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_is_stale_when_its_port_is_known_and_its_endpoint_is_not() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let service = Datagrams { address: Some([10, 96, 0, 5].into()), port: 53, endpoints: vec![at("10.42.0.2:53")] };
        let node_port = Datagrams { address: None, port: 30053, endpoints: vec![at("10.42.0.2:53")] };
        let cases = [
            ("10.96.0.5:53", "10.42.0.2:53", false),
            ("10.96.0.5:53", "10.42.0.3:53", true),
            ("10.96.0.5:53", "10.96.0.5:53", true),
            ("10.96.0.5:54", "10.42.0.3:53", false),
            ("192.168.0.1:30053", "10.42.0.3:53", true),
            ("192.168.0.1:30053", "192.168.0.1:30053", false),
            ("10.42.0.3:53", "10.42.0.3:53", false),
        ];
        for (to, answering, stale) in cases {
            let flow = Flow { to: at(to), answering: at(answering), name: vec![] };
            assert_eq!(flow.stale(&[service.clone(), node_port.clone()]), stale, "{to} {answering}");
        }
    }
}
