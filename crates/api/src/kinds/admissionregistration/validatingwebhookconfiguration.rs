//! `admissionregistration.k8s.io/v1 ValidatingWebhookConfiguration`.

use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new(
        "admissionregistration.k8s.io",
        "v1",
        "ValidatingWebhookConfiguration",
        "validatingwebhookconfigurations",
    )
    .category("api-extensions")
    .build()
}
