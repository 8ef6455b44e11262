//! The Service object by which the cluster's users find the DNS address.

use k8s_openapi::api::core::v1::Service;
use kube::api::{Api, PostParams};
use std::net::IpAddr;

const NAMESPACE: &str = "kube-system";
const NAME: &str = "kube-dns";

/// Makes `kube-dns` in `kube-system`, if it is not there; it has no selector, since every node serves the address itself.
pub async fn ensure_service(client: kube::Client, address: IpAddr) -> Result<(), kube::Error> {
    let service: Service = serde_json::from_value(serde_json::json!({
        "metadata": {
            "name": NAME,
            "namespace": NAMESPACE,
            "labels": {
                "k8s-app": NAME,
                "kubernetes.io/cluster-service": "true",
                "kubernetes.io/name": "CoreDNS",
            },
        },
        "spec": {
            "clusterIP": address,
            "ports": [
                { "name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53 },
                { "name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53 },
            ],
        },
    }))
    .map_err(kube::Error::SerdeError)?;
    let services: Api<Service> = Api::namespaced(client, NAMESPACE);
    if services.get_opt(NAME).await?.is_some() {
        return Ok(());
    }
    match services.create(&PostParams::default(), &service).await {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        other => other.map(drop),
    }
}
