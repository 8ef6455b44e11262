//! Where images come from: the mirror file that k3s users know (`registries.yaml`), and the endpoints it leads to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// The content of a registries file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registries {
    /// By registry host as in image names; `*` is for every other.
    #[serde(default)]
    mirrors: BTreeMap<String, Mirror>,
    /// By the host (and port) that is dialled.
    #[serde(default)]
    configs: BTreeMap<String, HostConfig>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mirror {
    /// URLs, tried in order before the registry itself.
    #[serde(default)]
    endpoint: Vec<String>,
    /// Regular expressions on the repository's name and what to write instead (`$1` for groups).
    #[serde(default)]
    rewrite: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct HostConfig {
    auth: Option<Credentials>,
    tls: Option<Tls>,
}

/// How to sign in to a registry, from the mirror file or from a pull secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    #[serde(default)]
    pub username: String,
    #[serde(default)]
    pub password: String,
    /// Base64 of `username:password`.
    #[serde(default)]
    pub auth: String,
    #[serde(default, alias = "identitytoken")]
    pub identity_token: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tls {
    pub(super) ca_file: Option<PathBuf>,
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    #[serde(default)]
    pub(super) insecure_skip_verify: bool,
}

/// One place to ask for an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// Host and port to dial.
    pub(super) host: String,
    pub(super) plain_http: bool,
    /// The repository's name there.
    pub(super) repository: String,
    pub(super) auth: Option<Credentials>,
    pub(super) tls: Tls,
}

/// What is wrong with a registries file.
#[derive(Debug, thiserror::Error)]
pub enum RegistriesError {
    #[error("cannot read the registries file {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the registries file {path} is not valid: {message}")]
    Invalid { path: PathBuf, message: String },
}

impl Registries {
    /// Reads and checks a registries file.
    pub fn load(path: &Path) -> Result<Self, RegistriesError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| RegistriesError::Read { path: path.to_owned(), source })?;
        Self::parse(&text).map_err(|message| RegistriesError::Invalid { path: path.to_owned(), message })
    }

    fn parse(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let registries: Registries = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
        for (name, mirror) in &registries.mirrors {
            for url in &mirror.endpoint {
                split_endpoint(url).map_err(|e| format!("mirrors.{name}.endpoint: {e}"))?;
            }
            for pattern in mirror.rewrite.keys() {
                regex::Regex::new(pattern).map_err(|e| format!("mirrors.{name}.rewrite: {e}"))?;
            }
        }
        for (name, config) in &registries.configs {
            if let Some(tls) = &config.tls
                && (tls.cert_file.is_some() || tls.key_file.is_some())
            {
                return Err(format!(
                    "configs.{name}.tls: client certificates (cert_file, key_file) cannot be used; sign in with auth"
                ));
            }
        }
        Ok(registries)
    }

    /// The places to ask for `repository` of `registry`, in order; the last one is the registry itself.
    pub(super) fn endpoints(&self, registry: &str, repository: &str) -> Vec<Endpoint> {
        let mut endpoints = Vec::new();
        if let Some(mirror) = self.mirrors.get(registry).or_else(|| self.mirrors.get("*")) {
            let rewritten = mirror
                .rewrite
                .iter()
                .filter_map(|(pattern, with)| Some((regex::Regex::new(pattern).ok()?, with)))
                .find(|(pattern, _)| pattern.is_match(repository))
                .map_or_else(|| repository.to_owned(), |(p, with)| p.replace(repository, with.as_str()).into_owned());
            for url in &mirror.endpoint {
                if let Ok((host, plain_http)) = split_endpoint(url) {
                    endpoints.push(self.endpoint(host, plain_http, rewritten.clone()));
                }
            }
        }
        let host = if registry == "docker.io" { "index.docker.io" } else { registry };
        if !endpoints.iter().any(|e| e.host == host && e.repository == repository) {
            endpoints.push(self.endpoint(host, is_loopback(host), repository.to_owned()));
        }
        endpoints
    }

    fn endpoint(&self, host: &str, plain_http: bool, repository: String) -> Endpoint {
        let config = self.configs.get(host).cloned().unwrap_or_default();
        Endpoint {
            host: host.to_owned(),
            plain_http: plain_http && config.tls.is_none(),
            repository,
            auth: config.auth,
            tls: config.tls.unwrap_or_default(),
        }
    }
}

/// Registries on loopback speak plain HTTP unless told otherwise, as with other runtimes.
fn is_loopback(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name == "localhost" || name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Host (with port) and whether it speaks plain HTTP.
fn split_endpoint(url: &str) -> Result<(&str, bool), String> {
    let (host, plain) = match (url.strip_prefix("http://"), url.strip_prefix("https://")) {
        (Some(rest), _) => (rest, true),
        (_, Some(rest)) => (rest, false),
        _ if url.contains("://") => return Err(format!("{url:?} must be an http or https URL")),
        _ => (url, is_loopback(url.split('/').next().unwrap_or(url))),
    };
    let host = host.trim_end_matches('/');
    let host = host.strip_suffix("/v2").unwrap_or(host);
    if host.is_empty() || host.contains('/') {
        return Err(format!("{url:?} must name a host and no path; use rewrite to change the repository"));
    }
    Ok((host, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(file: &str, registry: &str, repository: &str) -> Vec<String> {
        let registries = Registries::parse(file).expect("valid");
        registries
            .endpoints(registry, repository)
            .into_iter()
            .map(|e| format!("{}://{}/{}", if e.plain_http { "http" } else { "https" }, e.host, e.repository))
            .collect()
    }

    #[test]
    fn mirrors_come_first_and_the_registry_itself_last() {
        let file = "mirrors: {docker.io: {endpoint: ['http://127.0.0.1:5000', 'https://mirror.example'], rewrite: {'^library/(.*)': 'hub/$1'}}}";
        let expected = [
            "http://127.0.0.1:5000/hub/nginx",
            "https://mirror.example/hub/nginx",
            "https://index.docker.io/library/nginx",
        ];
        assert_eq!(places(file, "docker.io", "library/nginx"), expected);
        assert_eq!(places(file, "ghcr.io", "a/b"), ["https://ghcr.io/a/b"]);
        assert_eq!(places("", "localhost:5000", "a"), ["http://localhost:5000/a"]);
        assert_eq!(
            places("mirrors: {'*': {endpoint: ['https://m.example/v2']}}", "quay.io", "x")[0],
            "https://m.example/x"
        );
    }

    #[test]
    fn a_bad_file_is_told_where_it_is_wrong() {
        for (file, part) in [
            ("mirrors: {docker.io: {endpoint: ['ftp://x']}}", "mirrors.docker.io.endpoint"),
            ("mirrors: {docker.io: {endpoints: []}}", "endpoints"),
            ("mirrors: {docker.io: {rewrite: {'(': ''}}}", "mirrors.docker.io.rewrite"),
            ("configs: {x: {tls: {cert_file: /a}}}", "client certificates"),
        ] {
            let error = Registries::parse(file).expect_err(file);
            assert!(error.contains(part), "{error}");
        }
    }
}
