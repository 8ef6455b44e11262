//! Certificates while the cluster runs: made anew before they end, and where the machine's addresses have changed.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use apiserver::ApiServer;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::data::DataDir;
use crate::kubeconfig::Kubeconfig;
use crate::parts::Parts;
use crate::pki::Pki;
use crate::settings::Plan;

/// How often the certificates and the machine's addresses are looked at.
const PERIOD: Duration = Duration::from_secs(30);

/// The keys, with serving certificates for every name and address by which this machine is known.
pub fn keys(data: &DataDir, plan: &Plan) -> Result<Pki> {
    let service = plan.service_cidr.hosts().next().context("--service-cidr is empty")?;
    let mut addresses =
        vec![std::net::Ipv4Addr::LOCALHOST.into(), std::net::Ipv6Addr::LOCALHOST.into(), plan.node_address, service];
    addresses.extend(crate::address::reachable(&plan.interface_prefix)?);
    addresses.sort();
    addresses.dedup();
    let names = std::slice::from_ref(&plan.settings.node_name);
    Pki::ensure(&data.join("pki"), names, &addresses)
}

/// The kubelet's HTTPS port, which can be served with other keys.
pub struct KubeletPort {
    server: kubelet::Server,
    listener: std::net::TcpListener,
    parts: Parts,
    serving: Mutex<CancellationToken>,
}

impl KubeletPort {
    pub fn open(server: kubelet::Server, listener: TcpListener, pki: &Pki, parts: &Parts) -> Result<KubeletPort> {
        let listener = listener.into_std()?;
        let port = KubeletPort { server, listener, parts: parts.clone(), serving: Mutex::default() };
        port.serve(pki)?;
        Ok(port)
    }

    /// Takes new connections with these keys; those that are open go on.
    fn serve(&self, pki: &Pki) -> Result<()> {
        let keys = kubelet::Keys {
            certificate: pki.kubelet.certificate.clone(),
            key: pki.kubelet.key.clone(),
            client_authority: pki.authority.certificate.clone(),
        };
        let listener = TcpListener::from_std(self.listener.try_clone()?)?;
        let stopping = self.parts.shutdown().child_token();
        self.parts.tasks().spawn(self.server.serve_https(listener, &keys, stopping.clone())?);
        std::mem::replace(&mut *self.serving.lock(), stopping).cancel();
        Ok(())
    }
}

/// Keeps what is served with, and what the administrator's kubeconfig holds, from ending.
pub async fn run(data: DataDir, plan: Arc<Plan>, mut pki: Pki, server: ApiServer, port: KubeletPort) {
    loop {
        tokio::time::sleep(PERIOD).await;
        match renew(&data, &plan, &pki, &server, &port) {
            Ok(renewed) => pki = renewed,
            Err(error) => {
                tracing::error!(
                    error = format!("{error:#}"),
                    "the certificates could not be looked after, trying again"
                );
            }
        }
    }
}

fn renew(data: &DataDir, plan: &Plan, old: &Pki, server: &ApiServer, port: &KubeletPort) -> Result<Pki> {
    let new = keys(data, plan)?;
    if new.serving.certificate != old.serving.certificate {
        server.serve_with(&new.serving.certificate, &new.serving.key)?;
        tracing::info!("the API server's certificate was renewed");
    }
    if new.kubelet.certificate != old.kubelet.certificate {
        port.serve(&new)?;
        tracing::info!("the kubelet's certificate was renewed");
    }
    if new.admin.certificate != old.admin.certificate {
        Kubeconfig::open(&plan.settings.kubeconfig, data)?.write_admin(data, &plan.settings.server, &new)?;
        tracing::info!(path = %plan.settings.kubeconfig.display(), "the administrator's certificate was renewed");
    }
    Ok(new)
}
