//! The node's pod network, as the runtime asks for it.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result};
use async_trait::async_trait;
use net::pod::base::DNS;
use net::pod::foreign::{self, Place};
use runtime::cri::{Code, CriError, Protocol};
use runtime::sandbox::{AttachRequest, Network};

use crate::data::DataDir;
use crate::settings::Plan;

/// What every path that a pod's packets may take carries.
pub const MTU: u32 = 1500;

/// The node's network, and where the cluster's DNS is to listen.
pub struct Opened {
    pub network: net::PodNetwork,
    pub dns: IpAddr,
    pub dns_port: u16,
}

/// The network of this node. `dns` is the address at which the cluster's DNS is served.
pub async fn open(data: &DataDir, plan: &Plan, dns: IpAddr) -> Result<Opened> {
    let dns_port = net::dns::Dns::free_port(DNS).context("no port can be found for the cluster's DNS")?;
    if dns_port != DNS {
        tracing::info!(
            port = dns_port,
            "another program listens on port {DNS} of every address; DNS is led to another port"
        );
    }
    let config = net::Config {
        id: data.id.clone(),
        directory: data.join("net"),
        run: data.run(),
        ranges: net::Ranges {
            pods: vec![plan.pod_cidr],
            cluster: vec![plan.cluster_cidr],
            services: vec![plan.service_cidr],
        },
        plugins: plan.settings.cni,
        served: net::Served { addresses: vec![dns], port: dns_port },
        mtu: MTU,
    };
    let opened = tokio::task::spawn_blocking(move || net::PodNetwork::open(config)).await?;
    Ok(Opened { network: opened.context("cannot set up the pod network")?, dns, dns_port })
}

/// Looks whether the cluster's ranges cover addresses or routes of others on this machine. A first start is refused; a later
/// one, whose ranges stand, goes on with a warning.
pub fn check_ranges(data: &DataDir, plan: &Plan, first: bool) -> Result<()> {
    let places = foreign::places(&data.id).context("cannot list the machine's addresses and routes")?;
    // A bridge of the plugins carries addresses of the pods' range.
    let pods = (!plan.settings.cni).then_some(("--cluster-cidr", plan.cluster_cidr));
    for (option, range) in pods.into_iter().chain([("--service-cidr", plan.service_cidr)]) {
        let Some(place) = foreign::overlapping(range, &places) else { continue };
        let said = overlap(option, &range.to_string(), place);
        if first {
            anyhow::bail!("{said}; choose another range with {option}");
        }
        tracing::warn!("{said}; what is there cannot be reached from this machine");
    }
    Ok(())
}

fn overlap(option: &str, range: &str, place: &Place) -> String {
    let holder = match place.interface.as_str() {
        "" => "a route of this machine".to_owned(),
        name if place.is_of_a_cluster() => format!("another cluster of this machine, on interface {name}"),
        name => format!("this machine's interface {name}"),
    };
    format!("{option} {range} overlaps with {}, which belongs to {holder}", place.range)
}

/// Warns of other programs' rules that drop what the node forwards. No rule of ours can let pass what another's drops.
pub fn warn_of_firewalls(data: &DataDir, plan: &Plan) {
    match foreign::firewalls(&data.id) {
        Ok(firewalls) => firewalls.iter().for_each(|chain| {
            tracing::warn!(
                "{}",
                about_firewall(&chain.shown(), &plan.interface_prefix, &plan.cluster_cidr.to_string())
            );
        }),
        Err(error) => tracing::debug!(%error, "other programs' rules cannot be looked at"),
    }
}

fn about_firewall(chain: &str, prefix: &str, pods: &str) -> String {
    format!(
        "the firewall's chain `{chain}` drops what the machine forwards, so pods may reach neither each other nor the outside; \
         let their interfaces pass: with iptables or Docker `iptables -I FORWARD -i {prefix}+ -j ACCEPT` and `iptables -I \
         FORWARD -o {prefix}+ -j ACCEPT`, with ufw `ufw default allow routed`, with firewalld `firewall-cmd --permanent \
         --zone=trusted --add-source={pods}` and `firewall-cmd --reload`"
    )
}

/// [`net::PodNetwork`] behind the runtime's trait.
pub struct PodNetwork(pub net::PodNetwork);

#[async_trait]
impl Network for PodNetwork {
    async fn attach(&self, request: AttachRequest) -> runtime::cri::Result<Vec<IpAddr>> {
        let port_mappings = request
            .port_mappings
            .iter()
            .filter(|mapping| mapping.host_port != 0)
            .map(|mapping| {
                let host_ip = match mapping.host_ip.as_str() {
                    "" => None,
                    text => match text.parse::<IpAddr>() {
                        Ok(ip) => Some(ip).filter(|ip| !ip.is_unspecified()),
                        Err(_) => return Err(CriError::invalid(format!("hostIP {text:?} is not an IP address"))),
                    },
                };
                Ok(net::PortMapping {
                    protocol: match mapping.protocol {
                        Protocol::Tcp => net::Protocol::Tcp,
                        Protocol::Udp => net::Protocol::Udp,
                        Protocol::Sctp => net::Protocol::Sctp,
                    },
                    container_port: mapping.container_port,
                    host_port: mapping.host_port,
                    host_ip,
                })
            })
            .collect::<Result<_, _>>()?;
        let request = net::AttachRequest {
            sandbox_id: request.sandbox_id,
            namespace: request.namespace,
            name: request.name,
            netns: request.netns,
            port_mappings,
        };
        self.0.attach(request).await.map_err(failed)
    }

    async fn detach(&self, sandbox_id: &str, _netns: &Path) -> runtime::cri::Result<()> {
        self.0.detach(sandbox_id).await.map_err(failed)
    }
}

fn failed(error: net::pod::Error) -> CriError {
    let code = match &error {
        net::pod::Error::Addresses(net::pod::ipam::Error::Exhausted { .. }) => Code::ResourceExhausted,
        net::pod::Error::HostPortTaken { .. } => Code::FailedPrecondition,
        _ => Code::Internal,
    };
    CriError::new(code, error.to_string())
}
