//! Seeing to it that a container's image is present.

use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use runtime::cri::{AuthConfig, Image, ImageSpec};
use serde_json::Value;

use crate::context::Context;
use crate::pods::memory::{Present, Reason};
use crate::pods::pod::{Member, Pod};

/// The image by its container's pull policy. The error is the container's waiting reason.
pub async fn ensure(context: &Context, pod: &Pod, member: &Member) -> Result<Present, Reason> {
    let image = member.spec.image.as_deref().unwrap_or_default();
    let tell = |reason: &str, message: String| context.tell(pod, Some(&member.spec.name), reason, message);
    let warn = |message: String| context.warn(pod, Some(&member.spec.name), "Failed", message);
    if !well_formed(image) {
        let message = format!(
            "Failed to apply default image tag {image:?}: couldn't parse image name {image:?}: invalid reference format"
        );
        let why = Reason::new("InvalidImageName", message);
        context.warn(pod, Some(&member.spec.name), "InspectFailed", why.message.clone());
        return Err(why);
    }
    let policy = member.spec.image_pull_policy.as_deref().unwrap_or("IfNotPresent");
    let here = status(context, image).await.map_err(|message| {
        let message = format!("Failed to inspect image {image:?}: {message}");
        context.warn(pod, Some(&member.spec.name), "InspectFailed", message.clone());
        Reason::new("ImageInspectError", message)
    })?;
    match (policy, here) {
        ("Never", None) => {
            let message = format!("Container image {image:?} is not present with pull policy of Never");
            context.warn(pod, Some(&member.spec.name), "ErrImageNeverPull", message.clone());
            warn("Error: ErrImageNeverPull".to_owned());
            Err(Reason::new("ErrImageNeverPull", message))
        }
        ("IfNotPresent" | "Never", Some(image_found)) => {
            tell("Pulled", format!("Container image {image:?} already present on machine"));
            Ok(present(image_found))
        }
        _ => {
            tell("Pulling", format!("Pulling image {image:?}"));
            let began = Instant::now();
            let pulled = pull(context, pod, image).await.map_err(|message| {
                warn(format!("Failed to pull image {image:?}: {message}"));
                warn("Error: ErrImagePull".to_owned());
                Reason::new("ErrImagePull", message)
            })?;
            let took = began.elapsed();
            let took = format!("{}.{:03}s", took.as_secs(), took.subsec_millis());
            let size = pulled.size;
            tell(
                "Pulled",
                format!(
                    "Successfully pulled image {image:?} in {took} ({took} including waiting). Image size: {size} bytes."
                ),
            );
            Ok(present(pulled))
        }
    }
}

fn present(image: Image) -> Present {
    Present { id: image.id, uid: image.uid, username: image.username }
}

fn spec(image: &str) -> ImageSpec {
    ImageSpec { image: image.to_owned(), user_specified_image: image.to_owned(), ..Default::default() }
}

async fn status(context: &Context, image: &str) -> Result<Option<Image>, String> {
    context.images.image_status(&spec(image)).await.map_err(|e| e.message)
}

/// Pulls with each credential that fits the registry, and without one if none does.
async fn pull(context: &Context, pod: &Pod, image: &str) -> Result<Image, String> {
    let mut credentials: Vec<_> = credentials(context, pod, image).await.into_iter().map(Some).collect();
    if credentials.is_empty() {
        credentials.push(None);
    }
    let mut errors = Vec::new();
    for auth in credentials {
        match context.images.pull_image(spec(image), auth, None).await {
            Ok(id) => {
                let found = status(context, &id).await?;
                return found.ok_or_else(|| format!("image {image:?} is gone right after its pull"));
            }
            Err(error) => errors.push(error.message),
        }
    }
    errors.dedup();
    Err(errors.join(", "))
}

/// The registry and repository that a reference names.
fn repository(image: &str) -> (String, String) {
    let name = image.split('@').next().unwrap_or(image);
    match name.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host.to_owned(), path.to_owned()),
        _ => ("docker.io".to_owned(), name.to_owned()),
    }
}

fn well_formed(image: &str) -> bool {
    let (_, path) = repository(image);
    let name = path.split(':').next().unwrap_or_default();
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-/".contains(c);
    !name.is_empty() && name.chars().all(allowed) && !image.contains(char::is_whitespace)
}

async fn credentials(context: &Context, pod: &Pod, image: &str) -> Vec<AuthConfig> {
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
        found.extend(auths.as_ref().map(|auths| matching(auths, image)).unwrap_or_default());
    }
    found
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
