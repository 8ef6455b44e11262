//! Credentials for registries: from a pod's pull secrets, by the server and path that each is for.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use runtime::cri::AuthConfig;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::pulled::Source;
use crate::context::Context;
use crate::pods::pod::Pod;

/// A credential and the secret that it is from.
pub struct Credential {
    pub auth: AuthConfig,
    pub source: Option<Source>,
}

/// The registry and repository that a reference names.
pub fn repository(image: &str) -> (String, String) {
    let name = image.split('@').next().unwrap_or(image);
    match name.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host.to_owned(), path.to_owned()),
        _ => ("docker.io".to_owned(), name.to_owned()),
    }
}

pub fn well_formed(image: &str) -> bool {
    let (_, path) = repository(image);
    let name = path.split(':').next().unwrap_or_default();
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-/".contains(c);
    !name.is_empty() && name.chars().all(allowed) && !image.contains(char::is_whitespace)
}

/// Those of the pod's secrets that fit the image.
pub async fn of_pod(context: &Context, pod: &Pod, image: &str) -> Vec<Credential> {
    let mut found = Vec::new();
    for reference in pod.spec().image_pull_secrets.iter().flatten() {
        let Ok(Some(secret)) = context.objects.secret(&pod.namespace, &reference.name).await else {
            let message = format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                reference.name
            );
            context.warn(pod, None, "FailedToRetrieveImagePullSecret", message);
            continue;
        };
        let data = secret.data.unwrap_or_default();
        let auths = match (data.get(".dockerconfigjson"), data.get(".dockercfg")) {
            (Some(json), _) => serde_json::from_slice::<Value>(&json.0).ok().map(|v| v["auths"].clone()),
            (None, Some(json)) => serde_json::from_slice::<Value>(&json.0).ok(),
            (None, None) => None,
        };
        found.extend(auths.as_ref().map(|auths| matching(auths, image)).unwrap_or_default().into_iter().map(|auth| {
            let source = Source {
                namespace: pod.namespace.clone(),
                name: reference.name.clone(),
                uid: secret.metadata.uid.clone().unwrap_or_default(),
                hash: hash(&auth),
            };
            Credential { auth, source: Some(source) }
        }));
    }
    found
}

fn hash(auth: &AuthConfig) -> String {
    let mut digest = Sha256::new();
    for part in [&auth.username, &auth.password, &auth.identity_token, &auth.registry_token] {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The entries of a Docker configuration that fit an image, the most specific first.
fn matching(auths: &Value, image: &str) -> Vec<AuthConfig> {
    let (host, path) = repository(image);
    let whole = format!("{host}/{path}");
    let mut fitting: Vec<(usize, AuthConfig)> = Vec::new();
    for (server, entry) in auths.as_object().into_iter().flatten() {
        let bare = server.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
        let bare = bare.trim_end_matches("/v1").trim_end_matches("/v2");
        let bare = bare.replacen("index.docker.io", "docker.io", 1);
        let wildcard =
            bare.strip_prefix("*.").is_some_and(|domain| host.split_once('.').is_some_and(|(_, rest)| rest == domain));
        if wildcard || whole == bare || whole.starts_with(&format!("{bare}/")) {
            fitting.push((bare.len(), auth(server, entry)));
        }
    }
    fitting.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    fitting.into_iter().map(|(_, auth)| auth).collect()
}

fn auth(server: &str, entry: &Value) -> AuthConfig {
    let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    let mut auth = AuthConfig {
        username: text("username"),
        password: text("password"),
        auth: text("auth"),
        server_address: server.to_owned(),
        identity_token: text("identitytoken"),
        registry_token: text("registrytoken"),
    };
    let decoded = STANDARD.decode(&auth.auth).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    if auth.username.is_empty()
        && let Some((user, password)) = decoded.as_deref().and_then(|d| d.split_once(':'))
    {
        (auth.username, auth.password) = (user.to_owned(), password.to_owned());
    }
    auth
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_secrets_are_tried_from_the_most_specific_that_fits() {
        let auths = serde_json::json!({
            "https://index.docker.io/v1/": {"username": "hub"},
            "reg.example": {"auth": "YTpi"},
            "reg.example/team": {"username": "team"},
            "*.example": {"username": "wild"},
        });
        for (image, expected) in [
            ("nginx", "hub"),
            ("library/nginx:1", "hub"),
            ("reg.example/team/app:1", "team a wild"),
            ("reg.example/teams/app@sha256:0", "a wild"),
            ("other.test/app", ""),
        ] {
            let users: Vec<_> = matching(&auths, image).into_iter().map(|a| a.username).collect();
            let expected: Vec<_> = expected.split_whitespace().collect();
            let (mut users, mut expected) = (users.iter().map(String::as_str).collect::<Vec<_>>(), expected);
            // Two of the same length have no order.
            users[..].sort();
            expected[..].sort();
            assert_eq!(users, expected, "{image}");
        }
    }
}
