//! The sample application in a running cluster, by one command.

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind, TypeMeta};
use runtime::images::{Images, Registries};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::data::DataDir;

const MANIFESTS: [&str; 3] = [
    include_str!("../../../../examples/webapp/config.yaml"),
    include_str!("../../../../examples/webapp/database.yaml"),
    include_str!("../../../../examples/webapp/web.yaml"),
];
const NODE_PORT: u16 = 30_100;
const PATIENCE: Duration = Duration::from_secs(60);

/// Imports, applies, waits, and prints the address that answers and its answer.
pub async fn start(data_dir: &Path) -> Result<()> {
    crate::preflight::root("sample start")?;
    let data = DataDir::at(data_dir)?;
    let Some(marker) = data.marker()? else {
        bail!("no cluster has been started from {}; run `regatta up` first", data.path.display());
    };
    let images = Images::open(data.join("images"), Registries::default())?;
    let archive = data.join("sample.tar");
    super::image::write(&archive)?;
    let imported = images.import(&archive).await;
    std::fs::remove_file(&archive)?;
    imported?;
    let client = crate::admin_client(&marker.settings).await?;
    for document in MANIFESTS.iter().flat_map(|file| file.split("\n---\n")) {
        apply(&client, document).await?;
    }
    let node: Node = Api::all(client).get(&marker.settings.node_name).await?;
    let address = node_address(&node).context("the node has no address")?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match request(address).await {
            Ok(answer) => {
                println!("http://{address}:{NODE_PORT}/ answers:\n{answer}");
                return Ok(());
            }
            Err(error) if Instant::now() > deadline => {
                return Err(error).context("the sample application does not answer; see `kubectl get pods`");
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn apply(client: &kube::Client, document: &str) -> Result<()> {
    let object: DynamicObject = serde_saphyr::from_str(document).context("a sample manifest is not valid")?;
    let TypeMeta { api_version, kind } = object.types.clone().context("a sample manifest has no kind")?;
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &kind));
    let name = object.metadata.name.clone().context("a sample manifest has no name")?;
    let api: Api<DynamicObject> = Api::default_namespaced_with(client.clone(), &resource);
    api.patch(&name, &PatchParams::apply("regatta-sample").force(), &Patch::Apply(&object))
        .await
        .with_context(|| format!("cannot apply {kind} {name}"))?;
    Ok(())
}

fn node_address(node: &Node) -> Option<IpAddr> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    addresses.iter().find(|a| a.type_ == "InternalIP")?.address.parse().ok()
}

/// The body of the page, if it is there.
async fn request(address: IpAddr) -> Result<String> {
    let work = async {
        let mut stream = tokio::net::TcpStream::connect((address, NODE_PORT)).await?;
        let ask = format!("GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(ask.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        match answer.split_once("\r\n\r\n") {
            Some((head, body)) if head.starts_with("HTTP/1.1 200") => Ok(body.to_owned()),
            _ => bail!("the answer was {answer:?}"),
        }
    };
    tokio::time::timeout(Duration::from_secs(5), work).await.context("no answer within 5 seconds")?
}
