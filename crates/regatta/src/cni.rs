//! The pod network for runtimes that attach pods themselves, by plugins of the Container Network Interface.
//!
//! The binary is its own plugin: a runtime executes it by the name `regatta` (or `loopback`) with `CNI_COMMAND` set. The
//! plugin asks the node's process, over a Unix socket that the configuration names, and gives its answer. The format of
//! both is that of the CNI specification 1.0.0, <https://www.cni.dev/docs/spec/>.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use runtime::cri::{PortMapping, Protocol};
use runtime::sandbox::{AttachRequest, Network};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

const VERSIONS: [&str; 4] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0"];
/// The interface that the network gives every pod.
const INTERFACE: &str = "eth0";
/// The name by which runtimes find the plugin.
const PLUGIN: &str = "regatta";
/// CNI's code for what a plugin itself has against a request.
const FAILED: u32 = 100;

/// What a runtime hands to a plugin on its standard input.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Conf {
    #[serde(default)]
    cni_version: String,
    r#type: String,
    #[serde(default)]
    socket: PathBuf,
    #[serde(default)]
    runtime_config: RuntimeConf,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RuntimeConf {
    port_mappings: Vec<Port>,
}

/// A mapping as the specification names its fields, or as runtimes do whose decoder does not mind the case.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Port {
    #[serde(alias = "HostPort")]
    host_port: u16,
    #[serde(alias = "ContainerPort")]
    container_port: u16,
    #[serde(alias = "Protocol")]
    protocol: String,
    #[serde(rename = "hostIP", alias = "HostIP")]
    host_ip: String,
}

/// What the plugin asks the node: one line of JSON, answered by one.
#[derive(Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
enum Ask {
    Attach { sandbox: String, namespace: String, name: String, netns: PathBuf, ports: Vec<Port> },
    Detach { sandbox: String, netns: PathBuf },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Addresses(Vec<IpAddr>),
    Failed(String),
}

/// Whether this process was started by a runtime as a plugin.
pub fn is_plugin() -> bool {
    std::env::args_os().len() == 1 && std::env::var_os("CNI_COMMAND").is_some()
}

/// Does what the environment asks for, and prints the result as the specification wants it.
pub fn plugin() -> ExitCode {
    let command = std::env::var("CNI_COMMAND").unwrap_or_default();
    let (output, code) = match run(&command) {
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(result)) => (result, ExitCode::SUCCESS),
        Err(error) => {
            let message = format!("{error:#}");
            (json!({"cniVersion": "1.0.0", "code": FAILED, "msg": message}), ExitCode::FAILURE)
        }
    };
    // Who does not read the answer has gone.
    let _ = writeln!(std::io::stdout(), "{output}");
    code
}

fn run(command: &str) -> Result<Option<Value>> {
    if command == "VERSION" {
        return Ok(Some(json!({"cniVersion": "1.0.0", "supportedVersions": VERSIONS})));
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("cannot read the network's configuration")?;
    let conf: Conf = serde_json::from_str(&text).context("the network's configuration")?;
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let netns = PathBuf::from(variable("CNI_NETNS"));
    if conf.r#type == "loopback" {
        return loopback(command, &conf, &netns);
    }
    let sandbox = variable("CNI_CONTAINERID");
    if variable("CNI_IFNAME") != INTERFACE {
        bail!("pods have one interface, {INTERFACE}; {:?} was asked for", variable("CNI_IFNAME"));
    }
    match command {
        "ADD" => {
            let arguments = variable("CNI_ARGS");
            let argument = |name: &str| {
                let pairs = arguments.split(';').filter_map(|pair| pair.split_once('='));
                pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_owned()).unwrap_or_default()
            };
            let (namespace, name) = (argument("K8S_POD_NAMESPACE"), argument("K8S_POD_NAME"));
            let ports = conf.runtime_config.port_mappings;
            let ask = Ask::Attach { sandbox, namespace, name, netns: netns.clone(), ports };
            let addresses = ask_node(&conf.socket, &ask)?;
            Ok(Some(result(
                &conf.cni_version,
                INTERFACE,
                &netns,
                addresses.into_iter().map(|ip| (ip, host_prefix(ip))),
            )))
        }
        // Without the node's process there is no network to be taken away from.
        "DEL" if !conf.socket.exists() => Ok(None),
        "DEL" => ask_node(&conf.socket, &Ask::Detach { sandbox, netns }).map(|_| None),
        "CHECK" | "GC" => Ok(None),
        "STATUS" => UnixStream::connect(&conf.socket).context("the node's process does not answer").map(|_| None),
        other => bail!("unknown command {other:?}"),
    }
}

fn loopback(command: &str, conf: &Conf, netns: &Path) -> Result<Option<Value>> {
    if command != "ADD" {
        return Ok(None);
    }
    runtime::sandbox::raise_loopback(netns).with_context(|| format!("cannot raise lo in {}", netns.display()))?;
    let address = (IpAddr::from([127, 0, 0, 1]), 8);
    Ok(Some(result(&conf.cni_version, "lo", netns, [address])))
}

fn host_prefix(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

/// A result with one interface. Before version 1 an address said which of IP's versions it is.
fn result(version: &str, name: &str, netns: &Path, addresses: impl IntoIterator<Item = (IpAddr, u8)>) -> Value {
    let ips = addresses.into_iter().map(|(ip, prefix)| {
        let mut entry = json!({"address": format!("{ip}/{prefix}"), "interface": 0});
        if version.starts_with("0.") {
            entry["version"] = if ip.is_ipv4() { "4".into() } else { "6".into() };
        }
        entry
    });
    json!({
        "cniVersion": version,
        "interfaces": [{"name": name, "sandbox": netns}],
        "ips": ips.collect::<Vec<_>>(),
        "dns": {},
    })
}

fn ask_node(socket: &Path, ask: &Ask) -> Result<Vec<IpAddr>> {
    let shown = socket.display();
    let mut stream =
        UnixStream::connect(socket).with_context(|| format!("the node's process does not answer at {shown}"))?;
    writeln!(stream, "{}", serde_json::to_string(ask)?)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    match serde_json::from_str(&line).with_context(|| format!("the answer at {shown}"))? {
        Answer::Addresses(addresses) => Ok(addresses),
        Answer::Failed(message) => bail!(message),
    }
}

/// Answers plugins until it is dropped. The socket is root's alone.
pub async fn serve(socket: PathBuf, network: Arc<dyn Network>) -> Result<()> {
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).with_context(|| format!("cannot listen on {}", socket.display()))?;
    std::fs::set_permissions(&socket, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    loop {
        let (stream, _) = listener.accept().await?;
        let network = network.clone();
        tokio::spawn(async move {
            let (read, mut write) = stream.into_split();
            let mut line = String::new();
            let read = tokio::io::BufReader::new(read).read_line(&mut line).await;
            let Ok(ask) = read.and_then(|_| serde_json::from_str(&line).map_err(Into::into)) else { return };
            let answer = answer(&*network, ask).await;
            if let Ok(text) = serde_json::to_string(&answer) {
                // A plugin that was killed asks again, or is asked to take back.
                let _ = write.write_all(format!("{text}\n").as_bytes()).await;
            }
        });
    }
}

async fn answer(network: &dyn Network, ask: Ask) -> Answer {
    let done = match ask {
        Ask::Attach { sandbox, namespace, name, netns, ports } => {
            let port_mappings = ports.iter().map(mapping).collect();
            let request =
                AttachRequest { sandbox_id: sandbox, namespace, name, uid: String::new(), netns, port_mappings };
            network.attach(request).await
        }
        Ask::Detach { sandbox, netns } => network.detach(&sandbox, &netns).await.map(|()| Vec::new()),
    };
    done.map_or_else(|error| Answer::Failed(error.message), Answer::Addresses)
}

fn mapping(port: &Port) -> PortMapping {
    PortMapping {
        protocol: match port.protocol.to_ascii_lowercase().as_str() {
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            _ => Protocol::Tcp,
        },
        container_port: port.container_port,
        host_port: port.host_port,
        host_ip: port.host_ip.clone(),
    }
}

/// Where runtimes look for plugins and for networks.
#[derive(Clone, Debug)]
pub struct Directories {
    pub bin: PathBuf,
    pub conf: PathBuf,
}

impl Directories {
    fn file(&self, id: &str) -> PathBuf {
        self.conf.join(format!("10-regatta-{id}.conflist"))
    }

    fn links(&self) -> [PathBuf; 2] {
        [self.bin.join(PLUGIN), self.bin.join("loopback")]
    }

    /// Lets runtimes find this network. What others have put there stays as it is.
    pub fn install(&self, id: &str, socket: &Path) -> Result<()> {
        for directory in [&self.bin, &self.conf] {
            std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        }
        let program = std::env::current_exe().context("cannot find this program")?;
        for link in self.links() {
            if std::fs::read_link(&link).is_ok_and(|target| target.file_name() == program.file_name()) {
                std::fs::remove_file(&link)?;
            }
            if !link.exists() {
                std::os::unix::fs::symlink(&program, &link)
                    .with_context(|| format!("cannot make {}", link.display()))?;
            }
        }
        let network = json!({
            "cniVersion": "1.0.0",
            "name": format!("regatta-{id}"),
            "plugins": [{"type": PLUGIN, "socket": socket, "capabilities": {"portMappings": true}}],
        });
        let (file, temporary) = (self.file(id), self.conf.join(format!(".regatta-{id}.new")));
        std::fs::write(&temporary, network.to_string())
            .and_then(|()| std::fs::rename(&temporary, &file))
            .with_context(|| format!("cannot write {}", file.display()))
    }

    /// Takes back what was installed.
    pub fn remove(&self, id: &str) {
        let _ = std::fs::remove_file(self.file(id));
        let Ok(program) = std::env::current_exe() else { return };
        for link in self.links() {
            if std::fs::read_link(&link).is_ok_and(|target| target == program) {
                let _ = std::fs::remove_file(link);
            }
        }
        // Only where nobody else has anything.
        let _ = std::fs::remove_dir(&self.conf);
        let _ = std::fs::remove_dir(&self.bin);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_has_the_form_of_its_version() {
        let netns = Path::new("/run/netns/a");
        let text = |version| result(version, "eth0", netns, [(IpAddr::from([10, 0, 0, 5]), 32)]);
        assert_eq!(text("1.0.0")["ips"], json!([{"address": "10.0.0.5/32", "interface": 0}]));
        assert_eq!(text("0.3.1")["ips"], json!([{"address": "10.0.0.5/32", "interface": 0, "version": "4"}]));
        assert_eq!(text("1.0.0")["interfaces"], json!([{"name": "eth0", "sandbox": "/run/netns/a"}]));
    }

    #[test]
    fn ports_are_read_in_either_spelling() {
        for text in [
            r#"{"hostPort": 80, "containerPort": 8080, "protocol": "udp", "hostIP": "10.0.0.1"}"#,
            r#"{"HostPort": 80, "ContainerPort": 8080, "Protocol": "UDP", "HostIP": "10.0.0.1"}"#,
        ] {
            let expected = PortMapping {
                protocol: Protocol::Udp,
                container_port: 8080,
                host_port: 80,
                host_ip: "10.0.0.1".into(),
            };
            assert_eq!(mapping(&serde_json::from_str(text).unwrap()), expected);
        }
    }

    #[test]
    fn a_configuration_is_installed_beside_others_and_taken_back() {
        let directory = tempfile::tempdir().unwrap();
        let directories = Directories { bin: directory.path().join("bin"), conf: directory.path().join("conf") };
        std::fs::create_dir_all(&directories.bin).unwrap();
        std::fs::write(directories.bin.join("loopback"), "another's").unwrap();
        for _ in 0..2 {
            directories.install("abc", Path::new("/run/x.sock")).unwrap();
        }
        let conf: Value = serde_json::from_slice(&std::fs::read(directories.file("abc")).unwrap()).unwrap();
        assert_eq!(conf["plugins"][0]["socket"], "/run/x.sock");
        assert!(directories.bin.join(PLUGIN).is_symlink());
        directories.remove("abc");
        assert!(!directories.conf.exists() && !directories.bin.join(PLUGIN).is_symlink());
        assert_eq!(std::fs::read(directories.bin.join("loopback")).unwrap(), b"another's");
    }
}
