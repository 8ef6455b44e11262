//! What a request is about, read off its method, path and query as upstream's `RequestInfo`.

use http::Method;

use super::query::Query;

/// What a request asks for. For paths outside `/api` and `/apis` only `verb` and `path` say something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// Whether the path names a resource.
    pub resource_request: bool,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; the method in lower case
    /// where the path names no resource.
    pub verb: &'static str,
    pub group: String,
    pub version: String,
    pub namespace: String,
    /// The plural.
    pub resource: String,
    pub subresource: String,
    pub name: String,
    /// What follows the subresource, with its leading slash: the path behind a proxy.
    pub rest: String,
    pub path: String,
}

impl RequestInfo {
    /// Reads the request. Never fails: what is no resource path is a non-resource request.
    pub fn new(method: &Method, path: &str, query: &Query) -> Self {
        let mut info = RequestInfo { verb: plain_verb(method), path: path.to_owned(), ..RequestInfo::default() };
        let mut segments: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).collect();
        let versioned = match segments.first() {
            Some(&"api") if segments.len() >= 3 => 2,
            Some(&"apis") if segments.len() >= 4 => 3,
            _ => return info,
        };
        info.resource_request = true;
        if versioned == 3 {
            info.group = decode(segments[1]);
        }
        info.version = decode(segments[versioned - 1]);
        segments.drain(..versioned);
        // The retired form /api/v1/watch/pods.
        let watch_path = segments.len() > 1 && segments[0] == "watch";
        if watch_path {
            segments.remove(0);
        }
        info.verb = match *method {
            Method::POST => "create",
            Method::GET | Method::HEAD => "get",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "",
        };
        if segments[0] == "namespaces" && segments.len() > 1 {
            info.namespace = decode(segments[1]);
            let of_namespace = segments.len() == 2 || matches!(segments[2], "status" | "finalize");
            if !of_namespace {
                segments.drain(..2);
            }
        }
        info.resource = decode(segments[0]);
        info.name = segments.get(1).map(|s| decode(s)).unwrap_or_default();
        info.subresource = segments.get(2).map(|s| decode(s)).unwrap_or_default();
        if segments.len() > 3 || (info.subresource == "proxy" && path.ends_with('/')) {
            info.rest = rest(path, segments.get(3..).unwrap_or_default());
        }
        if info.name.is_empty() {
            match info.verb {
                "get" => info.verb = if watch_path || query.flag("watch") { "watch" } else { "list" },
                "delete" => info.verb = "deletecollection",
                _ => {}
            }
        } else if info.verb == "get" && info.subresource.is_empty() && (watch_path || query.flag("watch")) {
            info.verb = "watch";
        }
        info
    }

    /// Whether the request may take as long as it likes: watches, streams and proxies.
    pub fn long_running(&self) -> bool {
        self.verb == "watch" || matches!(self.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy")
    }

    /// `pods` or `pods/log`.
    pub fn full_resource(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.clone()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }
}

fn plain_verb(method: &Method) -> &'static str {
    match *method {
        Method::GET => "get",
        Method::HEAD => "head",
        Method::POST => "post",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        Method::OPTIONS => "options",
        _ => "other",
    }
}

/// The path's tail behind a proxy subresource, undecoded, its trailing slash kept.
fn rest(path: &str, tail: &[&str]) -> String {
    let mut rest = String::new();
    for segment in tail {
        rest.push('/');
        rest.push_str(segment);
    }
    if path.ends_with('/') {
        rest.push('/');
    }
    rest
}

/// A path segment without its percent escapes; one with bad escapes or bad UTF-8 stays as it is.
pub fn decode(segment: &str) -> String {
    if !segment.contains('%') {
        return segment.to_owned();
    }
    super::query::unescape(segment, false).unwrap_or_else(|| segment.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_read_as_upstream_reads_them() {
        // method, path and query; verb, group, version, namespace, resource, subresource, name
        let table = [
            ("GET /api/v1/namespaces", "list||v1||namespaces||"),
            ("GET /api/v1/namespaces/other", "get||v1|other|namespaces||other"),
            ("PUT /api/v1/namespaces/other/finalize", "update||v1|other|namespaces|finalize|other"),
            ("GET /api/v1/namespaces/other/pods", "list||v1|other|pods||"),
            ("GET /api/v1/namespaces/other/pods?watch=true", "watch||v1|other|pods||"),
            ("GET /api/v1/watch/namespaces/other/pods", "watch||v1|other|pods||"),
            ("GET /api/v1/watch/pods", "watch||v1||pods||"),
            ("GET /api/v1/namespaces/other/pods/foo", "get||v1|other|pods||foo"),
            ("GET /api/v1/namespaces/other/pods/foo/log", "get||v1|other|pods|log|foo"),
            ("POST /api/v1/namespaces/other/pods", "create||v1|other|pods||"),
            ("DELETE /api/v1/namespaces/other/pods", "deletecollection||v1|other|pods||"),
            ("DELETE /api/v1/nodes/foo", "delete||v1||nodes||foo"),
            ("PATCH /apis/apps/v1/namespaces/a/deployments/foo/status", "patch|apps|v1|a|deployments|status|foo"),
            (
                "GET /apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode",
                "get|rbac.authorization.k8s.io|v1||clusterroles||system:node",
            ),
        ];
        for (request, expected) in table {
            let (method, uri) = request.split_once(' ').expect("two parts");
            let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
            let method = Method::from_bytes(method.as_bytes()).expect("a method");
            let i = RequestInfo::new(&method, path, &Query::parse(query));
            assert!(i.resource_request, "{request}");
            let got = [i.verb, &i.group, &i.version, &i.namespace, &i.resource, &i.subresource, &i.name].join("|");
            assert_eq!(got, expected, "{request}");
        }
    }

    #[test]
    fn other_paths_are_no_resource_requests() {
        for path in ["/", "/api", "/api/v1", "/apis", "/apis/apps", "/apis/apps/v1", "/version", "/healthz", "//"] {
            assert!(!RequestInfo::new(&Method::GET, path, &Query::default()).resource_request, "{path}");
        }
    }
}
