//! `v1 ServiceAccount`.

use serde_json::Value;

use crate::kind::{Kind, Strategy};
use crate::kinds::access::list;
use crate::kinds::builder::Builder;
use crate::print::{self, AGE, Cell, NAME};

pub fn kind() -> Kind {
    Builder::new("", "v1", "ServiceAccount", "serviceaccounts")
        .namespaced()
        .short(&["sa"])
        .subresource("token", ("authentication.k8s.io", "v1", "TokenRequest"), &["create"])
        .columns(COLUMNS)
        .strategy(ServiceAccount)
        .build()
}

struct ServiceAccount;

impl Strategy for ServiceAccount {
    fn conditional_update(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}

const COLUMNS: &[Cell] = &[NAME, Cell::made("Secrets", |o| list(o, "secrets").len().into()), AGE];
