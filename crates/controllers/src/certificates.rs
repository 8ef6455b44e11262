//! Certificate signing requests: approved where a node asks for its own client certificate, signed by the cluster's authority
//! under the rules of upstream's signers, and deleted when they are of no more use.

mod approve;
mod clean;
mod issue;
mod request;
mod sign;

pub(crate) use approve::run as approve;
pub(crate) use clean::run as clean;
pub(crate) use sign::run as sign;

use k8s_openapi::{
    api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition},
    apimachinery::pkg::apis::meta::v1::Time,
};

use crate::frame::now;

const APPROVED: &str = "Approved";
const DENIED: &str = "Denied";
const FAILED: &str = "Failed";

/// The condition of this type that holds, if there is one.
fn holds<'a>(request: &'a CertificateSigningRequest, kind: &str) -> Option<&'a CertificateSigningRequestCondition> {
    let conditions = request.status.as_ref()?.conditions.iter().flatten();
    conditions.into_iter().find(|condition| condition.type_ == kind && condition.status == "True")
}

fn certificate(request: &CertificateSigningRequest) -> Option<&[u8]> {
    let certificate = &request.status.as_ref()?.certificate.as_ref()?.0;
    (!certificate.is_empty()).then_some(certificate)
}

/// Adds a condition that holds from now on.
fn conclude(request: &mut CertificateSigningRequest, kind: &str, reason: &str, message: String) {
    let at: Time = now();
    let conditions = request.status.get_or_insert_default().conditions.get_or_insert_default();
    conditions.push(CertificateSigningRequestCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_update_time: Some(at.clone()),
        last_transition_time: Some(at),
    });
}
