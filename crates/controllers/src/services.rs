//! The ranges and the addresses of Services: a range stays as long as addresses need it, and each address is taken by the
//! Service that has it and by none that has not.
//!
//! The API server takes addresses and node ports in the transaction that writes a Service, so that only somebody else's
//! writes can part them: an IPAddress is an object that anybody may delete. Node ports are no objects; the server looks after them itself.

pub(crate) mod addresses;
pub(crate) mod ranges;

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::ServiceCIDR;

/// Says which addresses are the allocator's.
const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
const ALLOCATOR: &str = "ipallocator.k8s.io";
const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// The ranges that a ServiceCIDR names.
fn ranges_of(cidr: &ServiceCIDR) -> Vec<IpNet> {
    let texts = cidr.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
    texts.filter_map(|text| text.parse().ok()).collect()
}

/// Whether an address of the range can be a Service's, which its network's and broadcast addresses cannot.
fn holds(range: &IpNet, address: IpAddr) -> bool {
    range.contains(&address) && address != range.network() && !(address.is_ipv4() && address == range.broadcast())
}
