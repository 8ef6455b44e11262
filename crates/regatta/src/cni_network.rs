//! Pods attached by CNI plugins that an administrator has configured, in place of the built-in network.
//!
//! What was done for a pod is written down before it is told, so that it can be taken back after a crash, by the
//! configuration of that time.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use async_trait::async_trait;
use runtime::cri::{CriError, PortMapping, Protocol, Result};
use runtime::sandbox::{AttachRequest, Network};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::cni::Directories;

/// The interface that pods get, as every runtime calls it.
const INTERFACE: &str = "eth0";

pub struct CniNetwork {
    directories: Directories,
    /// A file a pod.
    attached: PathBuf,
}

/// What a pod's attachment is taken back by.
#[derive(Default, Serialize, Deserialize)]
struct Attachment {
    network: Value,
    variables: BTreeMap<String, String>,
    ports: Value,
    /// The last plugin's result; none where the attachment did not get so far.
    result: Option<Value>,
}

impl CniNetwork {
    pub fn open(directories: Directories, attached: PathBuf) -> io::Result<CniNetwork> {
        std::fs::create_dir_all(&attached)?;
        Ok(CniNetwork { directories, attached })
    }

    /// The first configuration by name, as a list of plugins.
    fn configuration(&self) -> Result<Value> {
        let conf = &self.directories.conf;
        let missing = || CriError::precondition(format!("no CNI network is configured in {}", conf.display()));
        let mut files: Vec<_> = std::fs::read_dir(conf).map_err(|_| missing())?.flatten().map(|e| e.path()).collect();
        files.retain(|file| file.extension().is_some_and(|kind| kind == "conflist" || kind == "conf"));
        files.sort();
        let file = files.first().ok_or_else(missing)?;
        let invalid = |error: &dyn std::fmt::Display| CriError::invalid(format!("{}: {error}", file.display()));
        let value: Value = serde_json::from_slice(&std::fs::read(file)?).map_err(|error| invalid(&error))?;
        if value["plugins"].is_array() {
            return Ok(value);
        }
        if value["type"].is_string() {
            return Ok(json!({"cniVersion": value["cniVersion"], "name": value["name"], "plugins": [value]}));
        }
        Err(invalid(&"it has neither plugins nor a type"))
    }

    fn path(&self, sandbox: &str) -> PathBuf {
        self.attached.join(format!("{sandbox}.json"))
    }

    fn save(&self, sandbox: &str, attachment: &Attachment) -> Result<()> {
        let (path, text) = (self.path(sandbox), serde_json::to_vec(attachment).map_err(io::Error::other)?);
        let fresh = path.with_extension("new");
        Ok(std::fs::write(&fresh, text).and_then(|()| std::fs::rename(&fresh, &path))?)
    }

    /// Asks every plugin in turn, each with the result of the one before it.
    async fn add(&self, attachment: &mut Attachment) -> Result<()> {
        for plugin in plugins(&attachment.network) {
            let result = self.run("ADD", plugin, attachment).await?;
            attachment.result = Some(result);
        }
        Ok(())
    }

    /// Takes back in the reverse order. Gives the first failure, after all were asked.
    async fn remove(&self, attachment: &Attachment) -> Result<()> {
        let mut outcome = Ok(());
        for plugin in plugins(&attachment.network).into_iter().rev() {
            let done = self.run("DEL", plugin, attachment).await.map(drop);
            outcome = outcome.and(done);
        }
        outcome
    }

    async fn run(&self, command: &str, plugin: Map<String, Value>, attachment: &Attachment) -> Result<Value> {
        let kind = plugin.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
        if kind.is_empty() || kind.contains('/') {
            return Err(CriError::invalid(format!("invalid CNI plugin {kind:?}")));
        }
        let failed = |error: &dyn std::fmt::Display| CriError::internal(format!("CNI plugin {kind}: {error}"));
        let mut process = Command::new(self.directories.bin.join(&kind))
            .env("CNI_COMMAND", command)
            .env("CNI_PATH", &self.directories.bin)
            .envs(&attachment.variables)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed(&error))?;
        let input = configure(plugin, attachment).to_string();
        if let Some(mut stdin) = process.stdin.take() {
            // A plugin may answer without having read all.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        let output = process.wait_with_output().await.map_err(|error| failed(&error))?;
        let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        if output.status.success() {
            return Ok(told);
        }
        let message = told["msg"].as_str().map_or_else(|| output.status.to_string(), str::to_owned);
        Err(failed(&message))
    }
}

fn plugins(network: &Value) -> Vec<Map<String, Value>> {
    network["plugins"].as_array().into_iter().flatten().filter_map(|plugin| plugin.as_object().cloned()).collect()
}

/// A plugin's own part of the configuration, with what the specification adds for an execution.
fn configure(mut plugin: Map<String, Value>, attachment: &Attachment) -> Value {
    for name in ["cniVersion", "name"] {
        plugin.insert(name.to_owned(), attachment.network[name].clone());
    }
    if let Some(result) = &attachment.result {
        plugin.insert("prevResult".to_owned(), result.clone());
    }
    let capabilities = plugin.remove("capabilities").unwrap_or_default();
    if capabilities["portMappings"] == true {
        plugin.insert("runtimeConfig".to_owned(), json!({"portMappings": attachment.ports}));
    }
    plugin.into()
}

fn addresses(result: &Value) -> Vec<IpAddr> {
    let texts = result["ips"].as_array().into_iter().flatten().filter_map(|ip| ip["address"].as_str());
    texts.filter_map(|text| text.split('/').next()?.parse().ok()).collect()
}

fn port(mapping: &PortMapping) -> Value {
    let protocol = match mapping.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    };
    json!({"hostPort": mapping.host_port, "containerPort": mapping.container_port, "protocol": protocol,
           "hostIP": mapping.host_ip})
}

#[async_trait]
impl Network for CniNetwork {
    fn check(&self) -> Result<()> {
        self.configuration().map(drop)
    }

    async fn attach(&self, request: AttachRequest) -> Result<Vec<IpAddr>> {
        if let Some(done) = load(&self.path(&request.sandbox_id)).and_then(|attachment| attachment.result) {
            return Ok(addresses(&done));
        }
        let arguments = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
            request.namespace, request.name, request.sandbox_id, request.uid
        );
        let variables = [
            ("CNI_CONTAINERID", request.sandbox_id.clone()),
            ("CNI_NETNS", request.netns.display().to_string()),
            ("CNI_IFNAME", INTERFACE.to_owned()),
            ("CNI_ARGS", arguments),
        ];
        let ports = request.port_mappings.iter().filter(|mapping| mapping.host_port != 0).map(port).collect();
        let mut attachment = Attachment {
            network: self.configuration()?,
            variables: variables.map(|(name, value)| (name.to_owned(), value)).into(),
            ports,
            result: None,
        };
        self.save(&request.sandbox_id, &attachment)?;
        if let Err(error) = self.add(&mut attachment).await {
            // As far as it got; the pod will be tried again as another.
            let _ = self.detach(&request.sandbox_id, &request.netns).await;
            return Err(error);
        }
        self.save(&request.sandbox_id, &attachment)?;
        Ok(addresses(attachment.result.as_ref().unwrap_or(&Value::Null)))
    }

    async fn detach(&self, sandbox_id: &str, _: &Path) -> Result<()> {
        let path = self.path(sandbox_id);
        let Some(attachment) = load(&path) else { return Ok(()) };
        self.remove(&attachment).await?;
        Ok(std::fs::remove_file(path)?)
    }
}

fn load(path: &Path) -> Option<Attachment> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A plugin that tells what it was asked in its log, and hands on what it got with one more address.
    const PLUGIN: &str = r#"#!/bin/sh
input=$(cat)
echo "$CNI_COMMAND $0 $CNI_IFNAME $input" >> "$(dirname "$0")/log"
[ "$CNI_COMMAND" = ADD ] && [ -e "$(dirname "$0")/broken" ] && { echo '{"code": 7, "msg": "no addresses left"}'; exit 1; }
[ "$CNI_COMMAND" = ADD ] && echo '{"cniVersion": "1.0.0", "ips": [{"address": "10.9.0.5/24"}]}'
exit 0
"#;

    #[tokio::test]
    async fn plugins_are_asked_in_order_and_taken_back_in_reverse_also_after_a_failure() {
        let directory = tempfile::tempdir().unwrap();
        let directories = Directories { bin: directory.path().join("bin"), conf: directory.path().join("conf") };
        for path in [&directories.bin, &directories.conf] {
            std::fs::create_dir(path).unwrap();
        }
        for name in ["one", "two"] {
            std::fs::write(directories.bin.join(name), PLUGIN).unwrap();
            std::fs::set_permissions(directories.bin.join(name), std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let network = CniNetwork::open(directories.clone(), directory.path().join("attached")).unwrap();
        let request = AttachRequest {
            sandbox_id: "abc".into(),
            namespace: "default".into(),
            name: "web".into(),
            uid: "uid".into(),
            netns: "/run/netns/none".into(),
            port_mappings: Vec::new(),
        };
        let unconfigured = network.attach(request.clone()).await.unwrap_err();
        assert!(unconfigured.message.starts_with("no CNI network is configured"), "{unconfigured}");

        let conf = r#"{"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "one"}, {"type": "two"}]}"#;
        std::fs::write(directories.conf.join("10-net.conflist"), conf).unwrap();
        let expected = [IpAddr::from([10, 9, 0, 5])];
        // The second time it is only told.
        for _ in 0..2 {
            assert_eq!(network.attach(request.clone()).await.unwrap(), expected);
        }
        network.detach("abc", Path::new("")).await.unwrap();
        network.detach("abc", Path::new("")).await.unwrap();
        std::fs::write(directories.bin.join("broken"), "").unwrap();
        let error = network.attach(request).await.unwrap_err();
        assert_eq!(error.message, "CNI plugin one: no addresses left");

        let log = std::fs::read_to_string(directories.bin.join("log")).unwrap();
        let asked = |line: &str| {
            let mut words = line.split(' ');
            let (command, program) = (words.next().unwrap(), words.next().unwrap());
            format!("{command} {}", program.rsplit('/').next().unwrap())
        };
        let order: Vec<_> = log.lines().map(asked).collect();
        assert_eq!(order, ["ADD one", "ADD two", "DEL two", "DEL one", "ADD one", "DEL two", "DEL one"]);
        let second = log.lines().nth(1).unwrap();
        assert!(second.contains("\"prevResult\"") && second.contains("\"name\":\"net\"") && second.contains(" eth0 "));
        assert_eq!(std::fs::read_dir(directory.path().join("attached")).unwrap().count(), 0);
    }
}
