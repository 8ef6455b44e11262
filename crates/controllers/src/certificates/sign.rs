//! Signs approved requests.

use std::{sync::Arc, time::Duration};

use client::{Cache, Key};
use k8s_openapi::{ByteString, api::certificates::v1::CertificateSigningRequest, jiff::Timestamp};

use super::{
    APPROVED, FAILED, certificate, conclude, holds,
    issue::{Issuer, LONGEST, SHORTEST},
    request::{self, Asked},
};
use crate::frame::{Env, Error, Loop, Synced};

/// Runs the signing controller, if this process has the authority's key.
pub(crate) async fn run(env: Env) {
    let Some(authority) = env.authority.clone() else { return };
    let issuer = match Issuer::new(&authority.certificate, &authority.key) {
        Ok(issuer) => Arc::new(issuer),
        Err(error) => return tracing::error!(%error, "the certificate authority cannot sign requests"),
    };
    let requests: Cache<CertificateSigningRequest> = env.caches.get();
    let sync = async |key: Key| -> Synced {
        let Some(request) = requests.read("", &key.name) else { return Ok(None) };
        let is_pending = certificate(&request).is_none() && holds(&request, FAILED).is_none();
        if is_pending && holds(&request, APPROVED).is_some() && request::is_ours(&request.spec.signer_name) {
            let signed = sign(&issuer, request, Timestamp::now())?;
            match env.replace_status(&signed).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        Ok(None)
    };
    Loop::new().on_self(&requests).run(&env, 2, sync).await;
}

/// The request with its certificate, or with the reason why it gets none.
fn sign(
    issuer: &Issuer,
    mut request: CertificateSigningRequest,
    now: Timestamp,
) -> Result<CertificateSigningRequest, Error> {
    let asked = Asked::read(&request.spec.request.0);
    match asked.and_then(|asked| request::refuse(&request.spec, &asked).map(|()| asked)) {
        Ok(asked) => {
            let seconds = request.spec.expiration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
            let life = seconds.map_or(LONGEST, |seconds| Duration::from_secs(seconds).clamp(SHORTEST, LONGEST));
            let usages = request.spec.usages.clone().unwrap_or_default();
            let pem = issuer.issue(&asked, &usages, life, now).map_err(Error::Message)?;
            request.status.get_or_insert_default().certificate = Some(ByteString(pem.into_bytes()));
        }
        Err(message) => conclude(&mut request, FAILED, "SignerValidationFailure", message),
    }
    Ok(request)
}
