//! Whether the kernel has what the pod network is made of: it is made once, in a network namespace that nobody sees.

use super::base::{self, Ranges, Served};
use super::link::{self, End};
use crate::netlink::{Failure, Socket};
use crate::nft::{Chain, Family, Field, Hook, Kind, Rule, Set, Table, Type, Verdict};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use std::fs::File;
use std::os::fd::AsRawFd;

/// A part of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    Namespaces,
    Nftables,
    ConnectionTracking,
    Nat,
    Masquerade,
    Reject,
    Maps,
    /// All the others are there, and yet the node's table was refused.
    Rules,
    Bridge,
    Veth,
}

/// What is missing, and with which error; nothing on a machine that fits. Takes some milliseconds.
pub fn missing() -> Vec<(Feature, Errno)> {
    // The thread, and the namespace with it, ends with the looking.
    let looking = std::thread::Builder::new().name("net-probe".into()).spawn(look);
    match looking.map(std::thread::JoinHandle::join) {
        Ok(Ok(missing)) => missing,
        _ => vec![(Feature::Namespaces, Errno::EAGAIN)],
    }
}

fn look() -> Vec<(Feature, Errno)> {
    if let Err(errno) = unshare(CloneFlags::CLONE_NEWNET) {
        return vec![(Feature::Namespaces, errno)];
    }
    let mut missing = Vec::new();
    let mut note = |feature, outcome: Result<(), Failure>| {
        if let Err(failure) = outcome {
            missing.push((feature, failure.errno));
        }
        outcome.is_ok()
    };
    let range = "10.0.0.0/24".parse().expect("a range");
    let ranges = Ranges { pods: vec![range], cluster: vec![range], services: vec![range] };
    let whole = base::table("probe", "rg", "rg", &ranges, &Served { addresses: Vec::new(), port: base::DNS });
    if let Err(failure) = load(&whole) {
        let parts = parts().map(|(feature, table)| note(feature, load(&table)));
        if parts.into_iter().all(|there| there) {
            note(Feature::Rules, Err(failure));
        }
    }
    note(Feature::Bridge, ask(vec![link::new_bridge("probe")]));
    let veth = File::open("/proc/thread-self/ns/net")
        .map_err(|error| Failure::from(Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))));
    let end = |name| End { name, mac: [0x0a, 0, 0, 0, 0, 1] };
    let veth = veth.and_then(|own| ask(vec![link::new_veth(end("probe0"), end("probe1"), own.as_raw_fd(), 1500)]));
    note(Feature::Veth, veth);
    missing
}

fn ask(messages: Vec<crate::netlink::Message>) -> Result<(), Failure> {
    Socket::route()?.run(messages)
}

fn load(table: &Table) -> Result<(), Failure> {
    Socket::netfilter()?.transaction(table.replacement())
}

/// The smallest table that needs each part.
fn parts() -> [(Feature, Table); 6] {
    let hooked = |kind, hook, rules| {
        let mut table = Table::new("probe");
        let hook = Hook { kind, hook, priority: 0 };
        table.chains.insert("chain".to_owned(), Chain { hook: Some(hook), rules });
        table
    };
    let forward = |rules| hooked("filter", libc::NF_INET_FORWARD, rules);
    let mut maps = forward(vec![Rule::family(Family::V4).vmap(&[Field::L4Proto, Field::Dport], "map")]);
    maps.sets.insert("map".to_owned(), Set::new([Type::Proto, Type::Port], Kind::Verdicts));
    [
        (Feature::Nftables, forward(vec![Rule::default().verdict(&Verdict::Drop)])),
        (Feature::ConnectionTracking, forward(vec![Rule::default().begins().verdict(&Verdict::Drop)])),
        (Feature::Nat, hooked("nat", libc::NF_INET_PRE_ROUTING, Vec::new())),
        (Feature::Masquerade, hooked("nat", libc::NF_INET_POST_ROUTING, vec![Rule::default().masquerade()])),
        (Feature::Reject, forward(vec![Rule::default().reject_port_unreachable()])),
        (Feature::Maps, maps),
    ]
}
