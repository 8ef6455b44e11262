//! The kinds of the networking group.

mod ingress;
mod ingressclass;
mod ipaddress;
mod networkpolicy;
mod servicecidr;

use crate::kind::Kind;

pub(super) fn all() -> Vec<Kind> {
    vec![ingress::kind(), ingressclass::kind(), ipaddress::kind(), networkpolicy::kind(), servicecidr::kind()]
}
