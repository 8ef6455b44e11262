//! NFS shares, mounted by the kernel itself.

use std::fs;
use std::io;
use std::net::{IpAddr, ToSocketAddrs, UdpSocket};
use std::path::Path;

use k8s_openapi::api::core::v1::{NFSVolumeSource, PersistentVolumeSpec};

use super::mounts;

/// Protocol versions in the order in which they are tried when no option names one.
const VERSIONS: [&str; 3] = ["4.2", "4.1", "4.0"];

/// A share, and how it is to be mounted.
#[derive(Debug)]
pub struct Share {
    server: String,
    path: String,
    read_only: bool,
    options: Vec<String>,
}

impl Share {
    pub fn new(source: &NFSVolumeSource, options: &[String]) -> Share {
        Share {
            server: source.server.clone(),
            path: source.path.clone(),
            read_only: source.read_only.unwrap_or(false),
            options: options.to_vec(),
        }
    }

    pub fn of(spec: &PersistentVolumeSpec) -> Option<Share> {
        Some(Share::new(spec.nfs.as_ref()?, spec.mount_options.as_deref().unwrap_or_default()))
    }

    /// What the kernel wants to know, for one version: the addresses of both ends besides the user's options.
    fn data(&self, version: Option<&str>, server: IpAddr, client: IpAddr) -> (nix::mount::MsFlags, String) {
        let (mut flags, rest) = mounts::options(&self.options);
        flags.set(nix::mount::MsFlags::MS_RDONLY, self.read_only || flags.contains(nix::mount::MsFlags::MS_RDONLY));
        let own = [format!("addr={server}"), format!("clientaddr={client}")];
        let version = version.map(|version| format!("vers={version}"));
        let all: Vec<String> = version.into_iter().chain(rest).chain(own).collect();
        (flags, all.join(","))
    }
}

/// Mounts a share unless it is mounted already.
pub fn mount(share: &Share, dir: &Path) -> io::Result<()> {
    if mounts::is_mounted(dir)? {
        return Ok(());
    }
    fs::create_dir_all(dir)?;
    let server = (share.server.as_str(), 2049).to_socket_addrs()?.next();
    let server = server.ok_or_else(|| io::Error::other(format!("no address of {}", share.server)))?;
    // The address by which the server reaches this node; nothing is sent.
    let probe = UdpSocket::bind(if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    probe.connect(server)?;
    let client = probe.local_addr()?.ip();
    let chosen = share.options.iter().any(|option| option.starts_with("vers=") || option.starts_with("nfsvers="));
    let versions: Vec<Option<&str>> = if chosen { vec![None] } else { VERSIONS.map(Some).to_vec() };
    let what = format!("{}:{}", share.server, share.path);
    let mut last = io::Error::other("no version of the protocol to try");
    for version in versions {
        let (flags, data) = share.data(version, server.ip(), client);
        match nix::mount::mount(Some(what.as_str()), dir, Some("nfs4"), flags, Some(data.as_str())) {
            Ok(()) => return Ok(()),
            Err(error) => last = error.into(),
        }
    }
    Err(io::Error::other(format!("mount failed: mounting {what} at {}: {last}", dir.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_become_flags_and_data() {
        let source = NFSVolumeSource { path: "/x".into(), read_only: None, server: "s".into() };
        let share = Share::new(&source, &["ro".into(), "hard".into(), "noexec".into()]);
        let (flags, data) = share.data(Some("4.1"), IpAddr::from([1, 1, 1, 1]), IpAddr::from([2, 2, 2, 2]));
        assert_eq!(flags, nix::mount::MsFlags::MS_RDONLY | nix::mount::MsFlags::MS_NOEXEC);
        assert_eq!(data, "vers=4.1,hard,addr=1.1.1.1,clientaddr=2.2.2.2");
    }
}
