//! `admissionregistration.k8s.io/v1 ValidatingAdmissionPolicyBinding`.

use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new(
        "admissionregistration.k8s.io",
        "v1",
        "ValidatingAdmissionPolicyBinding",
        "validatingadmissionpolicybindings",
    )
    .category("api-extensions")
    .build()
}
