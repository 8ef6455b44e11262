//! What stands in a request for a certificate, and in its answer.

use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::error::X509Error;
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Why a text is no PKCS#10 request that its own key has signed.
pub fn request(text: &[u8]) -> Result<(), String> {
    let block = Pem::iter_from_buffer(text).next().and_then(Result::ok);
    let block = block.filter(|block| block.label == "CERTIFICATE REQUEST");
    let block = block.ok_or("PEM block type must be CERTIFICATE REQUEST")?;
    let (_, parsed) = X509CertificationRequest::from_der(&block.contents).map_err(|error| error.to_string())?;
    match parsed.verify_signature() {
        Err(X509Error::SignatureVerificationError) => Err("x509: the request's signature does not verify".to_owned()),
        // What cannot be checked here is the signer's to check.
        _ => Ok(()),
    }
}

/// Why a text is no list of certificates.
pub fn certificates(text: &[u8]) -> Result<(), String> {
    let lines = text.split(|byte| *byte == b'\n');
    let mut inside = false;
    for line in lines {
        if line.starts_with(b"-----") {
            inside = line.starts_with(b"-----BEGIN ");
        } else if inside && line.contains(&b':') {
            return Err("no PEM block headers are permitted".to_owned());
        }
    }
    let mut any = false;
    for block in Pem::iter_from_buffer(text).map_while(Result::ok) {
        if block.label != "CERTIFICATE" {
            return Err(format!("only CERTIFICATE PEM blocks are allowed, found {:?}", block.label));
        }
        any = true;
        X509Certificate::from_der(&block.contents).map_err(|error| error.to_string())?;
    }
    if any { Ok(()) } else { Err("must contain at least one CERTIFICATE PEM block".to_owned()) }
}
