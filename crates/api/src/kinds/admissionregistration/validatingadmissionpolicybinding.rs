//! `admissionregistration.k8s.io/v1 ValidatingAdmissionPolicyBinding`.

use super::policies::{BINDING, Policy, Role};
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
    .columns(BINDING)
    .strategy(Policy { columns: BINDING, role: Role::ValidatingBinding })
    .build()
}
