//! A registry over HTTP: manifests and blobs of one repository, by the distribution specification, with its ways to sign in.

use std::time::Duration;

use base64::Engine;
use futures::{Stream, StreamExt};
use oci_client::client::current_platform_resolver;
use oci_client::manifest::{OciDescriptor, OciImageManifest, OciManifest};
use parking_lot::Mutex;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::registries::{Credentials, Endpoint};
use super::{digest_of, trust};

const CONNECT: Duration = Duration::from_secs(10);
/// How long a registry may send nothing.
const SILENCE: Duration = Duration::from_secs(60);
/// What is larger is no manifest, no token and no complaint.
const LIMIT: usize = 4 << 20;
const NAME: &str = "regatta";
const KINDS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
                     application/vnd.docker.distribution.manifest.list.v2+json, \
                     application/vnd.docker.distribution.manifest.v2+json";

/// One repository at one endpoint.
pub(super) struct Registry<'a> {
    http: Client,
    endpoint: &'a Endpoint,
    credentials: Option<&'a Credentials>,
    /// The value of the header that was accepted last.
    authorization: Mutex<Option<String>>,
}

/// What a name leads to, for this machine's platform.
pub(super) struct Resolved {
    pub(super) manifest: OciImageManifest,
    /// The digest by which the name's owner knows it: that of the index, where there is one.
    pub(super) digest: String,
}

impl<'a> Registry<'a> {
    pub(super) fn new(endpoint: &'a Endpoint, credentials: Option<&'a Credentials>) -> Result<Registry<'a>, String> {
        let builder = Client::builder()
            .user_agent(concat!("regatta/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            .tls_backend_preconfigured(trust::client(&endpoint.tls)?);
        let http = builder.build().map_err(|e| format!("its TLS settings cannot be used: {}", deepest(&e)))?;
        let registry = Registry { http, endpoint, credentials, authorization: Mutex::default() };
        registry.credentials.map_or(Ok(()), |credentials| credentials.check())?;
        Ok(registry)
    }

    /// The manifest of a tag or digest, through indices to the one for this machine.
    pub(super) async fn resolve(&self, reference: &str) -> Result<Resolved, String> {
        let (mut found, first) = self.manifest(reference).await?;
        for _ in 0..2 {
            match found {
                OciManifest::Image(manifest) => return Ok(Resolved { manifest, digest: first }),
                OciManifest::ImageIndex(index) => {
                    let digest = current_platform_resolver(&index.manifests)
                        .ok_or_else(|| format!("no image for linux/{}", std::env::consts::ARCH))?;
                    found = self.manifest(&digest).await?.0;
                }
            }
        }
        match found {
            OciManifest::Image(manifest) => Ok(Resolved { manifest, digest: first }),
            OciManifest::ImageIndex(_) => Err("it has an index inside an index inside an index".to_owned()),
        }
    }

    async fn manifest(&self, reference: &str) -> Result<(OciManifest, String), String> {
        let response = self.get(&format!("manifests/{reference}"), KINDS).await?;
        let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("?").to_owned();
        let bytes = self.bounded(response, "manifest").await?;
        let digest = digest_of(&bytes);
        // A tag has no colon; a digest of another kind cannot be compared, so it is not this one.
        if reference.contains(':') && reference != digest {
            return Err(format!("the registry answered with a manifest of digest {digest} in place of {reference}"));
        }
        let manifest = serde_json::from_slice(&bytes)
            .map_err(|e| format!("its manifest, of type {kind}, cannot be understood: {e}"))?;
        Ok((manifest, digest))
    }

    /// A blob's bytes. The last item is an error where they are not those that the digest stands for.
    pub(super) async fn blob(
        &self,
        descriptor: &OciDescriptor,
    ) -> Result<impl Stream<Item = Result<bytes::Bytes, String>> + use<'_>, String> {
        let response = self.get(&format!("blobs/{}", descriptor.digest), "*/*").await?;
        let wanted = descriptor.digest.clone();
        let state = (response.bytes_stream().boxed(), Sha256::new(), Some(wanted));
        Ok(futures::stream::unfold(state, move |(mut bytes, mut hash, wanted)| async move {
            let wanted = wanted?;
            match bytes.next().await {
                Some(Ok(chunk)) => {
                    hash.update(&chunk);
                    Some((Ok(chunk), (bytes, hash, Some(wanted))))
                }
                Some(Err(error)) => Some((Err(self.failed(error)), (bytes, hash, None))),
                None => {
                    let hex: String = hash.finalize_reset().iter().map(|byte| format!("{byte:02x}")).collect();
                    let digest = format!("sha256:{hex}");
                    let message = format!("the registry answered with content of digest {digest} in place of {wanted}");
                    (digest != wanted).then_some((Err(message), (bytes, hash, None)))
                }
            }
        }))
    }

    async fn get(&self, path: &str, accept: &str) -> Result<Response, String> {
        let url = format!("{}/{}/{path}", self.endpoint.base, self.endpoint.repository);
        let ask = || {
            let request = self.http.get(&url).header(ACCEPT, accept);
            match &*self.authorization.lock() {
                Some(value) => request.header(AUTHORIZATION, value),
                None => request,
            }
        };
        let mut response = self.send(ask()).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            let challenges: Vec<Challenge> = response
                .headers()
                .get_all(WWW_AUTHENTICATE)
                .iter()
                .filter_map(|value| value.to_str().ok())
                .flat_map(Challenge::parse)
                .collect();
            *self.authorization.lock() = self.sign_in(&challenges).await?;
            response = self.send(ask()).await?;
        }
        match response.status() {
            status if status.is_success() => Ok(response),
            StatusCode::NOT_FOUND => Err("not found".to_owned()),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(REFUSED.to_owned()),
            status => Err(self.complaint(response).await.unwrap_or_else(|| format!("the registry answered {status}"))),
        }
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, String> {
        request.send().await.map_err(|e| self.failed(e))
    }

    /// What to send in answer to a challenge.
    async fn sign_in(&self, challenges: &[Challenge]) -> Result<Option<String>, String> {
        let own = self.credentials;
        if let Some(token) = own.map(|c| c.token.as_str()).filter(|token| !token.is_empty()) {
            return Ok(Some(format!("Bearer {token}")));
        }
        let named = |scheme: &str| challenges.iter().find(|challenge| challenge.scheme.eq_ignore_ascii_case(scheme));
        if let Some(challenge) = named("Bearer") {
            return Ok(Some(format!("Bearer {}", self.token(challenge).await?)));
        }
        let pair = own.map_or(Ok(None), Credentials::pair)?;
        Ok(pair.filter(|_| named("Basic").is_some()).map(|(user, password)| basic(&user, &password)))
    }

    /// Gets a token from the service that the registry names; with an identity token as OAuth2 has it.
    async fn token(&self, challenge: &Challenge) -> Result<String, String> {
        let realm = challenge.get("realm").ok_or("the registry names no service that would give a token")?;
        let scope = format!("repository:{}:pull", self.endpoint.repository);
        let scope = challenge.get("scope").unwrap_or(&scope);
        let mut fields = vec![("scope", scope)];
        fields.extend(challenge.get("service").map(|service| ("service", service)));
        let identity = self.credentials.map(|c| c.identity_token.as_str()).filter(|token| !token.is_empty());
        let request = match identity {
            Some(token) => {
                fields.extend([("grant_type", "refresh_token"), ("client_id", NAME), ("refresh_token", token)]);
                let form = encode(&fields);
                self.http.post(realm).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form)
            }
            None => {
                let join = if realm.contains('?') { '&' } else { '?' };
                let request = self.http.get(format!("{realm}{join}{}", encode(&fields)));
                match self.credentials.map_or(Ok(None), Credentials::pair)? {
                    Some((user, password)) => request.header(AUTHORIZATION, basic(&user, &password)),
                    None => request,
                }
            }
        };
        let response = self.send(request).await?;
        match response.status() {
            status if status.is_success() => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST => {
                return Err(REFUSED.to_owned());
            }
            status => return Err(format!("the registry's token service answered {status}")),
        }
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
        }
        let bytes = self.bounded(response, "token").await?;
        let answer: Option<Answer> = serde_json::from_slice(&bytes).ok();
        answer
            .and_then(|answer| answer.token.or(answer.access_token))
            .ok_or_else(|| "the registry's token service gave no token".to_owned())
    }

    /// The whole of an answer that is no blob. Whoever names a registry must not fill the node's memory with it.
    async fn bounded(&self, response: Response, what: &str) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        let mut stream = response.bytes_stream();
        while let Some(chunk) = stream.next().await {
            bytes.extend_from_slice(&chunk.map_err(|e| self.failed(e))?);
            if bytes.len() > LIMIT {
                return Err(format!("its {what} is larger than {LIMIT} bytes"));
            }
        }
        Ok(bytes)
    }

    /// What a registry's error says.
    async fn complaint(&self, response: Response) -> Option<String> {
        #[derive(Deserialize)]
        struct Errors {
            errors: Vec<Complaint>,
        }
        #[derive(Deserialize)]
        struct Complaint {
            #[serde(default)]
            code: String,
            #[serde(default)]
            message: String,
        }
        let errors: Errors = serde_json::from_slice(&self.bounded(response, "error").await.ok()?).ok()?;
        let said = errors.errors.into_iter().map(|e| if e.message.is_empty() { e.code } else { e.message });
        Some(said.collect::<Vec<_>>().join(", ")).filter(|text| !text.is_empty())
    }

    fn failed(&self, error: reqwest::Error) -> String {
        match error.is_connect() {
            true => format!("cannot connect: {}", deepest(&error)),
            false => deepest(&error),
        }
    }
}

const REFUSED: &str = "authorization failed: the image may not exist or may need other credentials";

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
}

/// Fields as in a query or a form.
fn encode(fields: &[(&str, &str)]) -> String {
    let escape = |text: &str| {
        text.bytes().fold(String::new(), |mut out, byte| {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
                _ => out += &format!("%{byte:02X}"),
            }
            out
        })
    };
    fields.iter().map(|(name, value)| format!("{name}={}", escape(value))).collect::<Vec<_>>().join("&")
}

fn deepest(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

/// One way to sign in, as a `WWW-Authenticate` header offers it.
#[derive(Debug, PartialEq, Eq)]
struct Challenge {
    scheme: String,
    fields: Vec<(String, String)>,
}

impl Challenge {
    fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// All challenges of a header: `Bearer realm="...",service="...", Basic realm="..."`.
    fn parse(header: &str) -> Vec<Challenge> {
        let mut found: Vec<Challenge> = Vec::new();
        let mut rest = header.trim();
        while !rest.is_empty() {
            let end = rest.find([' ', '=', ',']).unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            let after = after.trim_start();
            match (after.strip_prefix('='), found.last_mut()) {
                (Some(value), Some(challenge)) => {
                    let (value, behind) = quoted(value.trim_start());
                    challenge.fields.push((word.to_owned(), value));
                    rest = behind;
                }
                (Some(value), None) => rest = quoted(value).1,
                (None, _) if word.is_empty() => rest = after.get(1..).unwrap_or_default(),
                (None, _) if !word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') => rest = after,
                (None, _) => {
                    found.push(Challenge { scheme: word.to_owned(), fields: Vec::new() });
                    rest = after;
                }
            }
            rest = rest.trim_start_matches([',', ' ']);
        }
        found
    }
}

/// A value, quoted or not, and what is behind it.
fn quoted(text: &str) -> (String, &str) {
    let Some(inside) = text.strip_prefix('"') else {
        let (value, rest) = text.split_at(text.find(',').unwrap_or(text.len()));
        return (value.trim().to_owned(), rest);
    };
    let (mut value, mut escaped) = (String::new(), false);
    for (at, c) in inside.char_indices() {
        match c {
            '"' if !escaped => return (value, &inside[at + 1..]),
            '\\' if !escaped => escaped = true,
            c => {
                value.push(c);
                escaped = false;
            }
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_challenge_of_a_header_is_read() {
        let challenge = |scheme: &str, fields: &[(&str, &str)]| Challenge {
            scheme: scheme.into(),
            fields: fields.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        };
        for (header, expected) in [
            (
                r#"Bearer realm="https://auth.example/token",service="a, b",scope="repository:x:pull""#,
                vec![challenge(
                    "Bearer",
                    &[("realm", "https://auth.example/token"), ("service", "a, b"), ("scope", "repository:x:pull")],
                )],
            ),
            (r#"Basic realm="a \"b\"""#, vec![challenge("Basic", &[("realm", "a \"b\"")])]),
            (
                "Basic realm=plain, Bearer realm=\"r\"",
                vec![challenge("Basic", &[("realm", "plain")]), challenge("Bearer", &[("realm", "r")])],
            ),
            ("Negotiate", vec![challenge("Negotiate", &[])]),
            ("", vec![]),
            (",=,\"", vec![]),
        ] {
            assert_eq!(Challenge::parse(header), expected, "{header}");
        }
    }

    #[test]
    fn fields_are_encoded_as_in_a_form() {
        assert_eq!(
            encode(&[("scope", "repository:a/b:pull"), ("x", "ä &")]),
            "scope=repository%3Aa%2Fb%3Apull&x=%C3%A4%20%26"
        );
    }
}
