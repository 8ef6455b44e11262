//! Credential providers: programs that know credentials for images of certain registries, asked over their standard streams as
//! `credentialprovider.kubelet.k8s.io/v1` says.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use runtime::cri::AuthConfig;
use serde::Deserialize;
use serde_json::json;
use tokio::io::AsyncWriteExt;

use super::credentials::repository;
use crate::config::{self, ConfigError};

const CONFIG_VERSION: &str = "kubelet.config.k8s.io/v1";
const PROTOCOL: &str = "credentialprovider.kubelet.k8s.io/v1";
/// How long a program may take.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    providers: Vec<Provider>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Provider {
    name: String,
    match_images: Vec<String>,
    default_cache_duration: config::Duration,
    api_version: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<Variable>,
}

#[derive(Debug, Deserialize)]
struct Variable {
    name: String,
    value: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    api_version: String,
    cache_key_type: CacheKey,
    cache_duration: Option<config::Duration>,
    #[serde(default)]
    auth: BTreeMap<String, Login>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
enum CacheKey {
    Image,
    Registry,
    Global,
}

#[derive(Clone, Debug, Deserialize)]
struct Login {
    username: String,
    password: String,
}

type Logins = BTreeMap<String, Login>;

/// The configured providers and what they said, for as long as they said that it holds.
#[derive(Debug, Default)]
pub struct CredentialProviders {
    providers: Vec<Provider>,
    programs: PathBuf,
    known: Mutex<HashMap<String, (Instant, Logins)>>,
}

impl CredentialProviders {
    /// Reads a `CredentialProviderConfig`; the programs are in `programs`.
    pub fn load(file: &Path, programs: &Path) -> Result<CredentialProviders, ConfigError> {
        let named = |error: String| ConfigError(format!("{}: {error}", file.display()));
        let text = std::fs::read_to_string(file).map_err(|error| named(error.to_string()))?;
        let read: File = serde_saphyr::from_str(&text).map_err(|error| named(error.to_string()))?;
        read.check(programs).map_err(named)?;
        Ok(CredentialProviders { providers: read.providers, programs: programs.to_owned(), known: Mutex::default() })
    }

    /// The credentials of every provider that is for the image.
    pub async fn credentials(&self, image: &str) -> Vec<AuthConfig> {
        let mut found = Vec::new();
        for provider in self.providers.iter().filter(|p| p.match_images.iter().any(|m| matches(m, image))) {
            let logins = match self.logins(provider, image).await {
                Ok(logins) => logins,
                Err(error) => {
                    tracing::warn!(provider = provider.name, image, error, "a credential provider failed");
                    continue;
                }
            };
            let fitting = logins.into_iter().filter(|(registry, _)| matches(registry, image));
            found.extend(fitting.map(|(registry, login)| AuthConfig {
                username: login.username,
                password: login.password,
                server_address: registry,
                ..Default::default()
            }));
        }
        found
    }

    async fn logins(&self, provider: &Provider, image: &str) -> Result<Logins, String> {
        let keys = [CacheKey::Image, CacheKey::Registry, CacheKey::Global].map(|key| provider.cache_key(key, image));
        {
            let known = self.known.lock();
            let fresh = keys.iter().filter_map(|key| known.get(key)).find(|(until, _)| *until > Instant::now());
            if let Some((_, logins)) = fresh {
                return Ok(logins.clone());
            }
        }
        let answer = provider.ask(&self.programs, image).await?;
        let holds = answer.cache_duration.unwrap_or(provider.default_cache_duration).0;
        let mut known = self.known.lock();
        known.retain(|_, (until, _)| *until > Instant::now());
        let key = provider.cache_key(answer.cache_key_type, image);
        known.insert(key, (Instant::now() + holds, answer.auth.clone()));
        Ok(answer.auth)
    }
}

impl File {
    fn check(&self, programs: &Path) -> Result<(), String> {
        if (self.api_version.as_str(), self.kind.as_str()) != (CONFIG_VERSION, "CredentialProviderConfig") {
            return Err(format!("a CredentialProviderConfig of {CONFIG_VERSION} is wanted"));
        }
        if self.providers.is_empty() {
            return Err("at least one item in plugins is required".to_owned());
        }
        for provider in &self.providers {
            let name = &provider.name;
            if name.is_empty() || name.contains(['/', ' ']) || matches!(name.as_str(), "." | "..") {
                return Err(format!("the provider's name {name:?} is not the name of a file"));
            }
            if provider.api_version != PROTOCOL {
                return Err(format!("provider {name}: apiVersion must be {PROTOCOL:?}"));
            }
            if provider.match_images.is_empty() {
                return Err(format!("provider {name}: matchImages is required"));
            }
            let program = programs.join(name);
            if !program.is_file() {
                return Err(format!("provider {name}: there is no program {}", program.display()));
            }
        }
        Ok(())
    }
}

impl Provider {
    fn cache_key(&self, key: CacheKey, image: &str) -> String {
        let (host, _) = repository(image);
        match key {
            CacheKey::Image => format!("{} image {image}", self.name),
            CacheKey::Registry => format!("{} registry {host}", self.name),
            CacheKey::Global => format!("{} all", self.name),
        }
    }

    async fn ask(&self, programs: &Path, image: &str) -> Result<Answer, String> {
        let request = json!({"kind": "CredentialProviderRequest", "apiVersion": PROTOCOL, "image": image}).to_string();
        let mut command = tokio::process::Command::new(programs.join(&self.name));
        command.args(&self.args).envs(self.env.iter().map(|v| (&v.name, &v.value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let work = async {
            let mut child = command.spawn()?;
            if let Some(mut input) = child.stdin.take() {
                // One that does not read has its answer without the question.
                let _ = input.write_all(request.as_bytes()).await;
            }
            child.wait_with_output().await
        };
        let output = tokio::time::timeout(PATIENCE, work).await.map_err(|_| "it took too long".to_owned())?;
        let output = output.map_err(|error| error.to_string())?;
        if !output.status.success() {
            return Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()));
        }
        let answer: Answer = serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
        match answer.api_version.as_str() {
            PROTOCOL => Ok(answer),
            other => Err(format!("it answers in {other:?} instead of {PROTOCOL:?}")),
        }
    }
}

/// Whether an image is of a pattern: the host's parts one by one, where `*` stands for any characters of a part, the port if one
/// is given, and the beginning of the path.
fn matches(pattern: &str, image: &str) -> bool {
    let pattern = pattern.trim_start_matches("https://").trim_start_matches("http://");
    let (wanted, prefix) = pattern.split_once('/').unwrap_or((pattern, ""));
    let (host, path) = repository(image);
    let port =
        |text: &str| text.split_once(':').map_or((text.to_owned(), None), |(h, p)| (h.to_owned(), Some(p.to_owned())));
    let ((wanted, wanted_port), (host, host_port)) = (port(wanted), port(&host));
    let (wanted, host): (Vec<_>, Vec<_>) = (wanted.split('.').collect(), host.split('.').collect());
    wanted_port == host_port
        && wanted.len() == host.len()
        && wanted.iter().zip(&host).all(|(wanted, part)| glob(wanted, part))
        && path.starts_with(prefix)
}

fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, rest)) => text.strip_prefix(head).is_some_and(|tail| {
            (0..=tail.len()).filter(|at| tail.is_char_boundary(*at)).any(|at| glob(rest, &tail[at..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn images_are_matched_part_by_part() {
        for (pattern, image, expected) in [
            ("*.dkr.ecr.*.amazonaws.com", "1.dkr.ecr.eu.amazonaws.com/a/b:1", true),
            ("*.dkr.ecr.*.amazonaws.com", "dkr.ecr.eu.amazonaws.com/a", false),
            ("reg*.test:5000", "reg1.test:5000/a", true),
            ("reg.test", "reg.test:5000/a", false),
            ("reg.test/team", "reg.test/team/a", true),
            ("reg.test/team", "reg.test/other/a", false),
            ("docker.io", "nginx", true),
        ] {
            assert_eq!(matches(pattern, image), expected, "{pattern} {image}");
        }
    }

    #[tokio::test]
    async fn a_program_is_asked_once_while_its_answer_holds() {
        let directory = tempfile::tempdir().unwrap();
        let count = directory.path().join("count");
        let answer = json!({"kind": "CredentialProviderResponse", "apiVersion": PROTOCOL, "cacheKeyType": "Registry",
            "auth": {"reg.test": {"username": "u", "password": "p"}}});
        let script = format!(
            "#!/bin/sh\ncat >> {}\nif [ \"$WHO\" != me ] || [ \"$1\" != get ]; then exit 1; fi\necho '{answer}'\n",
            count.display()
        );
        let program = directory.path().join("helper");
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let write = |fields: &str| {
            let file = directory.path().join("config.yaml");
            let text = format!(
                "apiVersion: {CONFIG_VERSION}\nkind: CredentialProviderConfig\nproviders:\n- name: helper\n  \
                 matchImages: [reg.test]\n  defaultCacheDuration: 1m\n  apiVersion: {PROTOCOL}\n{fields}"
            );
            std::fs::write(&file, text).unwrap();
            CredentialProviders::load(&file, directory.path())
        };
        assert!(write("  color: red").unwrap_err().0.contains("color"));
        let providers = write("  args: [get]\n  env: [{name: WHO, value: me}]").unwrap();
        for image in ["reg.test/a", "reg.test/b", "other.test/c"] {
            let names: Vec<_> = providers.credentials(image).await.into_iter().map(|auth| auth.username).collect();
            assert_eq!(names, if image.starts_with("reg") { vec!["u"] } else { vec![] }, "{image}");
        }
        let asked = std::fs::read_to_string(count).unwrap();
        assert_eq!(
            asked,
            json!({"kind": "CredentialProviderRequest", "apiVersion": PROTOCOL, "image": "reg.test/a"}).to_string()
        );
    }
}
