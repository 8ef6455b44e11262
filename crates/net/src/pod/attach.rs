//! The wire between a pod and its node.

use super::link::{self, End, Mac};
use crate::netlink::{Failure, Socket};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_millis(500);
const INTERFACE: &str = "eth0";
const LOOPBACK: u32 = 1;

/// All that both ends of a pod's wire are given.
pub struct Wire {
    pub link: String,
    pub host_mac: Mac,
    pub pod_mac: Mac,
    pub addresses: Vec<IpAddr>,
    pub gateways: Vec<IpAddr>,
    pub mtu: u32,
}

impl Wire {
    /// Makes the pair, unless it is there, and sets both ends up. The calling thread is left in the pod's namespace.
    pub fn connect(&self, netns: &File) -> Result<(), Failure> {
        let (mut host, mut host_changes) = (Socket::route()?, Socket::link_changes()?);
        setns(netns, CloneFlags::CLONE_NEWNET)?;
        let (mut pod, mut pod_changes) = (Socket::route()?, Socket::link_changes()?);
        if link::find(&mut pod, INTERFACE)?.is_none_or(|found| found.mac != self.pod_mac) {
            // A pair of this name belongs to an earlier sandbox with the same address that died half way.
            host.run(vec![link::delete(&self.link)])?;
            let node = End { name: &self.link, mac: self.host_mac };
            let inner = End { name: INTERFACE, mac: self.pod_mac };
            host.run(vec![link::new_veth(node, inner, netns.as_raw_fd(), self.mtu)])?;
        }
        let index = |socket: &mut Socket, name| {
            link::find(socket, name)?.map(|found| found.index).ok_or(Failure::from(Errno::ENODEV))
        };
        let (node_end, pod_end) = (index(&mut host, &self.link)?, index(&mut pod, INTERFACE)?);
        let mut outside = vec![link::up(node_end), link::route_loopback(node_end)];
        let mut inside = vec![link::up(LOOPBACK), link::up(pod_end)];
        for (address, gateway) in self.addresses.iter().zip(&self.gateways) {
            outside.push(link::neighbour(node_end, *address, self.pod_mac));
            outside.push(link::route(node_end, link::single(*address), None, Some(*gateway)));
            inside.push(link::address(pod_end, *address));
            inside.push(link::neighbour(pod_end, *gateway, self.host_mac));
            inside.push(link::route(pod_end, link::everything(*address), Some(*gateway), None));
        }
        host.run(outside)?;
        pod.run(inside)?;
        until_running(&mut host, &mut host_changes, &self.link)?;
        until_running(&mut pod, &mut pod_changes, INTERFACE)
    }
}

/// Waits until the link carries packets, so that a pod's first one is not lost. A kernel that takes longer than `PATIENCE` is
/// not waited for: what is lost then is sent again by its sender.
fn until_running(socket: &mut Socket, changes: &mut Socket, name: &str) -> Result<(), Failure> {
    let deadline = Instant::now() + PATIENCE;
    while link::find(socket, name)?.is_some_and(|found| !found.running) {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || !changes.told(left)? {
            tracing::warn!(link = name, "the pod's link is not running yet");
            break;
        }
    }
    Ok(())
}
