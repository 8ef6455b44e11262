//! Client certificates: the common name is the user, the organizations are the groups.

use std::sync::Arc;
use std::time::SystemTime;

use client::Identity;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};

use super::Peer;

/// The certificate authorities whose client certificates are believed.
pub struct Authorities(Vec<TrustAnchor<'static>>);

impl Authorities {
    pub fn new(certificates: &[CertificateDer<'_>]) -> Result<Self, webpki::Error> {
        let anchors = certificates.iter().map(|c| webpki::anchor_from_trusted_cert(c).map(|a| a.to_owned()));
        Ok(Authorities(anchors.collect::<Result<_, _>>()?))
    }

    /// Who shows this chain, end entity first.
    pub fn identify(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> Peer {
        let Some((leaf, intermediates)) = chain.split_first() else { return Peer::Unknown };
        match self.verify(leaf, intermediates, now) {
            Some(identity) => Peer::Known(Arc::new(identity)),
            None => Peer::Refused,
        }
    }

    fn verify(&self, leaf: &CertificateDer, intermediates: &[CertificateDer], now: SystemTime) -> Option<Identity> {
        let since = now.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        let entity = webpki::EndEntityCert::try_from(leaf).ok()?;
        let usage = webpki::KeyUsage::client_auth();
        let algorithms = webpki::ALL_VERIFICATION_ALGS;
        entity
            .verify_for_usage(algorithms, &self.0, intermediates, UnixTime::since_unix_epoch(since), usage, None, None)
            .ok()?;
        let (_, certificate) = x509_parser::parse_x509_certificate(leaf).ok()?;
        let subject = certificate.subject();
        let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
        let groups = subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect();
        (!name.is_empty()).then(|| Identity { name, uid: String::new(), groups, extra: Default::default() })
    }
}

/// Asks for a client certificate and checks only that the peer holds its key: whether it is believed is decided for each
/// request, so that a bad one gets a 401 and not a broken handshake.
#[derive(Debug)]
pub struct AnyClient(WebPkiSupportedAlgorithms);

impl AnyClient {
    pub fn new(provider: &CryptoProvider) -> Self {
        AnyClient(provider.signature_verification_algorithms)
    }
}

impl ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
