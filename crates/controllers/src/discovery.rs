//! Which kinds the server has, for controllers that work on all of them.

use http::{Request, header::ACCEPT};
use parking_lot::Mutex;
use serde::Deserialize;

use crate::frame::Error;

/// A kind of object that the server stores, in the version that it prefers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ResourceKind {
    pub group: String,
    pub version: String,
    pub plural: String,
    pub kind: String,
    pub namespaced: bool,
    pub verbs: Vec<String>,
}

impl ResourceKind {
    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|known| known == verb)
    }

    /// The path of all objects: `/apis/apps/v1/deployments`.
    pub fn path(&self) -> String {
        self.path_in("")
    }

    /// The path of the objects in a namespace, or of all if it is empty.
    pub fn path_in(&self, namespace: &str) -> String {
        let Self { group, version, plural, .. } = self;
        let root = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
        if namespace.is_empty() {
            format!("{root}/{plural}")
        } else {
            format!("{root}/namespaces/{namespace}/{plural}")
        }
    }

    pub fn api_version(&self) -> String {
        let Self { group, version, .. } = self;
        if group.is_empty() { version.clone() } else { format!("{group}/{version}") }
    }

    /// `deployments.apps`, as upstream names it in messages.
    pub fn qualified(&self) -> String {
        format!("{}.{}", self.plural, self.group)
    }
}

/// What the server has, and the groups of which it does not know at the moment.
#[derive(Debug, Default)]
pub(crate) struct Discovered {
    pub kinds: Vec<ResourceKind>,
    pub failed: Vec<String>,
}

/// The kinds by group and name, asked for again when one is missing.
pub(crate) struct Directory {
    client: kube::Client,
    known: Mutex<Vec<ResourceKind>>,
}

impl Directory {
    pub fn new(client: kube::Client) -> Directory {
        Directory { client, known: Mutex::default() }
    }

    /// The kind in the version that the server prefers; none if there is no such kind.
    pub async fn find(&self, group: &str, kind: &str) -> Result<Option<ResourceKind>, Error> {
        let is_meant = |known: &&ResourceKind| known.group == group && known.kind == kind;
        if let Some(found) = self.known.lock().iter().find(is_meant) {
            return Ok(Some(found.clone()));
        }
        let fresh = discover(&self.client).await?.kinds;
        let found = fresh.iter().find(is_meant).cloned();
        *self.known.lock() = fresh;
        Ok(found)
    }
}

#[derive(Deserialize)]
struct Document {
    items: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    #[serde(default)]
    metadata: GroupMeta,
    versions: Vec<Version>,
}

#[derive(Default, Deserialize)]
struct GroupMeta {
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct Version {
    version: String,
    #[serde(default)]
    freshness: String,
    #[serde(default)]
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Resource {
    resource: String,
    response_kind: Option<Kind>,
    scope: String,
    #[serde(default)]
    verbs: Vec<String>,
}

#[derive(Deserialize)]
struct Kind {
    kind: String,
}

/// Asks the server for all kinds.
pub(crate) async fn discover(client: &kube::Client) -> Result<Discovered, Error> {
    let mut discovered = Discovered::default();
    for root in ["/api", "/apis"] {
        let request =
            Request::get(root).header(ACCEPT, "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
        let request = request.body(Vec::new()).map_err(kube::Error::HttpError)?;
        let document: Document = client.request(request).await?;
        for group in document.items {
            take(group, &mut discovered);
        }
    }
    Ok(discovered)
}

/// Takes each resource of a group in the first version that has it, which is the one preferred.
fn take(group: Group, discovered: &mut Discovered) {
    let first = discovered.kinds.len();
    for version in group.versions {
        if version.freshness == "Stale" {
            discovered.failed.push(format!("{}/{}", group.metadata.name, version.version));
        }
        for Resource { resource, response_kind, scope, verbs } in version.resources {
            if discovered.kinds[first..].iter().any(|known| known.plural == resource) {
                continue;
            }
            discovered.kinds.push(ResourceKind {
                group: group.metadata.name.clone(),
                version: version.version.clone(),
                plural: resource,
                kind: response_kind.map(|kind| kind.kind).unwrap_or_default(),
                namespaced: scope == "Namespaced",
                verbs,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_taken_in_its_preferred_version_alone() {
        let group = r#"{"metadata":{"name":"autoscaling"},"versions":[
            {"version":"v2","resources":[{"resource":"hpas","responseKind":{"kind":"HPA"},"scope":"Namespaced","verbs":["list"]}]},
            {"version":"v1","freshness":"Stale","resources":[{"resource":"hpas","responseKind":{"kind":"HPA"},"scope":"Namespaced"}]}]}"#;
        let mut discovered = Discovered::default();
        take(serde_json::from_str(group).unwrap(), &mut discovered);
        assert_eq!(discovered.kinds.len(), 1);
        assert_eq!(discovered.kinds[0].path_in("n"), "/apis/autoscaling/v2/namespaces/n/hpas");
        assert_eq!(discovered.failed, ["autoscaling/v1"]);
    }
}
