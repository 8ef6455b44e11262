//! Service-account tokens: ES256 JWTs, bound to an account and, where they say so, to a pod, secret or node. A token lives
//! no longer than what it is bound to.

use std::collections::HashMap;
use std::sync::Arc;

use api::Status;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use client::Identity;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use parking_lot::Mutex;
use rcgen::PublicKeyData;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use store::Store;

use super::{SERVICE_ACCOUNT, SERVICE_ACCOUNTS};
use crate::clock;
use crate::rest::index;

/// The issuer of all tokens, and the audience of those that are for the API itself.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// How many verified tokens are remembered.
const REMEMBERED: usize = 4096;
/// For how long a deleted pod's token still works, as upstream's leeway.
const LEEWAY: i64 = 60;

/// The body of a token.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Claims {
    pub aud: Vec<String>,
    pub exp: i64,
    pub iat: i64,
    pub iss: String,
    pub jti: String,
    #[serde(rename = "kubernetes.io")]
    pub bound: Bound,
    pub nbf: i64,
    pub sub: String,
}

/// What a token is bound to.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Bound {
    pub namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Reference>,
    pub serviceaccount: Reference,
}

/// An object by name and uid.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// A token that is to be believed.
pub struct Believed {
    pub identity: Identity,
    /// Those of the wanted ones that it is for.
    pub audiences: Vec<String>,
    pub claims: Arc<Claims>,
}

/// Signs and verifies tokens.
pub struct Tokens {
    signer: EncodingKey,
    header: Header,
    verifiers: Vec<DecodingKey>,
    /// By the token's SHA-256: an ECDSA verification is dear and tokens come again and again.
    verified: Mutex<HashMap<[u8; 32], Arc<Claims>>>,
    /// The public keys, DER, for the JWKS document.
    public: Vec<Vec<u8>>,
}

/// The key of the cluster is not an EC P-256 key in PEM.
#[derive(Debug, thiserror::Error)]
#[error("the service-account signing key cannot be used: {0}")]
pub struct KeyError(String);

impl Tokens {
    /// `key` is a PKCS#8 PEM of an ECDSA P-256 key.
    pub fn new(key: &str) -> Result<Self, KeyError> {
        let pair = rcgen::KeyPair::from_pem(key).map_err(|e| KeyError(e.to_string()))?;
        let signer = EncodingKey::from_ec_pem(key.as_bytes()).map_err(|e| KeyError(e.to_string()))?;
        let verifier =
            DecodingKey::from_ec_pem(pair.public_key_pem().as_bytes()).map_err(|e| KeyError(e.to_string()))?;
        let mut header = Header::new(Algorithm::ES256);
        header.typ = None;
        header.kid = Some(URL_SAFE_NO_PAD.encode(Sha256::digest(pair.subject_public_key_info())));
        Ok(Tokens {
            signer,
            header,
            verifiers: vec![verifier],
            verified: Mutex::default(),
            public: vec![pair.public_key_raw().to_vec()],
        })
    }

    /// A signed token.
    pub fn sign(&self, claims: &Claims) -> Result<String, Status> {
        jsonwebtoken::encode(&self.header, claims, &self.signer).map_err(Status::internal)
    }

    /// The JWKS document of `/openid/v1/jwks`.
    pub fn keys(&self) -> api::Value {
        let keys = self.public.iter().filter(|raw| raw.len() == 65).map(|raw| {
            serde_json::json!({
                "use": "sig", "kty": "EC", "kid": self.header.kid, "crv": "P-256", "alg": "ES256",
                "x": URL_SAFE_NO_PAD.encode(&raw[1..33]), "y": URL_SAFE_NO_PAD.encode(&raw[33..]),
            })
        });
        serde_json::json!({"keys": keys.collect::<Vec<_>>()})
    }

    /// What a token says, as far as it is for the wanted audiences; 401 where it is not to be believed.
    pub fn authenticate(&self, store: &Store, token: &str, audiences: &[String]) -> Result<Believed, Status> {
        let claims = self.verify(token).ok_or_else(Status::unauthorized)?;
        let now = clock::seconds();
        let valid = claims.iss == ISSUER && claims.nbf <= now + 10 && now < claims.exp;
        let common: Vec<String> = audiences.iter().filter(|a| claims.aud.contains(a)).cloned().collect();
        if !valid || common.is_empty() || !alive(store, &claims.bound, now) {
            return Err(Status::unauthorized());
        }
        Ok(Believed { identity: identity(&claims), audiences: common, claims })
    }

    fn verify(&self, token: &str) -> Option<Arc<Claims>> {
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if let Some(claims) = self.verified.lock().get(&digest) {
            return Some(claims.clone());
        }
        let mut validation = Validation::new(Algorithm::ES256);
        validation.validate_aud = false;
        validation.validate_exp = false;
        validation.set_required_spec_claims::<&str>(&[]);
        let claims = self
            .verifiers
            .iter()
            .find_map(|key| jsonwebtoken::decode::<Claims>(token, key, &validation).ok())
            .map(|data| Arc::new(data.claims))?;
        let mut verified = self.verified.lock();
        if verified.len() >= REMEMBERED {
            verified.clear();
        }
        verified.insert(digest, claims.clone());
        Some(claims)
    }
}

/// Whether everything that the token is bound to is still there.
fn alive(store: &Store, bound: &Bound, now: i64) -> bool {
    let there = |prefix: &str, namespace: &str, reference: &Reference| {
        let slash = if namespace.is_empty() { "" } else { "/" };
        let Some(entry) = store.get(&format!("/registry/{prefix}/{namespace}{slash}{}", reference.name)) else {
            return false;
        };
        let meta = index::meta(&entry.value);
        let gone = meta.deleted().is_some_and(|since| since + LEEWAY < now);
        !gone && (reference.uid.is_empty() || meta.uid() == reference.uid)
    };
    let namespace = bound.namespace.as_str();
    there("serviceaccounts", namespace, &bound.serviceaccount)
        && bound.pod.as_ref().is_none_or(|pod| there("pods", namespace, pod))
        && bound.secret.as_ref().is_none_or(|secret| there("secrets", namespace, secret))
        // A pod's token names the pod's node too, which only informs; a token of its own for a node binds.
        && (bound.pod.is_some() || bound.node.as_ref().is_none_or(|node| there("minions", "", node)))
}

fn identity(claims: &Claims) -> Identity {
    let Bound { namespace, pod, node, serviceaccount, .. } = &claims.bound;
    let mut extra =
        vec![("authentication.kubernetes.io/credential-id".to_owned(), vec![format!("JTI={}", claims.jti)])];
    for (what, reference) in [("pod", pod), ("node", node)] {
        if let Some(reference) = reference {
            extra.push((format!("authentication.kubernetes.io/{what}-name"), vec![reference.name.clone()]));
            extra.push((format!("authentication.kubernetes.io/{what}-uid"), vec![reference.uid.clone()]));
        }
    }
    Identity {
        name: format!("{SERVICE_ACCOUNT}{namespace}:{}", serviceaccount.name),
        uid: serviceaccount.uid.clone(),
        groups: vec![SERVICE_ACCOUNTS.to_owned(), format!("{SERVICE_ACCOUNTS}:{namespace}")],
        extra: extra.into_iter().collect(),
    }
}
