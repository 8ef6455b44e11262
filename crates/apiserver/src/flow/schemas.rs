//! FlowSchemas as requests are matched against them.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use api::Value;
use client::Identity;
use http::HeaderValue;

use super::{Counts, uid};
use crate::access::{SERVICE_ACCOUNT, member};
use crate::wire::RequestInfo;

/// All schemas, in the order in which they are tried.
#[derive(Debug, Default)]
pub struct Schemas(pub Vec<Schema>);

/// A FlowSchema.
#[derive(Debug)]
pub struct Schema {
    pub name: Arc<str>,
    pub level: Arc<str>,
    /// Its level never makes anybody wait.
    pub exempt: bool,
    /// Of the schema and its level, as headers tell them.
    pub uids: (HeaderValue, HeaderValue),
    pub counts: Arc<Counts>,
    precedence: i64,
    distinguisher: Distinguisher,
    rules: Vec<Rule>,
}

/// What makes a flow of a schema's requests.
#[derive(Clone, Copy, Debug)]
enum Distinguisher {
    None,
    User,
    Namespace,
}

#[derive(Debug)]
struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<Resource>,
    /// Verbs and paths.
    paths: Vec<(Vec<String>, Vec<String>)>,
}

#[derive(Debug)]
enum Subject {
    User(String),
    Group(String),
    Account { namespace: String, name: String },
}

#[derive(Debug)]
struct Resource {
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    namespaces: Vec<String>,
    cluster: bool,
}

/// To what a request belongs.
pub struct Found<'s> {
    pub schema: &'s Schema,
    /// A hash of the flow.
    pub flow: u64,
}

impl Schemas {
    /// Reads the objects. What refers to no level is passed over; counts of schemas that were there before go on.
    pub fn new(schemas: &[Value], levels: &HashMap<String, Value>, before: &Schemas) -> Self {
        let mut all: Vec<Schema> = schemas.iter().filter_map(|schema| Schema::new(schema, levels, before)).collect();
        all.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
        Schemas(all)
    }

    /// The schema and flow of a request.
    pub fn find(&self, user: &Identity, info: &RequestInfo) -> Option<Found<'_>> {
        let schema = self.0.iter().find(|schema| schema.rules.iter().any(|rule| rule.matches(user, info)))?;
        let mut hasher = DefaultHasher::new();
        schema.name.hash(&mut hasher);
        match schema.distinguisher {
            Distinguisher::None => {}
            Distinguisher::User => user.name.hash(&mut hasher),
            Distinguisher::Namespace => info.namespace.hash(&mut hasher),
        }
        Some(Found { schema, flow: hasher.finish() })
    }
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn all<'v, T>(list: &'v Value, read: impl Fn(&'v Value) -> T) -> Vec<T> {
    list.as_array().into_iter().flatten().map(read).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("").to_owned()
}

impl Schema {
    fn new(object: &Value, levels: &HashMap<String, Value>, before: &Schemas) -> Option<Self> {
        let (name, spec) = (object["metadata"]["name"].as_str()?, &object["spec"]);
        let level = levels.get(spec["priorityLevelConfiguration"]["name"].as_str()?)?;
        let known = before.0.iter().find(|schema| &*schema.name == name);
        Some(Schema {
            name: name.into(),
            level: level["metadata"]["name"].as_str()?.into(),
            exempt: level["spec"]["type"] == "Exempt",
            uids: (uid(&text(&object["metadata"]["uid"])), uid(&text(&level["metadata"]["uid"]))),
            counts: known.map(|schema| schema.counts.clone()).unwrap_or_default(),
            precedence: spec["matchingPrecedence"].as_i64().unwrap_or(1000),
            distinguisher: match spec["distinguisherMethod"]["type"].as_str() {
                Some("ByUser") => Distinguisher::User,
                Some("ByNamespace") => Distinguisher::Namespace,
                _ => Distinguisher::None,
            },
            rules: all(&spec["rules"], Rule::new),
        })
    }
}

impl Rule {
    fn new(rule: &Value) -> Self {
        let subjects = rule["subjects"].as_array().into_iter().flatten();
        Rule {
            subjects: subjects.filter_map(Subject::new).collect(),
            resources: all(&rule["resourceRules"], |rule| Resource {
                verbs: texts(&rule["verbs"]),
                groups: texts(&rule["apiGroups"]),
                resources: texts(&rule["resources"]),
                namespaces: texts(&rule["namespaces"]),
                cluster: rule["clusterScope"] == true,
            }),
            paths: all(&rule["nonResourceRules"], |rule| (texts(&rule["verbs"]), texts(&rule["nonResourceURLs"]))),
        }
    }

    fn matches(&self, user: &Identity, info: &RequestInfo) -> bool {
        if !self.subjects.iter().any(|subject| subject.matches(user)) {
            return false;
        }
        if info.resource_request {
            return self.resources.iter().any(|rule| rule.matches(info));
        }
        self.paths
            .iter()
            .any(|(verbs, paths)| named(verbs, info.verb) && paths.iter().any(|path| path_matches(path, &info.path)))
    }
}

impl Subject {
    fn new(subject: &Value) -> Option<Self> {
        Some(match subject["kind"].as_str()? {
            "User" => Subject::User(text(&subject["user"]["name"])),
            "Group" => Subject::Group(text(&subject["group"]["name"])),
            "ServiceAccount" => Subject::Account {
                namespace: text(&subject["serviceAccount"]["namespace"]),
                name: text(&subject["serviceAccount"]["name"]),
            },
            _ => return None,
        })
    }

    fn matches(&self, user: &Identity) -> bool {
        match self {
            Subject::User(name) => name == "*" || *name == user.name,
            Subject::Group(name) => name == "*" || member(user, name),
            Subject::Account { namespace, name } => {
                let account = user.name.strip_prefix(SERVICE_ACCOUNT).and_then(|rest| rest.split_once(':'));
                account.is_some_and(|(ns, account)| ns == namespace && (name == "*" || name == account))
            }
        }
    }
}

impl Resource {
    fn matches(&self, info: &RequestInfo) -> bool {
        let place = match info.namespace.as_str() {
            "" => self.cluster,
            namespace => named(&self.namespaces, namespace),
        };
        let of_resource = || {
            self.resources.iter().any(|resource| match resource.split_once('/') {
                _ if resource == "*" => true,
                None => info.subresource.is_empty() && *resource == info.resource,
                Some((name, sub)) => name == info.resource && sub == info.subresource,
            })
        };
        place && named(&self.verbs, info.verb) && named(&self.groups, &info.group) && of_resource()
    }
}

fn named(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

/// `/healthz`, `/apis/*` or `*`.
fn path_matches(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) if prefix.is_empty() || prefix.ends_with('/') => path.starts_with(prefix),
        _ => pattern == path,
    }
}

#[cfg(test)]
mod tests {
    use super::super::defaults;
    use super::*;

    fn schemas() -> Schemas {
        let (schemas, levels): (Vec<Value>, Vec<Value>) =
            defaults::all().into_iter().map(|default| default.object).partition(|o| o["kind"] == "FlowSchema");
        let levels = levels.into_iter().map(|l| (text(&l["metadata"]["name"]), l)).collect();
        Schemas::new(&schemas, &levels, &Schemas::default())
    }

    #[test]
    fn requests_belong_where_upstreams_default_objects_put_them() {
        let schemas = schemas();
        let users = [
            ("admin", "system:masters system:authenticated"),
            ("jane", "system:authenticated"),
            ("system:anonymous", "system:unauthenticated"),
            ("system:node:a", "system:nodes system:authenticated"),
            ("system:kube-scheduler", "system:authenticated"),
            ("system:kube-controller-manager", "system:authenticated"),
            ("system:serviceaccount:kube-system:x", "system:serviceaccounts system:authenticated"),
            ("system:serviceaccount:default:x", "system:serviceaccounts system:authenticated"),
        ];
        // user, verb, group, namespace, resource; the schema and its level
        let table = [
            ("admin", "list", "", "", "pods", "exempt/exempt"),
            ("jane", "list", "", "", "pods", "global-default/global-default"),
            ("jane", "create", "", "n", "events", "events/event"),
            ("system:anonymous", "get", "", "", "/healthz", "probes/exempt"),
            ("system:anonymous", "get", "", "", "/version", "global-default/global-default"),
            ("system:node:a", "update", "", "", "nodes/status", "system-node-high/node-high"),
            (
                "system:node:a",
                "update",
                "coordination.k8s.io",
                "kube-node-lease",
                "leases",
                "system-node-high/node-high",
            ),
            ("system:node:a", "get", "", "n", "secrets", "system-nodes/system"),
            (
                "system:kube-scheduler",
                "update",
                "coordination.k8s.io",
                "n",
                "leases",
                "system-leader-election/leader-election",
            ),
            ("system:kube-scheduler", "create", "", "n", "pods/binding", "kube-scheduler/workload-high"),
            ("system:kube-controller-manager", "update", "", "n", "endpoints", "endpoint-controller/workload-high"),
            (
                "system:serviceaccount:kube-system:x",
                "list",
                "",
                "",
                "pods",
                "kube-system-service-accounts/workload-high",
            ),
            ("system:serviceaccount:default:x", "list", "", "", "pods", "service-accounts/workload-low"),
        ];
        for (user, verb, group, namespace, what, expected) in table {
            let groups = users.iter().find(|(name, _)| *name == user).map(|(_, groups)| *groups).unwrap_or("");
            let identity = Identity {
                name: user.to_owned(),
                groups: groups.split(' ').map(str::to_owned).collect(),
                ..Identity::default()
            };
            let (resource, subresource) = what.split_once('/').unwrap_or((what, ""));
            let info = RequestInfo {
                resource_request: !what.starts_with('/'),
                verb,
                group: group.to_owned(),
                namespace: namespace.to_owned(),
                resource: resource.to_owned(),
                subresource: subresource.to_owned(),
                path: what.to_owned(),
                ..RequestInfo::default()
            };
            let found = schemas.find(&identity, &info).expect("a schema");
            assert_eq!(format!("{}/{}", found.schema.name, found.schema.level), expected, "{user} {verb} {what}");
        }
    }

    #[test]
    fn users_are_flows_of_their_own() {
        let schemas = schemas();
        let info =
            RequestInfo { resource_request: true, verb: "list", resource: "pods".to_owned(), ..RequestInfo::default() };
        let flow = |name: &str| {
            let groups = vec!["system:authenticated".to_owned()];
            let user = Identity { name: name.to_owned(), groups, ..Identity::default() };
            schemas.find(&user, &info).expect("a schema").flow
        };
        assert_ne!(flow("a"), flow("b"));
        assert_eq!(flow("a"), flow("a"));
    }
}
