//! Bound service account tokens, kept until most of their life is over.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ServiceAccount, ServiceAccountTokenProjection};
use kube::Api;
use kube::api::PostParams;
use parking_lot::Mutex;

use crate::pods::pod::Pod;

/// A token is renewed after 80 % of its life, and after a day at the latest.
const LONGEST: SignedDuration = SignedDuration::from_hours(24);
const DEFAULT_SECONDS: i64 = 3600;

#[derive(Clone, Debug)]
struct Token {
    text: String,
    renew_at: Timestamp,
}

/// Pod, volume and path.
type Key = (String, String, String);

/// The tokens of all pods.
#[derive(Clone, Default)]
pub struct Tokens {
    known: Arc<Mutex<HashMap<Key, Token>>>,
}

impl Tokens {
    /// A token that is good for a while yet, and when it is to be renewed.
    pub async fn get(
        &self,
        client: &kube::Client,
        pod: &Pod,
        volume: &str,
        wanted: &ServiceAccountTokenProjection,
    ) -> Result<(String, Timestamp), String> {
        let key = (pod.uid.clone(), volume.to_owned(), wanted.path.clone());
        let now = Timestamp::now();
        let known = self.known.lock().get(&key).filter(|token| token.renew_at > now).cloned();
        if let Some(token) = known {
            return Ok((token.text, token.renew_at));
        }
        let token = request(client, pod, wanted, now).await?;
        self.known.lock().insert(key, token.clone());
        Ok((token.text, token.renew_at))
    }

    /// Forgets the tokens of a pod that is gone.
    pub fn forget(&self, uid: &str) {
        self.known.lock().retain(|(pod, _, _), _| pod != uid);
    }
}

async fn request(
    client: &kube::Client,
    pod: &Pod,
    wanted: &ServiceAccountTokenProjection,
    now: Timestamp,
) -> Result<Token, String> {
    let account = pod.spec().service_account_name.as_deref().unwrap_or("default");
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: wanted.audience.clone().filter(|a| !a.is_empty()).map(|a| vec![a]),
            expiration_seconds: Some(wanted.expiration_seconds.unwrap_or(DEFAULT_SECONDS)),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: Some(pod.name.clone()),
                uid: Some(pod.uid.clone()),
            }),
        }),
        ..Default::default()
    };
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &pod.namespace);
    let answer = accounts.create_token_request(account, &PostParams::default(), &request).await;
    let status = answer.map_err(|e| format!("failed to fetch token: {e}"))?.status;
    let status = status.ok_or("failed to fetch token: the answer has no status")?;
    let (Some(text), Some(expires)) = (status.token, status.expiration_timestamp) else {
        return Err("failed to fetch token: the answer has none".to_owned());
    };
    let life = expires.0.duration_since(now);
    let renew_at = now + (life * 4 / 5).min(LONGEST);
    Ok(Token { text, renew_at })
}
