//! `admissionregistration.k8s.io/v1 ValidatingAdmissionPolicy`.

use super::policies::{Policy, Role, VALIDATING};
use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new("admissionregistration.k8s.io", "v1", "ValidatingAdmissionPolicy", "validatingadmissionpolicies")
        .category("api-extensions")
        .status()
        .columns(VALIDATING)
        .strategy(Policy { columns: VALIDATING, role: Role::Validating })
        .build()
}
