//! `admissionregistration.k8s.io/v1 ValidatingWebhookConfiguration`.

use super::webhooks::{COLUMNS, Webhooks};
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
    .columns(COLUMNS)
    .strategy(Webhooks { mutating: false })
    .build()
}
