//! What the machine must offer, looked at before anything is made: each thing that is missing is said in one sentence, with
//! what to do about it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use net::pod::probe::Feature;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::data::DataDir;

/// Refuses a user who may not do what the command does.
pub fn root(command: &str) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("`regatta {command}` needs root: run `sudo regatta {command}`");
    }
    Ok(())
}

/// Looks at the machine, and refuses it with everything that it lacks.
pub fn check() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("a cluster needs root: run `sudo regatta up`");
    }
    refuse(complaints(&Facts::gather()))
}

/// Looks at the file system that the data directory is on.
pub fn check_directory(data: &DataDir) -> Result<()> {
    let probe = data.join(crate::data::OVERLAY_CHECK);
    let found = overlay_on(&probe);
    // What cannot be removed is inside the data directory, and goes with that.
    let _ = fs::remove_dir_all(&probe);
    match found {
        Ok(()) => Ok(()),
        Err(error) => bail!("{}", about_overlay(&data.path, &format!("{error:#}"))),
    }
}

fn refuse(complaints: Vec<String>) -> Result<()> {
    match complaints.len() {
        0 => Ok(()),
        1 => bail!("{}", complaints[0]),
        _ => bail!("this machine lacks what a cluster needs:\n- {}", complaints.join("\n- ")),
    }
}

/// What is known of the machine.
#[derive(Default)]
struct Facts {
    overlay: bool,
    missing_namespaces: Vec<&'static str>,
    /// Controllers of every mounted cgroup hierarchy; `None` where none is mounted.
    controllers: Option<BTreeSet<String>>,
    missing_network: Vec<(Feature, nix::errno::Errno)>,
}

impl Facts {
    fn gather() -> Facts {
        let filesystems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let namespaces = ["mnt", "net", "pid", "ipc", "uts"];
        Facts {
            overlay: filesystems.lines().any(|l| l.ends_with("overlay")) || module_exists("overlay"),
            missing_namespaces: namespaces
                .into_iter()
                .filter(|n| !Path::new("/proc/self/ns").join(n).exists())
                .collect(),
            controllers: controllers(&mounts, |list| fs::read_to_string(list).unwrap_or_default()),
            missing_network: net::pod::probe::missing(),
        }
    }
}

/// A module that the kernel would load at first use.
fn module_exists(name: &str) -> bool {
    let Ok(release) = fs::read_to_string("/proc/sys/kernel/osrelease") else { return false };
    let listed = format!("/lib/modules/{}/modules.dep", release.trim());
    fs::read_to_string(listed).is_ok_and(|text| text.contains(&format!("/{name}.ko")))
}

/// The controllers of the hierarchies that `/proc/self/mountinfo` lists.
fn controllers(mounts: &str, read: impl Fn(&Path) -> String) -> Option<BTreeSet<String>> {
    let mut found: Option<BTreeSet<String>> = None;
    for line in mounts.lines() {
        let Some((place, about)) = line.split_once(" - ") else { continue };
        let (Some(point), mut about) = (place.split(' ').nth(4), about.split(' ')) else { continue };
        let (kind, options) = (about.next().unwrap_or_default(), about.nth(1).unwrap_or_default());
        let names: Vec<String> = match kind {
            "cgroup" => options.split(',').map(str::to_owned).collect(),
            "cgroup2" => {
                read(&Path::new(point).join("cgroup.controllers")).split_whitespace().map(str::to_owned).collect()
            }
            _ => continue,
        };
        found.get_or_insert_default().extend(names);
    }
    found
}

/// A sentence for everything that is missing.
fn complaints(facts: &Facts) -> Vec<String> {
    let mut all = Vec::new();
    if !facts.overlay {
        all.push(
            "the kernel has no overlayfs; load the module `overlay` or use a kernel with CONFIG_OVERLAY_FS".to_owned(),
        );
    }
    for namespace in &facts.missing_namespaces {
        all.push(format!(
            "the kernel has no {namespace} namespaces, which containers need; use a kernel with CONFIG_NAMESPACES and \
             those below it"
        ));
    }
    match &facts.controllers {
        None => all.push("no cgroup hierarchy is mounted; mount cgroup2 on /sys/fs/cgroup".to_owned()),
        Some(there) => {
            for (controller, remedy) in [
                ("cpu", "use a kernel with CONFIG_FAIR_GROUP_SCHED, and in a container one that has been given it"),
                ("memory", "add `cgroup_enable=memory` to the kernel's command line and start the machine anew"),
                ("pids", "use a kernel with CONFIG_CGROUP_PIDS, and in a container one that has been given it"),
            ] {
                if !there.contains(controller) {
                    all.push(format!("the cgroup controller {controller} is missing; {remedy}"));
                }
            }
        }
    }
    all.extend(facts.missing_network.iter().map(|(feature, errno)| about_network(*feature, *errno)));
    all
}

fn about_network(feature: Feature, errno: nix::errno::Errno) -> String {
    if errno == nix::errno::Errno::EPERM {
        return format!(
            "the right to administer the network is missing ({feature:?}: {errno}); in a container, run it privileged"
        );
    }
    let (what, module, option) = match feature {
        Feature::Namespaces => {
            return format!("a network namespace cannot be made: {errno}; use a kernel with CONFIG_NET_NS");
        }
        Feature::Nftables => ("nf_tables, by which services work", "nf_tables", "CONFIG_NF_TABLES_INET"),
        Feature::ConnectionTracking => ("connection tracking in nftables", "nft_ct", "CONFIG_NFT_CT"),
        Feature::Nat => ("address translation in nftables", "nft_chain_nat", "CONFIG_NFT_NAT"),
        Feature::Masquerade => ("masquerading in nftables", "nft_masq", "CONFIG_NFT_MASQ"),
        Feature::Reject => ("rejecting in nftables", "nft_reject_inet", "CONFIG_NFT_REJECT"),
        Feature::Maps => ("maps in nftables", "nf_tables", "CONFIG_NF_TABLES"),
        Feature::Rules => {
            return format!("the kernel's nftables refuse the node's rules: {errno}; use a kernel of 5.13 or later");
        }
        Feature::Bridge => ("bridges", "bridge", "CONFIG_BRIDGE"),
        Feature::Veth => ("veth interfaces, by which pods are connected", "veth", "CONFIG_VETH"),
    };
    format!("the kernel has no {what} ({errno}); load the module `{module}` or use a kernel with {option}")
}

fn about_overlay(path: &Path, error: &str) -> String {
    format!(
        "overlayfs does not work on the file system of {} ({error}); choose a directory on ext4, xfs or btrfs with --data-dir",
        path.display()
    )
}

/// Stacks two directories in a mount namespace that nobody sees.
fn overlay_on(probe: &Path) -> Result<()> {
    for name in ["lower", "upper", "work", "merged"] {
        let path = probe.join(name);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
    }
    let probe = probe.to_owned();
    let looking = std::thread::Builder::new().name("overlay-check".to_owned()).spawn(move || {
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).context("no mount namespace can be made")?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
        // Paths in the options would need escaping.
        std::env::set_current_dir(&probe)?;
        let options = "lowerdir=lower,upperdir=upper,workdir=work";
        mount(Some("overlay"), "merged", Some("overlay"), MsFlags::empty(), Some(options))?;
        umount2("merged", MntFlags::MNT_DETACH)?;
        anyhow::Ok(())
    })?;
    looking.join().unwrap_or_else(|_| bail!("the check itself has failed"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;

    fn good() -> Facts {
        let controllers = ["cpu", "memory", "pids"].map(str::to_owned).into();
        Facts { overlay: true, controllers: Some(controllers), ..Facts::default() }
    }

    #[test]
    fn everything_that_a_machine_lacks_is_said_with_what_to_do() {
        assert_eq!(complaints(&good()), [""; 0]);
        let without = |name: &str| {
            let mut there = good().controllers.expect("controllers");
            there.remove(name);
            Facts { controllers: Some(there), ..good() }
        };
        let network = |feature, errno| Facts { missing_network: vec![(feature, errno)], ..good() };
        for (facts, parts) in [
            (Facts { overlay: false, ..good() }, ["overlayfs", "CONFIG_OVERLAY_FS"]),
            (Facts { missing_namespaces: vec!["pid"], ..good() }, ["pid namespaces", "CONFIG_NAMESPACES"]),
            (Facts { controllers: None, ..good() }, ["no cgroup hierarchy", "mount cgroup2"]),
            (without("cpu"), ["controller cpu", "CONFIG_FAIR_GROUP_SCHED"]),
            (without("memory"), ["controller memory", "cgroup_enable=memory"]),
            (without("pids"), ["controller pids", "CONFIG_CGROUP_PIDS"]),
            (network(Feature::Namespaces, Errno::ENOSPC), ["network namespace", "CONFIG_NET_NS"]),
            (network(Feature::Nftables, Errno::EPROTONOSUPPORT), ["nf_tables", "CONFIG_NF_TABLES_INET"]),
            (network(Feature::ConnectionTracking, Errno::ENOENT), ["connection tracking", "`nft_ct`"]),
            (network(Feature::Nat, Errno::ENOENT), ["translation", "`nft_chain_nat`"]),
            (network(Feature::Masquerade, Errno::ENOENT), ["masquerading", "`nft_masq`"]),
            (network(Feature::Reject, Errno::ENOENT), ["rejecting", "`nft_reject_inet`"]),
            (network(Feature::Maps, Errno::ENOENT), ["maps", "CONFIG_NF_TABLES"]),
            (network(Feature::Rules, Errno::EINVAL), ["refuse", "5.13"]),
            (network(Feature::Bridge, Errno::EOPNOTSUPP), ["bridges", "CONFIG_BRIDGE"]),
            (network(Feature::Veth, Errno::EOPNOTSUPP), ["veth", "CONFIG_VETH"]),
            (network(Feature::Bridge, Errno::EPERM), ["right to administer", "privileged"]),
        ] {
            let said = complaints(&facts);
            assert!(said.len() == 1 && parts.iter().all(|part| said[0].contains(part)), "{parts:?}: {said:?}");
        }
        let both = refuse(vec!["one".to_owned(), "two".to_owned()]).expect_err("refused").to_string();
        assert!(both.contains("\n- one\n- two"), "{both}");
        assert!(about_overlay(Path::new("/data"), "EINVAL").contains("--data-dir"));
    }

    #[test]
    fn controllers_are_those_of_all_hierarchies_of_both_versions() {
        let hybrid = "1 0 0:1 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
                      2 0 0:2 / /sys/fs/cgroup/unified rw shared:3 - cgroup2 cgroup2 rw\n3 0 0:3 / / rw - ext4 /dev/a rw\n";
        let found = controllers(hybrid, |list| {
            assert_eq!(list, Path::new("/sys/fs/cgroup/unified/cgroup.controllers"));
            "memory pids\n".to_owned()
        });
        let found = found.expect("mounted");
        assert!(["cpu", "memory", "pids"].iter().all(|name| found.contains(*name)), "{found:?}");
        assert_eq!(controllers("3 0 0:3 / / rw - ext4 /dev/a rw\n", |_| String::new()), None);
    }
}
