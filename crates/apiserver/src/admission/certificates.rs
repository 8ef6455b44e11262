//! The plugins of certificate requests: who approves or signs must be allowed to for that signer, and nobody is made a master of the
//! cluster by a client's certificate.

use api::{Status, Value};
use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Name;

use super::{Attributes, Operation, Plugin};
use crate::access::{MASTERS, authorization};
use crate::wire::RequestInfo;

pub const GROUP: &str = "certificates.k8s.io";

/// Whether it is about that subresource of a request.
fn is_of(attributes: &Attributes, subresource: &str) -> bool {
    let kind = &attributes.call.kind;
    attributes.operation == Operation::Update
        && kind.group == GROUP
        && kind.plural == "certificatesigningrequests"
        && attributes.subresource == subresource
}

fn signer(request: &Value) -> &str {
    request["spec"]["signerName"].as_str().unwrap_or_default()
}

/// Whether the caller may do that for the signer, or for all signers of its domain.
fn may(attributes: &Attributes, verb: &'static str, signer: &str) -> bool {
    let call = attributes.call;
    let domain = signer.split('/').next().unwrap_or_default();
    [signer.to_owned(), format!("{domain}/*")].into_iter().any(|name| {
        let info = RequestInfo {
            resource_request: true,
            verb,
            group: GROUP.to_owned(),
            version: "*".to_owned(),
            resource: "signers".to_owned(),
            name,
            ..RequestInfo::default()
        };
        authorization::allowed(&call.server, &call.user, &info)
    })
}

pub struct CertificateApproval;

#[async_trait]
impl Plugin for CertificateApproval {
    fn handles(&self, attributes: &Attributes) -> bool {
        is_of(attributes, "approval")
    }

    async fn validate(&self, attributes: &Attributes<'_>, old: Option<&Value>, request: &Value) -> Result<(), Status> {
        let name = signer(old.unwrap_or(request));
        if may(attributes, "approve", name) {
            return Ok(());
        }
        let why = format!("user not permitted to approve requests with signerName {name:?}");
        Err(attributes.forbidden(request, why))
    }
}

pub struct CertificateSigning;

#[async_trait]
impl Plugin for CertificateSigning {
    fn handles(&self, attributes: &Attributes) -> bool {
        is_of(attributes, "status")
    }

    async fn validate(&self, attributes: &Attributes<'_>, old: Option<&Value>, request: &Value) -> Result<(), Status> {
        let old = old.unwrap_or(&Value::Null);
        if old["status"]["certificate"] == request["status"]["certificate"]
            && old["status"]["conditions"] == request["status"]["conditions"]
        {
            return Ok(());
        }
        let name = signer(old);
        if may(attributes, "sign", name) {
            return Ok(());
        }
        let why = format!("user not permitted to sign requests with signerName {name:?}");
        Err(attributes.forbidden(request, why))
    }
}

pub struct CertificateSubjectRestriction;

#[async_trait]
impl Plugin for CertificateSubjectRestriction {
    fn handles(&self, attributes: &Attributes) -> bool {
        attributes.operation == Operation::Create && attributes.is(GROUP, "certificatesigningrequests")
    }

    async fn validate(&self, attributes: &Attributes<'_>, _: Option<&Value>, request: &Value) -> Result<(), Status> {
        const SIGNER: &str = "kubernetes.io/kube-apiserver-client";
        if signer(request) != SIGNER || !organizations(request).iter().any(|name| name == MASTERS) {
            return Ok(());
        }
        let why = format!("use of {SIGNER} signer with {MASTERS} group is not allowed");
        Err(attributes.forbidden(request, why))
    }
}

/// The organizations that the request's subject names.
fn organizations(request: &Value) -> Vec<String> {
    let names = |subject: &X509Name| {
        subject.iter_organization().filter_map(|name| name.as_str().ok()).map(str::to_owned).collect()
    };
    subject(request, names).unwrap_or_default()
}

/// The common name that the request's subject has; `None` also for a request that cannot be read.
pub fn common_name(request: &Value) -> Option<String> {
    subject(request, |subject| subject.iter_common_name().next()?.as_str().ok().map(str::to_owned)).flatten()
}

fn subject<T>(request: &Value, read: impl Fn(&X509Name) -> T) -> Option<T> {
    let pem = STANDARD.decode(request["spec"]["request"].as_str().unwrap_or_default()).ok()?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).ok()?;
    let (_, parsed) = x509_parser::certification_request::X509CertificationRequest::from_der(&pem.contents).ok()?;
    Some(read(&parsed.certification_request_info.subject))
}
