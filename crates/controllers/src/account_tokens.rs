//! Secrets of type `kubernetes.io/service-account-token`: filled with a token of the account that they name, and deleted with
//! it. The token is bound to the Secret and ends with it.

use std::collections::BTreeMap;

use client::{Cache, Item, Key};
use http::Request;
use k8s_openapi::{
    ByteString,
    api::core::v1::{Secret, ServiceAccount},
};
use kube::api::{DeleteParams, PostParams};
use serde::Deserialize;
use serde_json::json;

use crate::{
    frame::{Env, Error, Loop, Synced},
    owner::Named,
};

pub(crate) const TYPE: &str = "kubernetes.io/service-account-token";
pub(crate) const NAME: &str = "kubernetes.io/service-account.name";
pub(crate) const UID: &str = "kubernetes.io/service-account.uid";
/// As long as a token may live; it ends with its Secret before that.
const LIFE: i64 = 1 << 32;

/// Runs the controller of account tokens in Secrets.
pub(crate) async fn run(env: Env) {
    let controller = Controller {
        secrets: env.caches.select(&format!("type={TYPE}")),
        accounts: env.caches.get(),
        env: env.clone(),
    };
    let secrets = controller.secrets.clone();
    let work = Loop::new().on_self(&controller.secrets).on(&controller.accounts, move |change, queue| {
        let names = |item: &std::sync::Arc<Item>| {
            secrets.parse(item).is_some_and(|secret| secret.annotation(NAME) == Some(&change.key.name))
        };
        let concerned = secrets.list_ns(&change.key.namespace).into_iter().filter(names);
        concerned.for_each(|secret| queue.add(secret.key.clone()));
    });
    work.run(&env, 2, |key| controller.sync(key)).await;
}

struct Controller {
    env: Env,
    secrets: Cache<Secret>,
    accounts: Cache<ServiceAccount>,
}

#[derive(Deserialize)]
struct Answer {
    status: Issued,
}

#[derive(Deserialize)]
struct Issued {
    token: String,
}

impl Controller {
    async fn sync(&self, key: Key) -> Synced {
        let Some(secret) = self.secrets.read(&key.namespace, &key.name) else {
            return self.unlist(&key).await.map(|()| None);
        };
        if secret.is_deleting() {
            return Ok(None);
        }
        let Some(account) = secret.annotation(NAME).filter(|name| !name.is_empty()) else { return Ok(None) };
        match self.account_uid(&secret, account).await? {
            Some(uid) => self.fill(&secret, account, &uid).await?,
            None => {
                self.env.delete::<Secret>(&key.namespace, &key.name, secret.uid(), DeleteParams::default()).await?;
            }
        }
        Ok(None)
    }

    /// Takes a Secret that is gone out of the lists of the accounts that name it.
    async fn unlist(&self, key: &Key) -> Result<(), Error> {
        let accounts = self.accounts.list_ns(&key.namespace);
        let shorter = accounts.iter().filter_map(|item| without(self.accounts.parse(item)?, &key.name));
        let shorter: Vec<ServiceAccount> = shorter.collect();
        // It may be there all the same, as a Secret of another type.
        if shorter.is_empty() || self.env.api::<Secret>(&key.namespace).get_opt(&key.name).await?.is_some() {
            return Ok(());
        }
        for account in shorter {
            let api = self.env.api::<ServiceAccount>(&key.namespace);
            match api.replace(account.name(), &PostParams::default(), &account).await {
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                answer => drop(answer?),
            }
        }
        Ok(())
    }

    /// The uid of the Secret's account; none if there is no such account, or another one by now.
    async fn account_uid(&self, secret: &Secret, account: &str) -> Result<Option<String>, Error> {
        let is_meant = |uid: &str| secret.annotation(UID).is_none_or(|wanted| wanted.is_empty() || wanted == uid);
        if let Some(item) = self.accounts.get(secret.namespace(), account).filter(|item| is_meant(&item.uid)) {
            return Ok(Some(item.uid.to_string()));
        }
        // The cache may be behind: only the server knows.
        let live = self.env.api::<ServiceAccount>(secret.namespace()).get_opt(account).await?;
        Ok(live.map(|live| live.uid().to_owned()).filter(|uid| is_meant(uid)))
    }

    /// Writes what the Secret lacks.
    async fn fill(&self, secret: &Secret, account: &str, uid: &str) -> Result<(), Error> {
        let present = secret.data.clone().unwrap_or_default();
        let mut data = lacking(&present, &self.env.root_ca, secret.namespace());
        if present.get("token").is_none_or(|token| token.0.is_empty()) {
            data.insert("token", ByteString(self.issue(secret, account).await?.into_bytes()));
        }
        if data.is_empty() && secret.annotation(UID) == Some(uid) {
            return Ok(());
        }
        let mut filled = secret.clone();
        let data = data.into_iter().map(|(key, value)| (key.to_owned(), value));
        filled.data.get_or_insert_default().extend(data);
        filled.metadata.annotations.get_or_insert_default().insert(UID.to_owned(), uid.to_owned());
        let api = self.env.api::<Secret>(secret.namespace());
        match api.replace(secret.name(), &PostParams::default(), &filled).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            answer => Ok(answer.map(|_| ())?),
        }
    }

    async fn issue(&self, secret: &Secret, account: &str) -> Result<String, Error> {
        let bound = json!({"apiVersion": "v1", "kind": "Secret", "name": secret.name(), "uid": secret.uid()});
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"boundObjectRef": bound, "expirationSeconds": LIFE},
        });
        let path = format!("/api/v1/namespaces/{}/serviceaccounts/{account}/token", secret.namespace());
        let request = Request::post(path).header(http::header::CONTENT_TYPE, "application/json");
        let request = request.body(serde_json::to_vec(&body)?).map_err(kube::Error::HttpError)?;
        Ok(self.env.client.request::<Answer>(request).await?.status.token)
    }
}

/// An account without this Secret in its list; none if it is not there.
fn without(mut account: ServiceAccount, secret: &str) -> Option<ServiceAccount> {
    let list = account.secrets.as_mut()?;
    let before = list.len();
    list.retain(|listed| listed.name.as_deref() != Some(secret));
    (list.len() < before).then_some(account)
}

/// What, beside the token, is not as it should be.
fn lacking(present: &BTreeMap<String, ByteString>, ca: &str, namespace: &str) -> BTreeMap<&'static str, ByteString> {
    let wanted = [("ca.crt", ca), ("namespace", namespace)];
    let wanted = wanted.map(|(key, value)| (key, ByteString(value.as_bytes().to_vec())));
    // A namespace that somebody wrote stays.
    let is_right = |key: &str, value: &ByteString| match present.get(key) {
        Some(present) if key == "namespace" => !present.0.is_empty(),
        present => present == Some(value),
    };
    wanted.into_iter().filter(|(key, value)| !is_right(key, value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_loses_the_secrets_that_are_gone() {
        let account =
            || serde_json::from_value(json!({"secrets": [{"name": "a"}, {"name": "b"}, {"name": "a"}]})).unwrap();
        let left = without(account(), "a").and_then(|account| account.secrets).unwrap();
        assert_eq!(left.iter().filter_map(|listed| listed.name.as_deref()).collect::<Vec<_>>(), ["b"]);
        assert!(without(account(), "c").is_none());
    }

    #[test]
    fn only_what_is_wrong_is_written() {
        let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
        let cases = [
            (vec![], vec!["ca.crt", "namespace"]),
            (vec![("ca.crt", "old"), ("namespace", "mine")], vec!["ca.crt"]),
            (vec![("ca.crt", "ca"), ("namespace", "n")], vec![]),
        ];
        for (present, expected) in cases {
            let map = present.iter().map(|(key, value)| ((*key).to_owned(), bytes(value))).collect();
            assert_eq!(lacking(&map, "ca", "n").into_keys().collect::<Vec<_>>(), expected, "{present:?}");
        }
    }
}
