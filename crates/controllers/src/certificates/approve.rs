//! Approves client certificates of kubelets, where the caller may ask for them.

use client::{Cache, Key};
use http::Request;
use k8s_openapi::api::{authorization::v1::SubjectAccessReview, certificates::v1::CertificateSigningRequest};
use serde_json::{Value, json};

use super::{
    APPROVED, DENIED, certificate, conclude, holds,
    request::{self, Asked, KUBELET_CLIENT},
};
use crate::{
    frame::{Env, Error, Loop, Synced},
    owner::Named,
};

/// Subresources that a caller must be allowed to create for approval, and what the approval says.
const WAYS: [(&str, bool, &str); 2] = [
    ("selfnodeclient", true, "Auto approving self kubelet client certificate after SubjectAccessReview."),
    ("nodeclient", false, "Auto approving kubelet client certificate after SubjectAccessReview."),
];

/// Runs the approving controller.
pub(crate) async fn run(env: Env) {
    let requests: Cache<CertificateSigningRequest> = env.caches.get();
    let sync = async |key: Key| -> Synced {
        let Some(mut request) = requests.read("", &key.name) else { return Ok(None) };
        let is_decided = [APPROVED, DENIED].iter().any(|kind| holds(&request, kind).is_some());
        if is_decided || certificate(&request).is_some() || request.spec.signer_name != KUBELET_CLIENT {
            return Ok(None);
        }
        let Ok(asked) = Asked::read(&request.spec.request.0) else { return Ok(None) };
        if request::refuse(&request.spec, &asked).is_err() {
            return Ok(None);
        }
        for (subresource, own, message) in WAYS {
            if own && request.spec.username.as_deref() != Some(&asked.common_name) {
                continue;
            }
            if may(&env, &request, subresource).await? {
                conclude(&mut request, APPROVED, "AutoApproved", message.to_owned());
                return approve(&env, &request).await.map(|()| None);
            }
        }
        Ok(None)
    };
    Loop::new().on_self(&requests).run(&env, 1, sync).await;
}

async fn may(env: &Env, request: &CertificateSigningRequest, subresource: &str) -> Result<bool, Error> {
    let spec = &request.spec;
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {
        "user": spec.username, "uid": spec.uid, "groups": spec.groups, "extra": spec.extra,
        "resourceAttributes": {"group": "certificates.k8s.io", "resource": "certificatesigningrequests",
            "verb": "create", "subresource": subresource, "version": "*"}}});
    let answer: SubjectAccessReview =
        send(env, Request::post("/apis/authorization.k8s.io/v1/subjectaccessreviews"), &review).await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

async fn approve(env: &Env, request: &CertificateSigningRequest) -> Result<(), Error> {
    let path = format!("/apis/certificates.k8s.io/v1/certificatesigningrequests/{}/approval", request.name());
    send::<Value>(env, Request::put(path), &serde_json::to_value(request)?).await.map(|_| ())
}

async fn send<T: serde::de::DeserializeOwned>(
    env: &Env,
    request: http::request::Builder,
    body: &Value,
) -> Result<T, Error> {
    let request = request.header(http::header::CONTENT_TYPE, "application/json").body(serde_json::to_vec(body)?);
    Ok(env.client.request(request.map_err(kube::Error::HttpError)?).await?)
}
