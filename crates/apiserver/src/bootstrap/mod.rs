//! The cluster's first objects, made at every start where they are missing. What is there is left as it is, so that an
//! administrator's change stays.

mod roles;

use std::net::IpAddr;
use std::sync::Arc;

use api::status::Reason;
use api::{Status, Value};
use serde_json::json;

use crate::rest::prepare::Change;
use crate::rest::{Call, create, metadata};
use crate::server::Server;
use crate::special::services::nth;

const OBJECTS: &str = include_str!("objects.json");

/// Makes what is missing.
pub async fn run(server: &Arc<Server>) -> Result<(), Status> {
    let objects: Vec<Value> = serde_json::from_str(OBJECTS).map_err(Status::internal)?;
    for object in objects {
        ensure(server, object).await?;
    }
    for object in roles::all() {
        ensure(server, object).await?;
    }
    let today = crate::clock::now();
    ensure(
        server,
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "kube-apiserver-legacy-service-account-token-tracking", "namespace": "kube-system"},
            "data": {"since": today.split('T').next()},
        }),
    )
    .await?;
    let range = server.config.service_cidr;
    ensure(
        server,
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"},
            "spec": {"cidrs": [range.trunc().to_string()]},
        }),
    )
    .await?;
    let Some(address) = nth(range, 1) else {
        return Err(Status::internal(format!("the service range {range} is too small")));
    };
    let advertised = server.config.advertise;
    for object in kubernetes(address, advertised.ip(), advertised.port()) {
        refresh(server, object).await?;
    }
    Ok(())
}

/// The `kubernetes` Service, and where its servers are.
fn kubernetes(address: IpAddr, server: IpAddr, port: u16) -> [Value; 3] {
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let family = if server.is_ipv4() { "IPv4" } else { "IPv6" };
    [
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "kubernetes", "namespace": "default", "labels": labels},
            "spec": {
                "type": "ClusterIP", "clusterIP": address.to_string(), "clusterIPs": [address.to_string()], "sessionAffinity": "None",
                "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}],
            },
        }),
        json!({
            "apiVersion": "v1", "kind": "Endpoints",
            "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
            "subsets": [{"addresses": [{"ip": server.to_string()}], "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}],
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
            "addressType": family, "endpoints": [{"addresses": [server.to_string()], "conditions": {"ready": true}}],
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
        }),
    ]
}

/// Creates an object unless one of its name is there; gives the one that was.
async fn ensure(server: &Arc<Server>, object: Value) -> Result<Option<Value>, Status> {
    let call = call(server, &object)?;
    if let Some(entry) = server.store.get(&call.key()) {
        return call.parse(&entry).map(Some);
    }
    match create::store(&call, object, &Change::new(&call), &mut Vec::new()).await {
        // A cluster without one of its default roles still serves.
        Err(status) if status.reason == Reason::Invalid => {
            tracing::error!(error = status.message, "a default object was refused");
            Ok(None)
        }
        Err(status) if status.reason != Reason::AlreadyExists => Err(status),
        _ => Ok(None),
    }
}

/// As [`ensure`], and brings the parts that depend on this server's address up to date.
async fn refresh(server: &Arc<Server>, object: Value) -> Result<(), Status> {
    let Some(found) = ensure(server, object.clone()).await? else { return Ok(()) };
    let parts = ["subsets", "endpoints", "addressType", "ports"];
    let current = |field: &&str| found.get(*field) == object.get(*field);
    if object["kind"] == "Service" || parts.iter().all(current) {
        return Ok(());
    }
    crate::rest::update::rewrite(&call(server, &object)?, "", |stored| {
        for field in parts {
            if let Some(value) = object.get(field) {
                stored[field] = value.clone();
            }
        }
        Ok(())
    })
    .await
    .map(|_| ())
}

fn call(server: &Arc<Server>, object: &Value) -> Result<Call, Status> {
    let text = |field: &str| object[field].as_str().unwrap_or("").to_owned();
    let kind = server.catalog.load().by_kind(&text("apiVersion"), &text("kind")).cloned();
    let kind = kind.ok_or_else(|| Status::internal(format!("{} is not served", text("kind"))))?;
    Ok(Call::internal(server, kind, metadata::text(object, "namespace"), metadata::text(object, "name")))
}
