//! The node's pod network, as the runtime asks for it.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result};
use async_trait::async_trait;
use runtime::cri::{Code, CriError, Protocol};
use runtime::sandbox::{AttachRequest, Network};

use crate::data::DataDir;
use crate::settings::Plan;

/// What every path that a pod's packets may take carries.
pub const MTU: u32 = 1500;

/// The network of this node. `dns` is the address at which the cluster's DNS is served.
pub async fn open(data: &DataDir, plan: &Plan, dns: IpAddr) -> Result<net::PodNetwork> {
    let config = net::Config {
        id: data.id.clone(),
        directory: data.join("net"),
        ranges: net::Ranges {
            pods: vec![plan.pod_cidr],
            cluster: vec![plan.cluster_cidr],
            services: vec![plan.service_cidr],
        },
        served: vec![dns],
        mtu: MTU,
    };
    tokio::task::spawn_blocking(move || net::PodNetwork::open(config)).await?.context("cannot set up the pod network")
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
