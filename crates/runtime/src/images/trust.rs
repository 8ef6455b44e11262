//! TLS with a registry: whose certificates are believed and which one is shown, as the registries file says.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
};

use super::registries::Tls;

pub(super) fn client(tls: &Tls) -> Result<ClientConfig, String> {
    let named = match &tls.ca_file {
        Some(path) => {
            certificates(path).map_err(|e| format!("ca_file {} cannot be used: {}", path.display(), pem_error(e)))?
        }
        None => Vec::new(),
    };
    let config =
        ClientConfig::builder().dangerous().with_custom_certificate_verifier(Arc::new(Trust::new(tls, named)?));
    let (Some(certificate), Some(key)) = (&tls.cert_file, &tls.key_file) else {
        return Ok(config.with_no_client_auth());
    };
    let unusable =
        |e: String| format!("cert_file {} and key_file {} cannot be used: {e}", certificate.display(), key.display());
    let chain = certificates(certificate).map_err(|e| unusable(pem_error(e)))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|e| unusable(pem_error(e)))?;
    config.with_client_auth_cert(chain, key).map_err(|e| unusable(e.to_string()))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let found: Vec<_> = CertificateDer::pem_file_iter(path)?.collect::<Result<_, _>>()?;
    if found.is_empty() { Err(PemError::NoItemsFound) } else { Ok(found) }
}

fn pem_error(error: PemError) -> String {
    match error {
        PemError::Io(error) => error.to_string(),
        PemError::NoItemsFound => "it holds none".to_owned(),
        error => error.to_string(),
    }
}

/// Believes the machine's authorities and those that are named. A certificate that is named itself needs no signature of
/// another, also where it says that it is an authority's, as curl and Go's clients have it.
#[derive(Debug)]
struct Trust {
    /// Nothing is checked where there is none.
    ordinary: Option<Arc<WebPkiServerVerifier>>,
    named: Vec<CertificateDer<'static>>,
}

impl Trust {
    fn new(tls: &Tls, named: Vec<CertificateDer<'static>>) -> Result<Trust, String> {
        if tls.insecure_skip_verify {
            return Ok(Trust { ordinary: None, named });
        }
        let mut roots = RootCertStore::empty();
        for certificate in &named {
            roots.add(certificate.clone()).map_err(|e| format!("its ca_file cannot be used: {e}"))?;
        }
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let ordinary = WebPkiServerVerifier::builder(Arc::new(roots)).build();
        let ordinary = ordinary.map_err(|e| format!("no certificate can be checked: {e}"))?;
        Ok(Trust { ordinary: Some(ordinary), named })
    }
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(ordinary) = &self.ordinary else { return Ok(ServerCertVerified::assertion()) };
        match ordinary.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            // It comes after the check of the dates and before that of the name.
            Err(error) if is_authority(&error) && self.named.contains(certificate) => {
                rustls::client::verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            outcome => outcome,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let assertion = || Ok(HandshakeSignatureValid::assertion());
        self.ordinary.as_ref().map_or_else(assertion, |o| o.verify_tls12_signature(message, certificate, signature))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let assertion = || Ok(HandshakeSignatureValid::assertion());
        self.ordinary.as_ref().map_or_else(assertion, |o| o.verify_tls13_signature(message, certificate, signature))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

fn is_authority(error: &Error) -> bool {
    let Error::InvalidCertificate(CertificateError::Other(OtherError(cause))) = error else { return false };
    cause.downcast_ref() == Some(&webpki::Error::CaUsedAsEndEntity)
}
