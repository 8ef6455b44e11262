//! One operation of a path, as OpenAPI v2 writes it.

use api::kind::{Kind, Subresource};
use api::{Map, Value};
use serde_json::json;

use super::texts::Texts;
use crate::rest::delete::answers_deleted;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const FORMATS: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const STREAMS: [&str; 2] = ["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];
const PATCHES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

/// Parameters by the published document's names for them.
const LIST: &[&str] = &[
    "allowWatchBookmarks-HC2hJt-J",
    "continue-QfD61s0i",
    "fieldSelector-xIcQKXFG",
    "labelSelector-5Zw57w4C",
    "limit-1NfNmdNH",
    "resourceVersion-5WAnf1kx",
    "resourceVersionMatch-t8XhRHeC",
    "sendInitialEvents-rLXlEK_k",
    "timeoutSeconds-yvYezaOC",
    "watch-XNNPZGbK",
];
const DELETE: &[&str] = &[
    "body-2Y1dVQaQ",
    "dryRun",
    "gracePeriodSeconds--K5HaBOS",
    "ignoreStoreReadErrorWithClusterBreakingPotential-QbNkfIqj",
    "orphanDependents-uRB25kX5",
    "propagationPolicy-6jk3prlO",
];
const WRITE: &[&str] = &["dryRun", "fieldManager-Qy4HdaTW", "fieldValidation"];
const PATCH: &[&str] = &["body-78PwaGsr", "dryRun", "fieldManager-7c6nTn1T", "fieldValidation", "force-tOGGb0Yi"];

/// The options of subresources that are no objects, by parent and name.
const OPTIONS: &[(&str, &str, &[&str])] = &[
    ("pods", "attach", &["container-_Q-EJ3nR", "stderr-26jJhFUR", "stdin-sEFnN3IS", "stdout-005YMKE6", "tty-g7MlET_l"]),
    (
        "pods",
        "exec",
        &[
            "command-Py3eQybp",
            "container-i5dOmRiM",
            "stderr-W_1TNlWc",
            "stdin-PSzNhyUC",
            "stdout--EZLRwV1",
            "tty-s0flW37O",
        ],
    ),
    (
        "pods",
        "log",
        &[
            "container-1GeXxFDC",
            "follow-9OIXh_2R",
            "insecureSkipTLSVerifyBackend-gM00jVbe",
            "limitBytes-zwd1RXuc",
            "previous-1jxDPu3y",
            "sinceSeconds-vE2NLdnP",
            "stream-l-48cgXv",
            "tailLines-9xQLWHMV",
            "timestamps-c17fW1w_",
        ],
    ),
    ("pods", "portforward", &["ports-91KROJmm"]),
    ("pods", "proxy", &["path-oPbzgLUj"]),
    ("services", "proxy", &["path-QCf0eosM"]),
    ("nodes", "proxy", &["path-rFDtV0x9"]),
];

/// Which of a kind's paths an operation is on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    AllNamespaces,
    Collection,
    Object,
    /// Below a proxied object.
    Below,
}

/// An operation by what is done: upstream's `x-kubernetes-action`, and `head` and `options` only of what connects.
#[derive(Clone, Copy)]
pub struct Operation<'k> {
    pub kind: &'k Kind,
    pub sub: Option<&'k Subresource>,
    pub place: Place,
    pub action: &'static str,
    pub method: &'static str,
}

impl Operation<'_> {
    /// Everything but its parameters.
    pub fn describe(&self) -> Map<String, Value> {
        let (group, version, name) = self.names();
        let is_list = matches!(self.action, "list" | "watch" | "watchlist");
        let produces: Vec<&str> = match self.action {
            "connect" => vec!["*/*"],
            _ if self.is_log() => ["text/plain"].into_iter().chain(FORMATS).collect(),
            _ if is_list => FORMATS.into_iter().chain(STREAMS).collect(),
            _ => FORMATS.to_vec(),
        };
        let mut value = Map::new();
        value.insert("consumes".into(), if self.action == "patch" { json!(PATCHES) } else { json!(["*/*"]) });
        value.insert("description".into(), self.description().into());
        value.insert("operationId".into(), self.id().into());
        value.insert("produces".into(), json!(produces));
        value.insert("responses".into(), self.responses());
        value.insert("schemes".into(), json!(["https"]));
        value.insert("tags".into(), json!([tag(&self.kind.group, &self.kind.version)]));
        value.insert("x-kubernetes-action".into(), self.action.into());
        value.insert(
            "x-kubernetes-group-version-kind".into(),
            json!({"group": group, "version": version, "kind": name}),
        );
        value
    }

    /// All its parameters, in full.
    pub fn parameters(&self, texts: &Texts) -> Vec<Value> {
        let mut ids: Vec<&str> = Vec::new();
        match self.action {
            "list" | "watch" | "watchlist" => ids.extend(LIST),
            "deletecollection" => {
                ids.extend(LIST.iter().filter(|id| !id.starts_with("allowWatch") && !id.starts_with("watch")));
                ids.extend(DELETE);
            }
            "delete" => ids.extend(DELETE),
            "post" | "put" => ids.extend(WRITE),
            "patch" => ids.extend(PATCH),
            _ => {}
        }
        let sub = self.sub.map_or("", |sub| &*sub.name);
        let own = OPTIONS.iter().find(|(plural, name, _)| *plural == self.kind.plural && *name == sub);
        ids.extend(own.into_iter().flat_map(|(.., ids)| *ids));
        if self.action != "connect" {
            ids.push("pretty-tJGM1-ng");
        }
        if self.kind.namespaced && self.place != Place::AllNamespaces {
            ids.push("namespace-vgWSWtn3");
        }
        if self.place == Place::Below {
            ids.push("path-z6Ciiujn");
        }
        let mut all: Vec<Value> = ids.into_iter().map(|id| texts.parameter(id)).collect();
        if matches!(self.place, Place::Object | Place::Below) {
            let description = format!("name of the {}", self.names().2);
            all.push(json!({"description": description, "in": "path", "name": "name", "required": true, "type": "string", "uniqueItems": true}));
        }
        if matches!(self.action, "post" | "put") {
            all.push(json!({"in": "body", "name": "body", "required": true, "schema": reference(&self.schema())}));
        }
        all
    }

    fn is_log(&self) -> bool {
        self.kind.plural == "pods" && self.sub.is_some_and(|sub| sub.name == "log")
    }

    /// Group, version and kind of what is sent and answered.
    fn names(&self) -> (&str, &str, &str) {
        match self.sub {
            Some(sub) if !sub.version.is_empty() => (&sub.group, &sub.version, &sub.kind),
            Some(sub) => (&self.kind.group, &self.kind.version, &sub.kind),
            None => (&self.kind.group, &self.kind.version, &self.kind.kind),
        }
    }

    fn schema(&self) -> String {
        let (group, version, name) = self.names();
        if name == self.kind.kind {
            return self.kind.schema.name.to_string();
        }
        let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        api::table::by_kind(&api_version, name).map(|s| s.name.to_string()).unwrap_or_default()
    }

    fn responses(&self) -> Value {
        let string = json!({"type": "string"});
        let (codes, schema): (&[&str], Value) = match self.action {
            "connect" => (&["200"], string),
            _ if self.is_log() => (&["200"], string),
            "list" => (&["200"], reference(&format!("{}List", self.schema()))),
            "watch" | "watchlist" => (&["200"], reference(&format!("{META}WatchEvent"))),
            "delete" if answers_deleted(self.kind) => (&["200", "202"], reference(&self.schema())),
            "delete" => (&["200", "202"], reference(&format!("{META}Status"))),
            "deletecollection" => (&["200"], reference(&format!("{META}Status"))),
            "post" => (&["200", "201", "202"], reference(&self.schema())),
            "put" | "patch" => (&["200", "201"], reference(&self.schema())),
            _ => (&["200"], reference(&self.schema())),
        };
        let word = |code: &str| match code {
            "200" => "OK",
            "201" => "Created",
            _ => "Accepted",
        };
        let mut all: Map<String, Value> = codes
            .iter()
            .map(|code| ((*code).to_owned(), json!({"description": word(code), "schema": schema})))
            .collect();
        all.insert("401".to_owned(), json!({"description": "Unauthorized"}));
        Value::Object(all)
    }

    fn description(&self) -> String {
        let kind = &self.kind.kind;
        let of = |verb: &str| match self.sub {
            Some(sub) => format!("{verb} {} of the specified {kind}", sub.name),
            None => format!("{verb} the specified {kind}"),
        };
        let deprecated = "deprecated: use the 'watch' parameter with a list operation instead";
        match (self.action, self.sub) {
            ("list", _) if self.kind.has_verb("watch") => format!("list or watch objects of kind {kind}"),
            ("list", _) => format!("list objects of kind {kind}"),
            ("watchlist", _) => format!("watch individual changes to a list of {kind}. {deprecated}."),
            ("watch", _) => format!(
                "watch changes to an object of kind {kind}. {deprecated}, filtered to a single item with the 'fieldSelector' parameter."
            ),
            ("post", Some(sub)) => format!("create {} of{}{kind}", sub.name, article(kind)),
            ("post", None) => format!("create{}{kind}", article(kind)),
            ("delete", _) => format!("delete{}{kind}", article(kind)),
            ("deletecollection", _) => format!("delete collection of {kind}"),
            ("put", _) => of("replace"),
            ("patch", _) => of("partially update"),
            ("connect", Some(sub)) => {
                format!("connect {} requests to {} of {kind}", self.method.to_uppercase(), sub.name)
            }
            _ => of("read"),
        }
    }

    /// `readAppsV1NamespacedDeploymentStatus`.
    fn id(&self) -> String {
        let word = match self.action {
            "get" => "read",
            "post" => "create",
            "put" => "replace",
            "deletecollection" => "delete",
            "watchlist" => "watch",
            other => other,
        };
        let mut id = format!("{word}{}{}", capital(&tag(&self.kind.group, "")), capital(&self.kind.version));
        let mut add = |on: bool, text: &str| {
            if on {
                id.push_str(text);
            }
        };
        add(self.action == "connect", &capital(self.method));
        add(self.action == "deletecollection", "Collection");
        add(self.kind.namespaced && self.place != Place::AllNamespaces, "Namespaced");
        add(true, &self.kind.kind);
        add(true, &self.sub.map(|sub| capital(&sub.name)).unwrap_or_default());
        add(self.action == "watchlist", "List");
        add(self.place == Place::AllNamespaces, "ForAllNamespaces");
        add(self.place == Place::Below, "WithPath");
        id
    }
}

/// With its spaces; plurals have none.
fn article(noun: &str) -> &'static str {
    if noun.ends_with('s') && !noun.ends_with("ss") {
        " "
    } else if noun.starts_with(['A', 'E', 'I', 'O', 'U']) {
        " an "
    } else {
        " a "
    }
}

/// `apps_v1`, `rbacAuthorization_v1`, `core_v1`.
pub fn tag(group: &str, version: &str) -> String {
    let mut parts = group.strip_suffix(".k8s.io").unwrap_or(group).split('.');
    let first = parts.next().filter(|first| !first.is_empty()).unwrap_or("core").to_owned();
    let name = parts.fold(first, |name, part| name + &capital(part));
    if version.is_empty() { name } else { format!("{name}_{version}") }
}

pub fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|c| c.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

/// A definition by its name, as v2 refers to it; a string where there is none.
pub fn reference(name: &str) -> Value {
    if name.is_empty() { json!({"type": "string"}) } else { json!({"$ref": format!("#/definitions/{name}")}) }
}
