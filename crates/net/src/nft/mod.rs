//! nftables without the `nft` program: a table as a value, the difference between two of them as one transaction.
//!
//! [`Rule`] writes expressions, [`Table`] holds chains, sets and maps, [`Nft`] keeps the kernel's table equal to the one
//! that is wanted. Everything is in one table of the family `inet` named after the cluster, so that clusters live side by
//! side and all of it can be removed at once.

mod guard;
mod handle;
mod rule;
mod table;

pub use guard::Guard;
pub use handle::{Error, Nft};
pub use rule::{Field, Rule};
pub use table::{Chain, Data, Hook, Kind, Set, Table, Type, Verdict, key};

/// The two address families that share the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const ALL: [Family; 2] = [Family::V4, Family::V6];

    pub fn of(address: std::net::IpAddr) -> Family {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// The suffix of the sets of this family.
    pub fn suffix(self) -> char {
        match self {
            Family::V4 => '4',
            Family::V6 => '6',
        }
    }

    /// As netfilter numbers it.
    pub fn number(self) -> u8 {
        match self {
            Family::V4 => libc::AF_INET as u8,
            Family::V6 => libc::AF_INET6 as u8,
        }
    }

    /// Bytes of an address.
    pub fn width(self) -> usize {
        match self {
            Family::V4 => 4,
            Family::V6 => 16,
        }
    }
}

/// An address's bytes in network order.
pub fn octets(address: std::net::IpAddr) -> Vec<u8> {
    match address {
        std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
        std::net::IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}
