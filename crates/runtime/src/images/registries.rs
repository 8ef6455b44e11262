//! Where images come from: the mirror file that k3s users know (`registries.yaml`), and the endpoints it leads to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer};

/// The content of a registries file. Where k3s takes a key without a value, or one that it does not know, so is it here.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Registries {
    /// By registry host as in image names; `*` is for every other.
    #[serde(default, deserialize_with = "nullable")]
    mirrors: BTreeMap<String, Option<Mirror>>,
    /// By the host (and port) that is dialled; `*` is for every other.
    #[serde(default, deserialize_with = "nullable")]
    configs: BTreeMap<String, Option<HostConfig>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Mirror {
    /// URLs, tried in order before the registry itself.
    #[serde(default, alias = "endpoints", deserialize_with = "nullable")]
    endpoint: Vec<String>,
    /// Regular expressions on the repository's name and what to write instead (`$1` for groups).
    #[serde(default, deserialize_with = "nullable")]
    rewrite: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct HostConfig {
    auth: Option<Credentials>,
    tls: Option<Tls>,
}

/// How to sign in to a registry, from the mirror file or from a pull secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
pub struct Credentials {
    #[serde(default, deserialize_with = "nullable")]
    pub username: String,
    #[serde(default, deserialize_with = "nullable")]
    pub password: String,
    /// Base64 of `username:password`.
    #[serde(default, deserialize_with = "nullable")]
    pub auth: String,
    /// A bearer token, sent as it is.
    #[serde(default, alias = "registrytoken", alias = "registry_token", deserialize_with = "nullable")]
    pub token: String,
    /// An OAuth2 refresh token, which the registry's token service exchanges for one that counts.
    #[serde(default, alias = "identitytoken", deserialize_with = "nullable")]
    pub identity_token: String,
}

impl Credentials {
    /// What cannot be used is told before anything is sent.
    pub(super) fn check(&self) -> Result<(), String> {
        self.pair().map(drop)
    }

    /// User and password, where there are any.
    pub(super) fn pair(&self) -> Result<Option<(String, String)>, String> {
        const WRONG: &str = "the registry's auth is not base64 of username:password";
        if !self.username.is_empty() {
            return Ok(Some((self.username.clone(), self.password.clone())));
        }
        if self.auth.is_empty() {
            return Ok(None);
        }
        let decoded = STANDARD.decode(&self.auth).map_err(|e| format!("{WRONG}: {e}"))?;
        let text = String::from_utf8(decoded).map_err(|e| format!("{WRONG}: {e}"))?;
        let (user, password) = text.split_once(':').ok_or(WRONG)?;
        Ok(Some((user.to_owned(), password.trim_end_matches('\0').to_owned())))
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Tls {
    pub(super) ca_file: Option<PathBuf>,
    pub(super) cert_file: Option<PathBuf>,
    pub(super) key_file: Option<PathBuf>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) insecure_skip_verify: bool,
}

/// A key without a value is as good as none.
fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// One place to ask for an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// Host and port that are dialled.
    pub(super) host: String,
    /// The URL below which repositories are.
    pub(super) base: String,
    /// The repository's name there.
    pub(super) repository: String,
    pub(super) auth: Option<Credentials>,
    pub(super) tls: Tls,
}

/// What is wrong with a registries file.
#[derive(Debug, thiserror::Error)]
pub enum RegistriesError {
    #[error("cannot read the registries file {path}: {error}")]
    Read { path: PathBuf, error: std::io::Error },
    #[error("the registries file {path} is not valid: {message}")]
    Invalid { path: PathBuf, message: String },
}

impl Registries {
    /// Reads and checks a registries file.
    pub fn load(path: &Path) -> Result<Self, RegistriesError> {
        let text =
            std::fs::read_to_string(path).map_err(|error| RegistriesError::Read { path: path.to_owned(), error })?;
        let invalid = |message| RegistriesError::Invalid { path: path.to_owned(), message };
        for (key, known) in unknown_keys(&text).map_err(invalid)? {
            let known = known.join(", ");
            tracing::warn!("{key} in the registries file {} is ignored; known there: {known}", path.display());
        }
        Self::parse(&text).map_err(invalid)
    }

    fn parse(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let registries: Option<Registries> = read(text)?;
        let registries = registries.unwrap_or_default();
        for (name, mirror) in registries.mirrors.iter().filter_map(|(name, mirror)| Some((name, mirror.as_ref()?))) {
            for url in &mirror.endpoint {
                Place::parse(url).map_err(|e| format!("mirrors.{name}.endpoint: {e}"))?;
            }
            for pattern in mirror.rewrite.keys() {
                regex::Regex::new(pattern).map_err(|error| {
                    // The lines before the last show the pattern.
                    let why = error.to_string();
                    let why = why.lines().last().unwrap_or_default().trim_start_matches("error: ");
                    format!("mirrors.{name}.rewrite: {pattern:?} is no regular expression: {why}")
                })?;
            }
        }
        for (name, config) in registries.configs.iter().filter_map(|(name, config)| Some((name, config.as_ref()?))) {
            if config.tls.as_ref().is_some_and(|tls| tls.cert_file.is_some() != tls.key_file.is_some()) {
                return Err(format!("configs.{name}.tls: cert_file and key_file need each other"));
            }
            config.auth.as_ref().map_or(Ok(()), Credentials::check).map_err(|e| format!("configs.{name}.auth: {e}"))?;
        }
        Ok(registries)
    }

    /// The places to ask for `repository` of `registry`, in order; the last one is the registry itself.
    pub(super) fn endpoints(&self, registry: &str, repository: &str) -> Vec<Endpoint> {
        let mut endpoints: Vec<Endpoint> = Vec::new();
        let mirror = self.mirrors.get(registry).or_else(|| self.mirrors.get("*"));
        if let Some(mirror) = mirror.and_then(Option::as_ref) {
            let rewritten = mirror
                .rewrite
                .iter()
                .filter_map(|(pattern, with)| Some((regex::Regex::new(pattern).ok()?, with)))
                .find(|(pattern, _)| pattern.is_match(repository))
                .map_or_else(|| repository.to_owned(), |(p, with)| p.replace(repository, with.as_str()).into_owned());
            let places = mirror.endpoint.iter().filter_map(|url| Place::parse(url).ok());
            endpoints.extend(places.map(|place| self.endpoint(place, &rewritten)));
        }
        let host = if is_docker_hub(registry) { DOCKER_HUB[0] } else { registry };
        let own = self.endpoint(Place { host, scheme: None, path: "" }, repository);
        if !endpoints.iter().any(|e| e.base == own.base && e.repository == own.repository) {
            endpoints.push(own);
        }
        endpoints
    }

    fn endpoint(&self, place: Place<'_>, repository: &str) -> Endpoint {
        let config = self.config(place.host);
        // What is written counts; what is not depends on whether there is something to say about TLS.
        let scheme = place.scheme.unwrap_or(match is_loopback(place.host) && config.tls.is_none() {
            true => "http",
            false => "https",
        });
        let path = if place.path.is_empty() { "/v2" } else { place.path };
        Endpoint {
            host: place.host.to_owned(),
            base: format!("{scheme}://{}{path}", place.host),
            repository: repository.to_owned(),
            auth: config.auth,
            tls: config.tls.unwrap_or_default(),
        }
    }

    /// What is said about a host: under its name, under another name of the same, or for all.
    fn config(&self, host: &str) -> HostConfig {
        let name = host.strip_suffix(":443").or_else(|| host.strip_suffix(":80")).unwrap_or(host);
        let aliases: &[&str] = if is_docker_hub(host) { &DOCKER_HUB } else { &[] };
        let found = [host, name].iter().chain(aliases).chain(&["*"]).find_map(|name| self.configs.get(*name));
        found.cloned().flatten().unwrap_or_default()
    }
}

/// The names of Docker's registry: the one that is dialled, the one in images' names, and the one in credentials.
const DOCKER_HUB: [&str; 3] = ["registry-1.docker.io", "docker.io", "index.docker.io"];

fn is_docker_hub(host: &str) -> bool {
    DOCKER_HUB.contains(&host)
}

/// Registries on loopback speak plain HTTP unless told otherwise, as with other runtimes.
fn is_loopback(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name == "localhost" || name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// An endpoint as it is written.
struct Place<'a> {
    /// With its port.
    host: &'a str,
    scheme: Option<&'static str>,
    /// Empty where the usual one, `/v2`, is meant; one that is written is taken as it is.
    path: &'a str,
}

impl Place<'_> {
    fn parse(url: &str) -> Result<Place<'_>, String> {
        let (rest, scheme) = match (url.strip_prefix("http://"), url.strip_prefix("https://")) {
            (Some(rest), _) => (rest, Some("http")),
            (_, Some(rest)) => (rest, Some("https")),
            _ if url.contains("://") => return Err(format!("{url:?} must be an http or https URL")),
            _ => (url, None),
        };
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if host.is_empty() || rest.contains(['?', '#', '@']) {
            return Err(format!("{url:?} must name a host and at most a path"));
        }
        Ok(Place { host, scheme, path: path.trim_end_matches('/') })
    }
}

/// The file's content, or in one line what is wrong with it and where.
fn read<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::from_str_with_options(text, options).map_err(|e| e.to_string())
}

/// The keys that mean nothing, each with those that would mean something in its place.
fn unknown_keys(text: &str) -> Result<Vec<(String, &'static [&'static str])>, String> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let file: serde_json::Value = read(text)?;
    let mut unknown = Vec::new();
    let mut look = |place: &str, value: &serde_json::Value, known: &'static [&'static str]| {
        let keys = value.as_object().into_iter().flat_map(|object| object.keys());
        unknown.extend(keys.filter(|key| !known.contains(&key.as_str())).map(|key| (format!("{place}{key}"), known)));
    };
    look("", &file, &["mirrors", "configs"]);
    for (name, mirror) in file["mirrors"].as_object().into_iter().flatten() {
        look(&format!("mirrors.{name}."), mirror, &["endpoint", "endpoints", "rewrite"]);
    }
    let auth = &[
        "username",
        "password",
        "auth",
        "token",
        "registrytoken",
        "registry_token",
        "identity_token",
        "identitytoken",
    ];
    for (name, config) in file["configs"].as_object().into_iter().flatten() {
        look(&format!("configs.{name}."), config, &["auth", "tls"]);
        look(&format!("configs.{name}.auth."), &config["auth"], auth);
        look(
            &format!("configs.{name}.tls."),
            &config["tls"],
            &["ca_file", "cert_file", "key_file", "insecure_skip_verify"],
        );
    }
    Ok(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(file: &str, registry: &str, repository: &str) -> Vec<String> {
        let registries = Registries::parse(file).expect("valid");
        registries.endpoints(registry, repository).into_iter().map(|e| format!("{}/{}", e.base, e.repository)).collect()
    }

    #[test]
    fn mirrors_come_first_and_the_registry_itself_last() {
        let file = "mirrors: {docker.io: {endpoint: ['http://127.0.0.1:5000', 'https://mirror.example'], rewrite: {'^library/(.*)': 'hub/$1'}}}";
        let expected = [
            "http://127.0.0.1:5000/v2/hub/nginx",
            "https://mirror.example/v2/hub/nginx",
            "https://registry-1.docker.io/v2/library/nginx",
        ];
        assert_eq!(places(file, "docker.io", "library/nginx"), expected);
        assert_eq!(places(file, "ghcr.io", "a/b"), ["https://ghcr.io/v2/a/b"]);
        assert_eq!(places("", "localhost:5000", "a"), ["http://localhost:5000/v2/a"]);
        for (endpoint, base) in [
            ("https://m.example/v2", "https://m.example/v2"),
            ("https://m.example/v2/", "https://m.example/v2"),
            ("https://m.example/v2/cache", "https://m.example/v2/cache"),
            ("https://m.example/artifacts/v2", "https://m.example/artifacts/v2"),
            ("m.example", "https://m.example/v2"),
            ("http://m.example", "http://m.example/v2"),
        ] {
            let file = format!(
                "mirrors: {{'*': {{endpoint: ['{endpoint}']}}}}\nconfigs: {{m.example: {{tls: {{ca_file: /ca}}}}}}"
            );
            assert_eq!(places(&file, "quay.io", "x")[0], format!("{base}/x"), "{endpoint}");
        }
    }

    #[test]
    fn a_registry_on_loopback_speaks_tls_where_something_is_said_about_that_and_http_is_not_written() {
        let tls = "configs: {'127.0.0.1:5000': {tls: {insecure_skip_verify: true}}}";
        assert_eq!(places(tls, "127.0.0.1:5000", "a"), ["https://127.0.0.1:5000/v2/a"]);
        let written = format!("{tls}\nmirrors: {{x.example: {{endpoint: ['http://127.0.0.1:5000']}}}}");
        assert_eq!(places(&written, "x.example", "a")[0], "http://127.0.0.1:5000/v2/a");
    }

    #[test]
    fn keys_without_a_value_and_unknown_ones_are_taken_as_k3s_takes_them() {
        let file = "mirrors:\n  docker.io:\n  quay.io:\n    endpoint:\n    rewrite:\n  '*':\n    endpoint: [https://m.example]\nconfigs:\n  a:\n  \
                    b:\n    auth:\n    tls:\n  c: {auth: {username: , token: x}, tls: {insecure_skip_verify: }}\n";
        assert_eq!(places(file, "docker.io", "a"), ["https://registry-1.docker.io/v2/a"]);
        assert_eq!(places(file, "quay.io", "a"), ["https://quay.io/v2/a"]);
        assert_eq!(places(file, "ghcr.io", "a").len(), 2);
        assert_eq!(places("mirrors:\nconfigs:\n", "ghcr.io", "a").len(), 1);
        let odd = "mirror: {}\nmirrors: {x: {endpiont: [a], endpoint: [b]}}\nconfigs: {y: {auth: {user: a}, tls: {ca: b}, more: 1}}\n";
        let mut unknown = unknown_keys(odd).expect("read");
        unknown.sort();
        assert_eq!(unknown[3], ("mirror".to_owned(), &["mirrors", "configs"][..]));
        assert_eq!(
            unknown.into_iter().map(|(key, _)| key).collect::<Vec<_>>(),
            ["configs.y.auth.user", "configs.y.more", "configs.y.tls.ca", "mirror", "mirrors.x.endpiont"]
        );
        assert_eq!(places(odd, "x", "a").len(), 2);
    }

    #[test]
    fn credentials_are_found_under_every_name_of_the_host_and_for_all() {
        let user = |file: &str, registry: &str| {
            let registries = Registries::parse(file).expect("valid");
            registries.endpoints(registry, "a").pop().and_then(|e| e.auth).map(|auth| auth.username)
        };
        for name in ["docker.io", "registry-1.docker.io", "index.docker.io", "*"] {
            let file = format!("configs: {{'{name}': {{auth: {{username: me}}}}}}");
            assert_eq!(user(&file, "docker.io").as_deref(), Some("me"), "{name}");
        }
        let file =
            "configs: {'*': {auth: {username: all}}, 'x:5000': {auth: {username: one}}, y: {auth: {username: two}}}";
        for (registry, expected) in [("x:5000", "one"), ("x", "all"), ("y:443", "two"), ("z", "all")] {
            assert_eq!(user(file, registry).as_deref(), Some(expected), "{registry}");
        }
    }

    #[test]
    fn a_bad_file_is_told_where_it_is_wrong() {
        let error = Registries::load(Path::new("/none.yaml")).expect_err("missing");
        let why = "cannot read the registries file /none.yaml: No such file or directory (os error 2)";
        assert!(error.to_string() == why && std::error::Error::source(&error).is_none(), "{error:?}");
        for (file, part) in [
            ("mirrors: {docker.io: {endpoint: ['ftp://x']}}", "mirrors.docker.io.endpoint"),
            ("mirrors: [docker.io]", "expected mapping start at line 1"),
            ("mirrors:\n  docker.io:\n    endpoint: {a: [b\n", "line "),
            ("configs: {x: {auth: {auth: '%'}}}", "configs.x.auth"),
            ("mirrors: {docker.io: {rewrite: {'(': ''}}}", "mirrors.docker.io.rewrite"),
            ("configs: {x: {tls: {cert_file: /a}}}", "need each other"),
        ] {
            let error = Registries::parse(file).expect_err(file);
            assert!(error.contains(part) && error.lines().count() == 1, "{error}");
        }
    }
}
