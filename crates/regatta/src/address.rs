//! The node's own addresses and name.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result};
use nix::ifaddrs::getifaddrs;

/// The addresses of this machine's interfaces that others can reach, IPv4 first, without those of interfaces whose name
/// begins with `own`.
pub fn reachable(own: &str) -> Result<Vec<IpAddr>> {
    let mut found: Vec<IpAddr> = getifaddrs()
        .context("cannot list the machine's addresses")?
        .filter(|interface| !interface.interface_name.starts_with(own))
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|a| IpAddr::from(a.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::from(a.ip())))
        })
        .filter(|ip| match ip {
            IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local(),
            IpAddr::V6(ip) => !ip.is_loopback() && (ip.segments()[0] & 0xffc0) != 0xfe80,
        })
        .collect();
    found.sort();
    found.dedup();
    Ok(found)
}

/// The node's address: the one that is bound, else the source address of the default route, else the first that others can reach, else
/// `fallback`.
pub fn of_node(bind: IpAddr, own: &str, fallback: Ipv4Addr) -> Result<IpAddr> {
    if !bind.is_unspecified() {
        return Ok(bind);
    }
    if let Some(address) = default_route_source().filter(|a| !a.is_loopback()) {
        return Ok(address);
    }
    Ok(reachable(own)?.into_iter().next().unwrap_or(IpAddr::V4(fallback)))
}

/// The address that the kernel would send from to the rest of the world. A connected datagram socket sends nothing; the address is one
/// of those set aside for documentation.
fn default_route_source() -> Option<IpAddr> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// The machine's name as a node's name must be written.
pub fn node_name() -> Result<String> {
    let name = nix::unistd::gethostname().context("cannot read the machine's name")?;
    let name: String = name
        .to_string_lossy()
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' })
        .collect();
    let name = name.trim_matches(['-', '.']).to_owned();
    Ok(if name.is_empty() { "node".to_owned() } else { name })
}
