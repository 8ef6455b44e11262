//! `v1 ServiceAccount`.

use crate::kind::Kind;
use crate::kinds::access::list;
use crate::kinds::builder::Builder;
use crate::print::{AGE, Cell, NAME};

pub fn kind() -> Kind {
    Builder::new("", "v1", "ServiceAccount", "serviceaccounts")
        .namespaced()
        .short(&["sa"])
        .subresource("token", ("authentication.k8s.io", "v1", "TokenRequest"), &["create"])
        .columns(COLUMNS)
        .build()
}

const COLUMNS: &[Cell] = &[NAME, Cell::made("Secrets", |o| list(o, "secrets").len().into()), AGE];
