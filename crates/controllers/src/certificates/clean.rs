//! Deletes requests that are of no more use: decided an hour ago, undecided for a day, or with a certificate that has ended.

use std::time::Duration;

use client::{Cache, Key};
use k8s_openapi::{
    api::certificates::v1::CertificateSigningRequest, apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp,
};
use kube::api::DeleteParams;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{APPROVED, DENIED, FAILED, certificate, holds};
use crate::{
    frame::{Env, Loop, Synced, between},
    owner::Named,
};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Runs the cleaning controller.
pub(crate) async fn run(env: Env) {
    let requests: Cache<CertificateSigningRequest> = env.caches.get();
    let sync = async |key: Key| -> Synced {
        let Some(request) = requests.read("", &key.name) else { return Ok(None) };
        let wait = between(Timestamp::now(), useful_until(&request));
        if !wait.is_zero() {
            return Ok(Some(wait));
        }
        let params = DeleteParams::default();
        env.delete::<CertificateSigningRequest>("", &key.name, request.uid(), params).await.map(|()| None)
    };
    Loop::new().on_self(&requests).run(&env, 1, sync).await;
}

/// Until when somebody may still want to see the request.
fn useful_until(request: &CertificateSigningRequest) -> Timestamp {
    let after =
        |from: Option<&Time>, by: Duration| from.and_then(|time| time.0.checked_add(by).ok()).unwrap_or(Timestamp::MAX);
    let decided = |kind: &str| holds(request, kind).map(|condition| after(condition.last_update_time.as_ref(), HOUR));
    let issued = certificate(request);
    let ended = issued.and_then(ends);
    let until = match (decided(DENIED).or(decided(FAILED)), decided(APPROVED)) {
        (Some(refused), _) => refused,
        (None, Some(approved)) if issued.is_some() => approved,
        // Without a signer of ours an approved request may wait long for its certificate.
        (None, approved) => {
            approved.unwrap_or(Timestamp::UNIX_EPOCH).max(after(request.metadata.creation_timestamp.as_ref(), DAY))
        }
    };
    ended.map_or(until, |ended| ended.min(until))
}

/// When a certificate ends.
fn ends(pem: &[u8]) -> Option<Timestamp> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem).ok()?;
    let (_, certificate) = X509Certificate::from_der(&pem.contents).ok()?;
    Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn requests_are_kept_as_long_as_upstream_keeps_them() {
        let cases = [
            (json!([]), json!(null), "2026-01-02T00:00:00Z"),
            (json!(["Approved"]), json!(null), "2026-01-02T00:00:00Z"),
            (json!(["Approved"]), json!("bm8gY2VydGlmaWNhdGU="), "2026-01-01T02:00:00Z"),
            (json!(["Denied"]), json!(null), "2026-01-01T02:00:00Z"),
            (json!(["Approved", "Failed"]), json!(null), "2026-01-01T02:00:00Z"),
        ];
        for (kinds, certificate, expected) in cases {
            let condition = |kind: &serde_json::Value| json!({"type": kind, "status": "True", "lastUpdateTime": "2026-01-01T01:00:00Z"});
            let conditions: Vec<_> = kinds.as_array().unwrap().iter().map(condition).collect();
            let request: CertificateSigningRequest = serde_json::from_value(json!({
                "metadata": {"name": "a", "creationTimestamp": "2026-01-01T00:00:00Z"},
                "spec": {"request": "", "signerName": "example.com/a"},
                "status": {"conditions": conditions, "certificate": certificate}}))
            .unwrap();
            assert_eq!(useful_until(&request), expected.parse::<Timestamp>().unwrap(), "{kinds}");
        }
    }
}
