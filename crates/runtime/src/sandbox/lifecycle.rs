//! Making and ending sandboxes.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::sync::Arc;

use nix::mount::{MsFlags, mount};
use nix::sched::CloneFlags;

use super::namespaces::{self, Wanted, unmount};
use super::{AttachRequest, HANDLER, Sandbox};
use crate::container::lifecycle::KILL_TIMEOUT;
use crate::cri::{
    ContainerEventType, CriError, DNSConfig, NamespaceMode, NamespaceOption, PodSandboxConfig, Result, UserNamespace,
    root_of,
};
use crate::record::{SandboxRecord, VERSION, save};
use crate::runtime::{Runtime, new_id, now, unblock};
use crate::shim::protocol::{Namespaces, Reply, Request};
use crate::shim_client::{self, ShimClient};

impl Runtime {
    pub(crate) async fn make_sandbox(&self, config: PodSandboxConfig, runtime_handler: &str) -> Result<String> {
        if !matches!(runtime_handler, "" | HANDLER) {
            return Err(CriError::not_found(format!("no runtime for {runtime_handler:?} is configured")));
        }
        check_users(&config.linux.security_context.namespace_options)?;
        let id = new_id();
        let record = SandboxRecord {
            version: VERSION,
            id: id.clone(),
            config,
            runtime_handler: runtime_handler.to_owned(),
            created_at: now(),
            ..SandboxRecord::default()
        };
        // Before anything else, so that what a crash leaves is known.
        save(&self.paths.sandbox_record(&id), &record)?;
        let sandbox = Arc::new(Sandbox::new(record));
        match self.set_up(&sandbox, &id).await {
            Ok(()) => {
                self.sandboxes.write().insert(id.clone(), sandbox);
                self.announce_sandbox(&id, ContainerEventType::Created);
                self.announce_sandbox(&id, ContainerEventType::Started);
                Ok(id)
            }
            Err(error) => {
                self.tear_down(&sandbox, &id).await;
                self.discard(&id).await;
                Err(error)
            }
        }
    }

    async fn set_up(&self, sandbox: &Arc<Sandbox>, id: &str) -> Result<()> {
        let config = sandbox.record.lock().config.clone();
        let options = config.linux.security_context.namespace_options.clone();
        let users = options.own_users().cloned();
        let run = self.paths.sandbox_run(id);
        let (paths, program, runtime) = (self.paths.clone(), self.program.clone(), self.clone());
        let (sandbox_id, pod) = (id.to_owned(), config.clone());
        let socket = unblock(move || {
            fs::create_dir_all(&run)?;
            let (socket, shim) = shim_client::spawn(&program, &run)?;
            runtime.place_shim(shim);
            runtime.make_pod_cgroup(&pod)?;
            write_files(&run, &pod)?;
            make_mount(&paths.sandbox_mount(&sandbox_id), users.as_ref())?;
            if users.is_some() {
                return Ok(socket);
            }
            let kind = |wanted: NamespaceMode, flag, name| {
                (wanted != NamespaceMode::Node).then(|| (flag, name, paths.namespace(&sandbox_id, name)))
            };
            let kinds = [
                kind(options.network, CloneFlags::CLONE_NEWNET, "net"),
                kind(options.network, CloneFlags::CLONE_NEWUTS, "uts"),
                kind(options.ipc, CloneFlags::CLONE_NEWIPC, "ipc"),
            ];
            namespaces::make(Wanted {
                kinds: kinds.into_iter().flatten().collect(),
                hostname: pod.hostname.clone(),
                sysctls: pod.linux.sysctls.clone(),
            })?;
            Ok(socket)
        })
        .await?;
        self.connect_shim(sandbox, id, socket).await?;
        if let Some(users) = options.own_users() {
            let pins = ["user", "net", "uts", "ipc"].map(|kind| (kind.to_owned(), self.paths.namespace(id, kind)));
            let wanted = Namespaces {
                uids: users.uids.clone(),
                gids: users.gids.clone(),
                pins: pins.into(),
                hostname: config.hostname.clone(),
                sysctls: config.linux.sysctls.clone(),
            };
            shim_of(sandbox)?.call(Request::Namespaces(wanted), &[]).await?;
        }
        if config.linux.security_context.namespace_options.network != NamespaceMode::Node {
            let metadata = config.metadata.clone();
            let ips = self
                .config
                .network
                .attach(AttachRequest {
                    sandbox_id: id.to_owned(),
                    namespace: metadata.namespace,
                    name: metadata.name,
                    uid: metadata.uid,
                    netns: self.paths.namespace(id, "net"),
                    port_mappings: config.port_mappings.clone(),
                })
                .await?;
            sandbox.record.lock().ips = ips;
        }
        if config.linux.security_context.namespace_options.pid == NamespaceMode::Pod {
            self.make_pause(sandbox, id, &config).await?;
        }
        let record = {
            let mut record = sandbox.record.lock();
            record.ready = true;
            record.clone()
        };
        save(&self.paths.sandbox_record(id), &record)?;
        Ok(())
    }

    /// The process that holds a PID namespace for all of the pod's containers.
    async fn make_pause(&self, sandbox: &Arc<Sandbox>, id: &str, config: &PodSandboxConfig) -> Result<()> {
        let cgroup = self.hierarchies.at(&format!("{}/{id}", self.pod_cgroup(config)))?;
        cgroup.create()?;
        let users = config.linux.security_context.namespace_options.own_users();
        let users = users.map(|_| self.paths.namespace(id, "user"));
        let request = Request::Pause { cgroups: cgroup.directories(), users };
        let (reply, _) = shim_of(sandbox)?.call(request, &[]).await?;
        let Reply::Pid(pid) = reply else { return Err(CriError::internal("unexpected answer of a shim")) };
        namespaces::pin(Path::new(&format!("/proc/{pid}/ns/pid")), &self.paths.namespace(id, "pid"))
    }

    fn make_pod_cgroup(&self, config: &PodSandboxConfig) -> Result<()> {
        let cgroup = self.hierarchies.at(&self.pod_cgroup(config))?;
        cgroup.create()?;
        if let Some(resources) = &config.linux.resources {
            cgroup.apply(resources)?;
        }
        Ok(())
    }

    /// Ends everything of a sandbox but its record and its containers' records. Idempotent.
    pub(crate) async fn tear_down(&self, sandbox: &Arc<Sandbox>, id: &str) {
        let shim = sandbox.shim.lock().take();
        if let Some(shim) = shim {
            // It answers by closing the connection when its last process is reaped.
            let _ = tokio::time::timeout(KILL_TIMEOUT, shim.call(Request::Shutdown, &[])).await;
        }
        let config = sandbox.record.lock().config.clone();
        if config.linux.security_context.namespace_options.network != NamespaceMode::Node {
            let netns = self.paths.namespace(id, "net");
            if let Err(error) = self.config.network.detach(id, &netns).await {
                tracing::warn!(sandbox = id, %error, "cannot detach a pod from its network");
            }
        }
        let (runtime, id) = (self.clone(), id.to_owned());
        let _ = unblock(move || {
            runtime.unmount_sandbox(&id);
            let cgroup = runtime.hierarchies.at(&format!("{}/{id}", runtime.pod_cgroup(&config)))?;
            cgroup.kill();
            let _ = cgroup.remove();
            Ok(())
        })
        .await;
    }

    pub(crate) fn unmount_sandbox(&self, id: &str) {
        unmount(&self.paths.sandbox_mount(id));
        let run = self.paths.sandbox_run(id);
        let _ = fs::remove_dir_all(run);
    }

    /// Removes what is left of a sandbox, its containers being gone.
    pub(crate) async fn discard(&self, id: &str) {
        let (runtime, id) = (self.clone(), id.to_owned());
        let _ = unblock(move || {
            let record = runtime.paths.sandbox_record(&id);
            if let Some(known) = crate::record::load::<SandboxRecord>(&record) {
                runtime.remove_pod_cgroup(&known.config);
            }
            let _ = fs::remove_file(record);
            Ok(())
        })
        .await;
    }

    /// The pod's cgroup goes with its last sandbox; another one's below it keeps it.
    fn remove_pod_cgroup(&self, config: &PodSandboxConfig) {
        if let Ok(cgroup) = self.hierarchies.at(&self.pod_cgroup(config)) {
            for directory in cgroup.directories() {
                let _ = fs::remove_dir(directory);
            }
        }
    }
}

fn shim_of(sandbox: &Sandbox) -> Result<Arc<ShimClient>> {
    sandbox.shim.lock().clone().ok_or_else(|| CriError::internal("the sandbox's shim is gone"))
}

/// A pod with users of its own has all its namespaces to itself, and a root.
fn check_users(options: &NamespaceOption) -> Result<()> {
    let Some(users) = options.own_users() else { return Ok(()) };
    for (kind, mode) in [("network", options.network), ("PID", options.pid), ("IPC", options.ipc)] {
        if mode == NamespaceMode::Node {
            return Err(CriError::invalid(format!("the node's {kind} namespace cannot be used with a user namespace")));
        }
    }
    if root_of(&users.uids).and(root_of(&users.gids)).is_none() {
        return Err(CriError::invalid("a user namespace needs mappings of uid 0 and gid 0"));
    }
    Ok(())
}

/// A small file system with the places for namespaces, and with the memory that the pod's containers share.
fn make_mount(at: &Path, users: Option<&UserNamespace>) -> Result<()> {
    fs::create_dir_all(at)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("shm"), at, Some("tmpfs"), flags, Some("mode=755,size=65536k"))
        .map_err(|error| CriError::internal(format!("mount {}: {error}", at.display())))?;
    fs::create_dir(at.join("ns"))?;
    fs::create_dir(at.join("shm"))?;
    if let Some(users) = users {
        chown(at.join("shm"), root_of(&users.uids), root_of(&users.gids))?;
    }
    Ok(fs::set_permissions(at.join("shm"), fs::Permissions::from_mode(0o1777))?)
}

fn write_files(run: &Path, config: &PodSandboxConfig) -> Result<()> {
    let hostname = if config.hostname.is_empty() {
        nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    } else {
        config.hostname.clone()
    };
    fs::write(run.join("hostname"), format!("{hostname}\n"))?;
    match &config.dns_config {
        Some(dns) => fs::write(run.join("resolv.conf"), resolv_conf(dns))?,
        None => drop(fs::copy("/etc/resolv.conf", run.join("resolv.conf"))),
    }
    if config.linux.security_context.namespace_options.network == NamespaceMode::Node {
        let _ = fs::copy("/etc/hosts", run.join("hosts"));
    } else {
        let _ = fs::write(run.join("hosts"), "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    }
    Ok(())
}

fn resolv_conf(dns: &DNSConfig) -> String {
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text += &format!("search {}\n", dns.searches.join(" "));
    }
    for server in &dns.servers {
        text += &format!("nameserver {server}\n");
    }
    if !dns.options.is_empty() {
        text += &format!("options {}\n", dns.options.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resolver_file_has_searches_servers_and_options() {
        let list = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect();
        let dns = DNSConfig {
            servers: list(&["10.0.0.10"]),
            searches: list(&["a.svc.cluster.local", "svc.cluster.local"]),
            options: list(&["ndots:5"]),
        };
        let expected = "search a.svc.cluster.local svc.cluster.local\nnameserver 10.0.0.10\noptions ndots:5\n";
        assert_eq!(resolv_conf(&dns), expected);
    }
}
