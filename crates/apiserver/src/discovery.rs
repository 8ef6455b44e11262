//! Discovery: which groups, versions and kinds are served, in the classic and the aggregated form; and `/version`.

use std::cmp::Reverse;
use std::sync::Arc;

use api::kind::{Kind, Subresource};
use api::{Status, Value};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::access::token::ISSUER;
use crate::catalog::Catalog;
use crate::dispatch::no_such_path;
use crate::server::Server;
use crate::wire::accept::{Media, clauses, format};
use crate::wire::{Accept, Query, Response, answer};

/// The version of the API that is served.
pub const MAJOR: &str = "1";
pub const MINOR: &str = "36";
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// What is written for people.
const INDENTED: Accept = Accept { pretty: true, ..Accept::JSON };

/// A group's versions, best first, each with its kinds.
struct Group<'c> {
    name: &'c str,
    versions: Vec<(&'c str, Vec<&'c Arc<Kind>>)>,
}

/// Answers below `/api` and `/apis`.
pub fn answer(server: &Server, headers: &HeaderMap, query: &Query, path: &str) -> Result<Response, Status> {
    let accept = Accept::of(headers, query, false);
    let catalog = server.catalog.load();
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    let groups = groups(&catalog);
    let find = |name: &str| groups.iter().find(|g| g.name == name).ok_or_else(no_such_path);
    let value = match segments.as_slice() {
        ["api" | "apis"] if wants_aggregated(headers) => {
            let core = segments[0] == "api";
            return Ok(aggregated(groups.iter().filter(|g| g.name.is_empty() == core), headers));
        }
        ["api"] => json!({
            "kind": "APIVersions",
            "versions": find("")?.versions.iter().map(|(version, _)| version).collect::<Vec<_>>(),
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server.config.advertise.to_string()}],
        }),
        ["apis"] => json!({
            "kind": "APIGroupList", "apiVersion": "v1",
            "groups": groups.iter().filter(|g| !g.name.is_empty()).map(Group::describe).collect::<Vec<_>>(),
        }),
        ["apis", name] => {
            let mut value = find(name)?.describe();
            value["kind"] = "APIGroup".into();
            value["apiVersion"] = "v1".into();
            value
        }
        ["api", version] => find("")?.resources(version)?,
        ["apis", name, version] => find(name)?.resources(version)?,
        _ => return Err(no_such_path()),
    };
    Ok(answer::value(StatusCode::OK, &value, &accept?))
}

/// `/version`, which is indented JSON whatever is accepted.
pub fn version() -> Response {
    let value = json!({
        "major": MAJOR, "minor": MINOR, "emulationMajor": MAJOR, "emulationMinor": MINOR,
        "minCompatibilityMajor": MAJOR, "minCompatibilityMinor": "35",
        "gitVersion": format!("v{MAJOR}.{MINOR}.0+regatta"), "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none", "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" }),
    });
    answer::value(StatusCode::OK, &value, &INDENTED)
}

/// `/`: the paths that there are.
pub fn root(server: &Server) -> Response {
    let catalog = server.catalog.load();
    let mut paths = vec!["/api".to_owned(), "/api/v1".to_owned(), "/apis".to_owned()];
    for group in groups(&catalog).iter().filter(|g| !g.name.is_empty()) {
        paths.push(format!("/apis/{}", group.name));
        paths.extend(group.versions.iter().map(|(version, _)| format!("/apis/{}/{version}", group.name)));
    }
    paths.extend(
        ["/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz", "/version"].map(str::to_owned),
    );
    answer::value(StatusCode::OK, &json!({"paths": paths}), &INDENTED)
}

/// The service-account issuer's documents.
pub fn issuer(server: &Server, path: &str) -> Result<Response, Status> {
    match path {
        "/openid/v1/jwks" => {
            let mut response = answer::json(StatusCode::OK, &server.tokens.keys());
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/jwk-set+json"));
            Ok(response)
        }
        "/.well-known/openid-configuration" => Ok(answer::json(
            StatusCode::OK,
            &json!({
                "issuer": ISSUER, "jwks_uri": format!("https://{}/openid/v1/jwks", server.config.advertise),
                "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["ES256"],
            }),
        )),
        _ => Err(no_such_path()),
    }
}

/// Upstream's order of groups: core, then those with a priority, then the rest by name.
const ORDER: &[&str] = &[
    "",
    "apiregistration.k8s.io",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
    "discovery.k8s.io",
    "resource.k8s.io",
    "flowcontrol.apiserver.k8s.io",
];

fn groups(catalog: &Catalog) -> Vec<Group<'_>> {
    let mut groups: Vec<Group> = Vec::new();
    for kind in catalog.iter() {
        if groups.last().is_none_or(|g| g.name != kind.group) {
            groups.push(Group { name: &kind.group, versions: Vec::new() });
        }
        if let Some(group) = groups.last_mut() {
            match group.versions.iter_mut().find(|(version, _)| *version == kind.version) {
                Some((_, kinds)) => kinds.push(kind),
                None => group.versions.push((&kind.version, vec![kind])),
            }
        }
    }
    for group in &mut groups {
        group.versions.sort_by_key(|(version, _)| Reverse(priority(version)));
    }
    groups.sort_by_key(|g| ORDER.iter().position(|name| *name == g.name).unwrap_or(ORDER.len()));
    groups
}

/// How preferred a version is: GA before beta before alpha, newer before older.
fn priority(version: &str) -> (u8, u32, u32) {
    let rest = version.strip_prefix('v').unwrap_or("");
    let (rest, stage) = match rest.find(|c: char| !c.is_ascii_digit()) {
        None => (rest, "ga0"),
        Some(at) => rest.split_at(at),
    };
    let Ok(major) = rest.parse() else { return (0, 0, 0) };
    let (name, number) = stage.split_at(stage.find(|c: char| c.is_ascii_digit()).unwrap_or(stage.len()));
    let rank = match name {
        "ga" => 3,
        "beta" => 2,
        "alpha" => 1,
        _ => return (0, 0, 0),
    };
    (rank, major, number.parse().unwrap_or(0))
}

impl Group<'_> {
    fn describe(&self) -> Value {
        let version = |v: &str| json!({"groupVersion": format!("{}/{v}", self.name), "version": v});
        let versions: Vec<Value> = self.versions.iter().map(|(v, _)| version(v)).collect();
        json!({"name": self.name, "preferredVersion": versions.first(), "versions": versions})
    }

    fn resources(&self, version: &str) -> Result<Value, Status> {
        let (_, kinds) = self.versions.iter().find(|(v, _)| *v == version).ok_or_else(no_such_path)?;
        let group_version = if self.name.is_empty() { version.to_owned() } else { format!("{}/{version}", self.name) };
        let mut resources = Vec::new();
        for kind in kinds {
            let mut main = json!({
                "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced, "kind": kind.kind,
                "verbs": kind.verbs,
            });
            for (field, list) in [("shortNames", &kind.short_names), ("categories", &kind.categories)] {
                if !list.is_empty() {
                    main[field] = json!(list);
                }
            }
            if kind.has_verb("get") {
                main["storageVersionHash"] = Value::from(hash(kind));
            }
            resources.push(main);
            for sub in kind.subresources.iter() {
                let mut value = json!({
                    "name": format!("{}/{}", kind.plural, sub.name), "singularName": "", "namespaced": kind.namespaced,
                    "kind": sub.kind, "verbs": sub.verbs,
                });
                if !sub.version.is_empty() && (&*sub.group, &*sub.version) != (self.name, version) {
                    value["group"] = Value::from(&*sub.group);
                    value["version"] = Value::from(&*sub.version);
                }
                resources.push(value);
            }
        }
        Ok(
            json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources}),
        )
    }
}

/// As upstream: the first eight bytes of a hash of what is stored.
fn hash(kind: &Kind) -> String {
    use base64::Engine;
    let digest = Sha256::digest(format!("{}/{}", kind.storage.api_version, kind.storage.kind));
    base64::engine::general_purpose::STANDARD.encode(&digest[..8])
}

/// Whether the best clause that can be served asks for the aggregated form.
fn wants_aggregated(headers: &HeaderMap) -> bool {
    let aggregated = |m: &Media| {
        m.essence == "application/json"
            && m.parameter("as") == Some("APIGroupDiscoveryList")
            && m.parameter("g") == Some("apidiscovery.k8s.io")
            && m.parameter("v") == Some("v2")
    };
    let plain = |m: &Media| m.parameter("as").is_none() && format(m.essence).is_some();
    clauses(headers).iter().find(|m| aggregated(m) || plain(m)).is_some_and(aggregated)
}

fn aggregated<'c>(groups: impl Iterator<Item = &'c Group<'c>>, headers: &HeaderMap) -> Response {
    let items: Vec<Value> = groups
        .map(|group| {
            let versions: Vec<Value> = group
                .versions
                .iter()
                .map(|(version, kinds)| {
                    let resources: Vec<Value> = kinds.iter().map(|kind| describe(kind)).collect();
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            json!({"metadata": {"name": group.name, "creationTimestamp": null}, "versions": versions})
        })
        .collect();
    let value = json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items,
    });
    let body = value.to_string();
    let tag: String = Sha256::digest(&body).iter().take(32).map(|byte| format!("{byte:02X}")).collect();
    let tag = format!("\"{tag}\"");
    let unchanged = headers.get(header::IF_NONE_MATCH).is_some_and(|v| v.as_bytes() == tag.as_bytes());
    let mut response = if unchanged {
        answer::bytes(StatusCode::NOT_MODIFIED, AGGREGATED, Vec::new())
    } else {
        answer::bytes(StatusCode::OK, AGGREGATED, body.into_bytes())
    };
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    if let Ok(value) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(header::ETAG, value);
    }
    response
}

fn describe(kind: &Kind) -> Value {
    let subresources: Vec<Value> = kind.subresources.iter().map(|sub| describe_subresource(kind, sub)).collect();
    let mut value = json!({
        "resource": kind.plural,
        "responseKind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular, "verbs": kind.verbs,
    });
    for (field, list) in [("shortNames", &kind.short_names), ("categories", &kind.categories)] {
        if !list.is_empty() {
            value[field] = json!(list);
        }
    }
    if !subresources.is_empty() {
        value["subresources"] = Value::Array(subresources);
    }
    value
}

fn describe_subresource(kind: &Kind, sub: &Subresource) -> Value {
    let own = sub.version.is_empty();
    let (group, version) = if own { (&kind.group, &kind.version) } else { (&sub.group, &sub.version) };
    json!({
        "subresource": sub.name, "verbs": sub.verbs,
        "responseKind": {"group": group, "version": version, "kind": sub.kind},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_aggregated_form_is_answered_where_it_is_liked_best() {
        const FORM: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        let table = [
            (format!("{FORM},application/json"), true),
            (format!("{FORM};q=0.5,application/json"), false),
            (format!("application/json;q=0.9,{FORM}"), true),
            ("application/json".to_owned(), false),
            (format!("text/html,{FORM};q=0.2"), true),
        ];
        for (accept, expected) in table {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().expect("a header value"));
            assert_eq!(wants_aggregated(&headers), expected, "{accept}");
        }
    }

    #[test]
    fn stable_versions_come_before_betas_and_newer_before_older() {
        let mut versions = ["v1beta1", "v1", "v2beta1", "v2", "v1alpha1", "x"];
        versions.sort_by_key(|v| Reverse(priority(v)));
        assert_eq!(versions, ["v2", "v1", "v2beta1", "v1beta1", "v1alpha1", "x"]);
    }
}
