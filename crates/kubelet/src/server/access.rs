//! Who may use the HTTPS port: callers are known by a client certificate of the cluster's authority or by a token that the API
//! reviews, and what they ask for is a use of this node's subresources, which the API allows or not.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::AUTHORIZATION;
use http::{HeaderMap, Method, StatusCode};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::Api;
use kube::api::PostParams;
use parking_lot::Mutex;

use super::Refusal;
use crate::config::{AuthorizationMode, Configuration};

/// Answers of the API that are kept at most.
const KEPT: usize = 4096;

/// A caller as the API knows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Caller {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl Caller {
    /// From a certificate that has been verified: the common name is the user, the organizations are the groups.
    pub fn from_certificate(der: &[u8]) -> Option<Caller> {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        let subject = certificate.subject();
        let name = subject.iter_common_name().next()?.as_str().ok().filter(|name| !name.is_empty())?.to_owned();
        let organizations = subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned);
        let groups = organizations.chain(["system:authenticated".to_owned()]).collect();
        Some(Caller { name, uid: String::new(), groups, extra: BTreeMap::new() })
    }

    fn anonymous() -> Caller {
        let groups = vec!["system:unauthenticated".to_owned()];
        Caller { name: "system:anonymous".to_owned(), uid: String::new(), groups, extra: BTreeMap::new() }
    }
}

/// Answers that hold for a while.
struct Answers<K, V>(Mutex<HashMap<K, (Instant, V)>>);

impl<K: std::hash::Hash + Eq, V: Clone> Answers<K, V> {
    fn new() -> Self {
        Answers(Mutex::new(HashMap::new()))
    }

    fn get(&self, key: &K) -> Option<V> {
        self.0.lock().get(key).filter(|(until, _)| *until > Instant::now()).map(|(_, value)| value.clone())
    }

    fn put(&self, key: K, value: V, holds: Duration) {
        let mut all = self.0.lock();
        if all.len() >= KEPT {
            let now = Instant::now();
            all.retain(|_, (until, _)| *until > now);
            if all.len() >= KEPT {
                all.clear();
            }
        }
        all.insert(key, (Instant::now() + holds, value));
    }
}

/// The door of the HTTPS port.
pub struct Access {
    client: kube::Client,
    node: String,
    configuration: Arc<Configuration>,
    callers: Answers<String, Option<Caller>>,
    allowed: Answers<(Caller, &'static str, &'static str), bool>,
}

impl Access {
    pub fn new(client: kube::Client, node: String, configuration: Arc<Configuration>) -> Access {
        Access { client, node, configuration, callers: Answers::new(), allowed: Answers::new() }
    }

    /// Lets a request pass or says why not.
    pub async fn check(
        &self,
        peer: Option<Caller>,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<(), Refusal> {
        let caller = self.caller(peer, headers).await?;
        let authorization = &self.configuration.authorization;
        if authorization.mode == AuthorizationMode::AlwaysAllow {
            return Ok(());
        }
        let verb = verb(method);
        let subresources = subresources(path);
        for subresource in &subresources {
            if self.allows(&caller, verb, subresource).await? {
                return Ok(());
            }
        }
        Err(Refusal(
            StatusCode::FORBIDDEN,
            format!(
                "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{}])\n",
                caller.name,
                subresources.join(" ")
            ),
        ))
    }

    async fn caller(&self, peer: Option<Caller>, headers: &HeaderMap) -> Result<Caller, Refusal> {
        if let Some(caller) = peer {
            return Ok(caller);
        }
        let authentication = &self.configuration.authentication;
        let unauthorized = || Refusal(StatusCode::UNAUTHORIZED, "Unauthorized".to_owned());
        let header = headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok());
        let token = header.and_then(|h| h.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        match token.map(|(_, token)| token.trim()) {
            Some(token) if !token.is_empty() && authentication.webhook.enabled => {
                self.reviewed(token).await?.ok_or_else(unauthorized)
            }
            Some(token) if !token.is_empty() => Err(unauthorized()),
            _ if authentication.anonymous.enabled => Ok(Caller::anonymous()),
            _ => Err(unauthorized()),
        }
    }

    async fn reviewed(&self, token: &str) -> Result<Option<Caller>, Refusal> {
        if let Some(known) = self.callers.get(&token.to_owned()) {
            return Ok(known);
        }
        let review = TokenReview {
            spec: TokenReviewSpec { token: token.to_owned(), ..Default::default() },
            ..Default::default()
        };
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let status = reviews.create(&PostParams::default(), &review).await.map_err(Refusal::internal)?.status;
        let user = status.filter(|s| s.authenticated == Some(true)).and_then(|s| s.user);
        let caller = user.map(|user| Caller {
            name: user.username.unwrap_or_default(),
            uid: user.uid.unwrap_or_default(),
            groups: user.groups.unwrap_or_default(),
            extra: user.extra.unwrap_or_default(),
        });
        self.callers.put(token.to_owned(), caller.clone(), self.configuration.authentication.webhook.cache_ttl.0);
        Ok(caller)
    }

    async fn allows(&self, caller: &Caller, verb: &'static str, subresource: &'static str) -> Result<bool, Refusal> {
        let key = (caller.clone(), verb, subresource);
        if let Some(known) = self.allowed.get(&key) {
            return Ok(known);
        }
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(caller.name.clone()),
                uid: Some(caller.uid.clone()),
                groups: Some(caller.groups.clone()),
                extra: Some(caller.extra.clone()),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(verb.to_owned()),
                    version: Some("v1".to_owned()),
                    resource: Some("nodes".to_owned()),
                    subresource: Some(subresource.to_owned()),
                    name: Some(self.node.clone()),
                    ..Default::default()
                }),
                ..Default::default()
            },
            ..Default::default()
        };
        let reviews: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let status = reviews.create(&PostParams::default(), &review).await.map_err(Refusal::internal)?.status;
        let allowed = status.is_some_and(|s| s.allowed);
        let times = &self.configuration.authorization.webhook;
        let holds = if allowed { times.cache_authorized_ttl } else { times.cache_unauthorized_ttl };
        self.allowed.put(key, allowed, holds.0);
        Ok(allowed)
    }
}

fn verb(method: &Method) -> &'static str {
    match method.as_str() {
        "POST" => "create",
        "GET" => "get",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => "",
    }
}

/// The subresources of the node that a path is a use of; one of them suffices.
fn subresources(path: &str) -> Vec<&'static str> {
    const FINE: [(&str, &str); 4] =
        [("/pods", "pods"), ("/healthz", "healthz"), ("/configz", "configz"), ("/runningpods", "pods")];
    const OWN: [(&str, &str); 4] =
        [("/stats", "stats"), ("/metrics", "metrics"), ("/logs", "log"), ("/checkpoint", "checkpoint")];
    let find = |table: &[(&str, &'static str)]| {
        let below = |top: &str| path.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        table.iter().find(|(top, _)| below(top)).map(|(_, name)| *name)
    };
    match find(&OWN) {
        Some(name) => vec![name],
        None => find(&FINE).into_iter().chain(["proxy"]).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_uses_of_subresources() {
        for (path, expected) in [
            ("/stats/summary", "stats"),
            ("/metrics/cadvisor", "metrics"),
            ("/logs/", "log"),
            ("/logsx", "proxy"),
            ("/checkpoint/a/b/c", "checkpoint"),
            ("/pods", "pods proxy"),
            ("/runningpods/", "pods proxy"),
            ("/healthz/ping", "healthz proxy"),
            ("/configz", "configz proxy"),
            ("/exec/a/b/c", "proxy"),
        ] {
            assert_eq!(subresources(path).join(" "), expected, "{path}");
        }
    }
}
