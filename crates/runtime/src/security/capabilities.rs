//! Capabilities by name, and which ones a container gets.

use crate::cri::{Capability, CriError, Result};
use crate::shim::Capabilities;

/// In the kernel's order: the place is the number.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What a container has that asks for nothing, as with upstream's runtimes.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

const ALL: u64 = (1 << NAMES.len()) - 1;

/// The bit of a capability, with or without `CAP_` before its name.
pub fn bit(name: &str) -> Option<u64> {
    let upper = name.to_ascii_uppercase();
    let plain = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES.iter().position(|known| *known == plain).map(|at| 1 << at)
}

/// What a container gets: the default, with additions, without what is dropped. `ALL` first, as upstream does it.
pub fn of_container(wanted: &Capability, privileged: bool) -> Result<Capabilities> {
    if privileged {
        return Ok(Capabilities { bounding: ALL, effective: ALL, inheritable: 0, ambient: 0 });
    }
    let is_all = |name: &String| name.eq_ignore_ascii_case("ALL");
    let bits = |names: &[String]| -> Result<u64> {
        names.iter().filter(|name| !is_all(name)).try_fold(0, |bits, name| {
            bit(name).map(|bit| bits | bit).ok_or_else(|| CriError::invalid(format!("unknown capability {name:?}")))
        })
    };
    let mut set = DEFAULT.iter().filter_map(|name| bit(name)).sum::<u64>();
    if wanted.add_capabilities.iter().any(is_all) {
        set = ALL;
    }
    if wanted.drop_capabilities.iter().any(is_all) {
        set = 0;
    }
    set |= bits(&wanted.add_capabilities)?;
    set &= !bits(&wanted.drop_capabilities)?;
    let ambient = bits(&wanted.add_ambient_capabilities)?;
    set |= ambient;
    Ok(Capabilities { bounding: set, effective: set, inheritable: ambient, ambient })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn additions_and_drops_give_the_expected_sets() {
        let default = 0x0000_0000_a804_25fb;
        for (add, drop, expected) in [
            (&[][..], &[][..], default),
            (&["NET_ADMIN"], &[], default | 1 << 12),
            (&["cap_net_admin"], &["ALL"], 1 << 12),
            (&["ALL"], &["SYS_ADMIN"], ALL & !(1 << 21)),
            (&[], &["CAP_CHOWN"], default & !1),
        ] {
            let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect();
            let wanted =
                Capability { add_capabilities: names(add), drop_capabilities: names(drop), ..Capability::default() };
            assert_eq!(of_container(&wanted, false).unwrap().bounding, expected, "{add:?} {drop:?}");
        }
        let unknown = Capability { add_capabilities: vec!["NONE_SUCH".into()], ..Capability::default() };
        assert!(of_container(&unknown, false).is_err());
    }
}
