//! `admissionregistration.k8s.io/v1 MutatingWebhookConfiguration`.

use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new("admissionregistration.k8s.io", "v1", "MutatingWebhookConfiguration", "mutatingwebhookconfigurations")
        .category("api-extensions")
        .build()
}
