//! `admissionregistration.k8s.io/v1 MutatingAdmissionPolicy`.

use super::policies::{MUTATING, Policy, Role};
use crate::kind::Kind;
use crate::kinds::builder::Builder;

pub fn kind() -> Kind {
    Builder::new("admissionregistration.k8s.io", "v1", "MutatingAdmissionPolicy", "mutatingadmissionpolicies")
        .category("api-extensions")
        .columns(MUTATING)
        .strategy(Policy { columns: MUTATING, role: Role::Mutating })
        .build()
}
