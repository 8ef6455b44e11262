//! `certificates.k8s.io/v1 CertificateSigningRequest`.

use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new("certificates.k8s.io", "v1", "CertificateSigningRequest", "certificatesigningrequests")
        .short(&["csr"])
        .view("approval")
        .status()
        .build()
}
