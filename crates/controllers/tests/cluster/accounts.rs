//! Accounts' tokens, certificates and quotas.

use std::time::Duration;

use k8s_openapi::{
    ByteString,
    api::{
        authentication::v1::TokenReview,
        certificates::v1::CertificateSigningRequest,
        core::v1::{ConfigMap, ResourceQuota, Secret, ServiceAccount},
    },
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use rcgen::{CertificateParams, DnType, KeyPair};
use serde_json::{Value, json};

use crate::harness::Cluster;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_gets_a_token_of_its_account_and_goes_with_it() {
    let cluster = Cluster::start().await;
    let account = cluster.make::<ServiceAccount>(json!({"metadata": {"name": "robot"}})).await;
    let secret = |name: &str, account: &str| {
        json!({"metadata": {"name": name, "annotations": {"kubernetes.io/service-account.name": account}},
            "type": "kubernetes.io/service-account-token"})
    };
    cluster.make::<Secret>(secret("of-robot", "robot")).await;
    let secrets = cluster.api::<Secret>();
    let data = |secret: &Secret, key: &str| {
        let bytes = secret.data.as_ref().and_then(|data| data.get(key)).map(|bytes| bytes.0.clone());
        String::from_utf8(bytes.unwrap_or_default()).unwrap()
    };
    let is_filled = |secret: &Secret| !data(secret, "token").is_empty();
    let filled = cluster.until_one::<Secret>("of-robot", "filled", is_filled).await;
    assert_eq!((data(&filled, "ca.crt").as_str(), data(&filled, "namespace").as_str()), ("the root", "default"));
    let annotations = filled.metadata.annotations.clone().unwrap();
    assert_eq!(annotations.get("kubernetes.io/service-account.uid"), account.metadata.uid.as_ref());

    let reviews: Api<TokenReview> = Api::all(cluster.client.clone());
    let review = async |token: String| {
        let review = serde_json::from_value(json!({"metadata": {}, "spec": {"token": token}})).unwrap();
        reviews.create(&PostParams::default(), &review).await.unwrap().status.unwrap()
    };
    let known = review(data(&filled, "token")).await;
    assert_eq!(known.user.unwrap().username.as_deref(), Some("system:serviceaccount:default:robot"));

    // What is taken away comes back.
    let patch = json!({"data": {"ca.crt": ByteString(b"wrong".to_vec())}});
    secrets.patch("of-robot", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    cluster.until_one::<Secret>("of-robot", "set right", |secret| data(secret, "ca.crt") == "the root").await;

    cluster.delete::<ServiceAccount>("robot", DeleteParams::default()).await;
    cluster.until::<Secret>("gone with its account", |all| all.is_empty()).await;
    assert_ne!(review(data(&filled, "token")).await.authenticated, Some(true));
    cluster.make::<Secret>(secret("of-nobody", "nobody")).await;
    cluster.until::<Secret>("of no account", |all| all.is_empty()).await;
}

fn signing_request(name: &str, signer: &str, usages: Value, common_name: &str) -> Value {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let request = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
    json!({"metadata": {"name": name}, "spec": {
        "signerName": signer, "usages": usages, "request": ByteString(request.into_bytes())}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_approved_request_gets_a_certificate_or_is_told_why_not() {
    let cluster = Cluster::start().await;
    let requests: Api<CertificateSigningRequest> = Api::all(cluster.client.clone());
    let approve = async |body: Value| {
        let name = body["metadata"]["name"].as_str().unwrap().to_owned();
        let request: CertificateSigningRequest = serde_json::from_value(body).unwrap();
        requests.create(&PostParams::default(), &request).await.unwrap();
        let approval = json!({"status": {"conditions": [
            {"type": "Approved", "status": "True", "reason": "Test", "message": "by a test"}]}});
        requests.patch_approval(&name, &PatchParams::default(), &Patch::Merge(approval)).await.unwrap();
    };
    let client = json!(["client auth", "digital signature"]);
    approve(signing_request("alice", "kubernetes.io/kube-apiserver-client", client, "alice")).await;
    let server = json!(["server auth", "digital signature"]);
    approve(signing_request("mallory", "kubernetes.io/kubelet-serving", server, "mallory")).await;
    let status = |all: &[CertificateSigningRequest], name: &str| {
        let request = all.iter().find(|request| request.metadata.name.as_deref() == Some(name));
        request.and_then(|request| request.status.clone()).unwrap_or_default()
    };
    let all = cluster
        .until_anywhere::<CertificateSigningRequest>("decided", |all| {
            status(all, "alice").certificate.is_some()
                && status(all, "mallory").conditions.iter().flatten().any(|condition| condition.type_ == "Failed")
        })
        .await;
    let certificate = String::from_utf8(status(&all, "alice").certificate.unwrap().0).unwrap();
    assert!(certificate.starts_with("-----BEGIN CERTIFICATE-----"));
    let conditions = status(&all, "mallory").conditions.unwrap();
    let failed = conditions.iter().find(|condition| condition.type_ == "Failed").unwrap();
    assert_eq!(failed.reason.as_deref(), Some("SignerValidationFailure"));
    assert_eq!(failed.message.as_deref(), Some("subject organization is not system:nodes"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quotas_status_is_counted_anew_after_others_have_written_it() {
    let cluster = Cluster::start().await;
    cluster.until_one::<ConfigMap>("kube-root-ca.crt", "made", |_| true).await;
    let hard = json!({"count/configmaps": "5", "cpu": "500m"});
    cluster.make::<ResourceQuota>(json!({"metadata": {"name": "q"}, "spec": {"hard": hard}})).await;
    let amount = |quota: &ResourceQuota, used: bool, name: &str| {
        let status = quota.status.clone().unwrap_or_default();
        let amounts = if used { status.used } else { status.hard };
        amounts.and_then(|amounts| amounts.get(name).map(|amount| amount.0.clone())).unwrap_or_default()
    };
    let counted =
        |quota: &ResourceQuota| amount(quota, true, "count/configmaps") == "1" && amount(quota, false, "cpu") == "500m";
    cluster.until_one::<ResourceQuota>("q", "counted", counted).await;
    let wrong = json!({"status": {"hard": {"cpu": "750m"}, "used": {"count/configmaps": "4"}}});
    let written =
        cluster.api::<ResourceQuota>().patch_status("q", &PatchParams::default(), &Patch::Merge(wrong)).await.unwrap();
    assert_eq!(
        (amount(&written, false, "cpu"), amount(&written, true, "count/configmaps")),
        ("750m".to_owned(), "4".to_owned())
    );
    let revision = written.metadata.resource_version.unwrap().parse().unwrap();
    assert!(cluster.caches.get::<ResourceQuota>().reached(revision, Duration::from_secs(10)).await);
    cluster.until_one::<ResourceQuota>("q", "counted anew", counted).await;
}
