//! The paths of the served kinds with their operations.

use api::kind::{Kind, Subresource};
use api::{Map, Value};
use serde_json::json;

use super::operation::{Operation, Place, capital, reference, tag};
use super::texts::Texts;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

/// `/api/v1` or `/apis/<group>/<version>`.
pub fn base(kind: &Kind) -> String {
    if kind.group.is_empty() {
        format!("/api/{}", kind.version)
    } else {
        format!("/apis/{}/{}", kind.group, kind.version)
    }
}

/// Adds every path of the kind.
pub fn add(kind: &Kind, texts: &Texts, paths: &mut Map<String, Value>) {
    let base = base(kind);
    let scoped =
        |root: &str| if kind.namespaced { format!("{root}/namespaces/{{namespace}}") } else { root.to_owned() };
    let collection = format!("{}/{}", scoped(&base), kind.plural);
    let own = |place, operations: &[(&'static str, &'static str, &str)]| -> Vec<Operation> {
        let served = operations.iter().filter(|(.., verb)| kind.has_verb(verb));
        served.map(|(method, action, _)| Operation { kind, sub: None, place, action, method }).collect()
    };
    let mut put = |path: String, operations: Vec<Operation>| {
        if !operations.is_empty() {
            paths.insert(path, item(&operations, texts));
        }
    };
    let (list, one) = (Place::Collection, Place::Object);
    put(
        collection.clone(),
        own(
            list,
            &[("get", "list", "list"), ("post", "post", "create"), ("delete", "deletecollection", "deletecollection")],
        ),
    );
    put(
        format!("{collection}/{{name}}"),
        own(
            one,
            &[
                ("get", "get", "get"),
                ("put", "put", "update"),
                ("patch", "patch", "patch"),
                ("delete", "delete", "delete"),
            ],
        ),
    );
    let watched = format!("{}/{}", scoped(&format!("{base}/watch")), kind.plural);
    put(watched.clone(), own(list, &[("get", "watchlist", "watch")]));
    put(format!("{watched}/{{name}}"), own(one, &[("get", "watch", "watch")]));
    if kind.namespaced {
        put(format!("{base}/{}", kind.plural), own(Place::AllNamespaces, &[("get", "list", "list")]));
        put(format!("{base}/watch/{}", kind.plural), own(Place::AllNamespaces, &[("get", "watchlist", "watch")]));
    }
    for sub in kind.subresources.iter() {
        let path = format!("{collection}/{{name}}/{}", sub.name);
        put(path.clone(), of_subresource(kind, sub, one));
        if sub.name == "proxy" {
            put(format!("{path}/{{path}}"), of_subresource(kind, sub, Place::Below));
        }
    }
}

fn of_subresource<'k>(kind: &'k Kind, sub: &'k Subresource, place: Place) -> Vec<Operation<'k>> {
    let connects = sub.kind.ends_with("Options");
    let method = |verb: &str| match verb {
        "create" => Some("post"),
        "update" => Some("put"),
        "get" => Some("get"),
        "patch" => Some("patch"),
        "delete" => Some("delete"),
        _ => None,
    };
    let more: &[&str] = if connects && sub.name == "proxy" { &["head", "options"] } else { &[] };
    let methods = sub.verbs.iter().filter_map(|verb| method(verb)).chain(more.iter().copied());
    methods
        .map(|method| Operation {
            kind,
            sub: Some(sub),
            place,
            action: if connects { "connect" } else { method },
            method,
        })
        .collect()
}

/// A path's operations; the parameters that all of them have are the path's own.
fn item(operations: &[Operation], texts: &Texts) -> Value {
    let parameters: Vec<Vec<Value>> = operations.iter().map(|operation| operation.parameters(texts)).collect();
    let shared = |parameter: &Value| parameter["in"] != "body" && parameters.iter().all(|all| all.contains(parameter));
    let mut item = Map::new();
    for (operation, own) in operations.iter().zip(&parameters) {
        let mut value = operation.describe();
        let own: Vec<Value> = own.iter().filter(|parameter| !shared(parameter)).cloned().collect();
        if !own.is_empty() {
            value.insert("parameters".to_owned(), sorted(own));
        }
        item.insert(operation.method.to_owned(), Value::Object(value));
    }
    let common: Vec<Value> =
        parameters.first().into_iter().flatten().filter(|parameter| shared(parameter)).cloned().collect();
    if !common.is_empty() {
        item.insert("parameters".to_owned(), sorted(common));
    }
    Value::Object(item)
}

fn sorted(mut parameters: Vec<Value>) -> Value {
    let text = |value: &Value, field: &str| value[field].as_str().unwrap_or_default().to_owned();
    parameters.sort_by_key(|parameter| (text(parameter, "name"), text(parameter, "in")));
    Value::Array(parameters)
}

/// What is known of discovery: description, operation's name, the answer's type and the tag.
fn discovery(description: &str, id: &str, answer: &str, tag: &str) -> Value {
    let formats = json!(["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"]);
    json!({"get": {
        "consumes": formats, "description": description, "operationId": id, "produces": formats,
        "responses": {"200": {"description": "OK", "schema": reference(answer)}, "401": {"description": "Unauthorized"}},
        "schemes": ["https"], "tags": [tag],
    }})
}

/// Adds the discovery document of a group's version.
pub fn add_version(group: &str, version: &str, paths: &mut Map<String, Value>) {
    let path = if group.is_empty() { format!("/api/{version}/") } else { format!("/apis/{group}/{version}/") };
    let id = format!("get{}{}APIResources", capital(&tag(group, "")), capital(version));
    let answer = format!("{META}APIResourceList");
    paths.insert(path, discovery("get available resources", &id, &answer, &tag(group, version)));
}

/// Adds the discovery document of a group.
pub fn add_group(group: &str, paths: &mut Map<String, Value>) {
    let name = capital(&tag(group, ""));
    let (path, item) = if group.is_empty() {
        let answer = format!("{META}APIVersions");
        ("/api/".to_owned(), discovery("get available API versions", "getCoreAPIVersions", &answer, "core"))
    } else {
        let answer = format!("{META}APIGroup");
        let id = format!("get{name}APIGroup");
        (format!("/apis/{group}/"), discovery("get information of a group", &id, &answer, &tag(group, "")))
    };
    paths.insert(path, item);
}

/// Adds the list of groups.
pub fn add_groups(paths: &mut Map<String, Value>) {
    let answer = format!("{META}APIGroupList");
    let item = discovery("get available API versions", "getAPIVersions", &answer, "apis");
    paths.insert("/apis/".to_owned(), item);
}

/// Adds what is no API of objects: the version and what is known of service accounts' tokens.
pub fn add_server(paths: &mut Map<String, Value>) {
    let mut version = discovery(
        "get the version information for this server",
        "getCodeVersion",
        "io.k8s.apimachinery.pkg.version.Info",
        "version",
    );
    for field in ["consumes", "produces"] {
        version["get"][field] = json!(["application/json"]);
    }
    paths.insert("/version/".to_owned(), version);
    for (path, description, id, produces, tag) in [
        (
            "/.well-known/openid-configuration/",
            "get service account issuer OpenID configuration, also known as the 'OIDC discovery doc'",
            "getServiceAccountIssuerOpenIDConfiguration",
            "application/json",
            "WellKnown",
        ),
        (
            "/openid/v1/jwks/",
            "get service account issuer OpenID JSON Web Key Set (contains public token verification keys)",
            "getServiceAccountIssuerOpenIDKeyset",
            "application/jwk-set+json",
            "openid",
        ),
    ] {
        let mut item = discovery(description, id, "", tag);
        item["get"]["produces"] = json!([produces]);
        if let Some(operation) = item["get"].as_object_mut() {
            operation.remove("consumes");
        }
        paths.insert(path.to_owned(), item);
    }
}
