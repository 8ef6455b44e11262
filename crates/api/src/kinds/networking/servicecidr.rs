//! `networking.k8s.io/v1 ServiceCIDR`.

use serde_json::Value;

use crate::kind::{Kind, Strategy};
use crate::kinds::access::{at, list};
use crate::kinds::builder::Builder;
use crate::print::{self, AGE, Cell, NAME};
use crate::validation::{Errors, Path, net};

pub fn kind() -> Kind {
    Builder::new("networking.k8s.io", "v1", "ServiceCIDR", "servicecidrs")
        .status()
        .columns(COLUMNS)
        .strategy(ServiceCidr)
        .build()
}

const COLUMNS: &[Cell] = &[
    NAME,
    Cell::made("CIDRs", |o| {
        list(o, "spec.cidrs").iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",").into()
    }),
    AGE,
];

struct ServiceCidr;

impl Strategy for ServiceCidr {
    fn validate(&self, object: &Value, errors: &mut Errors) {
        let (ranges, all) = (list(object, "spec.cidrs"), Path::new("spec.cidrs"));
        match ranges.len() {
            0 => errors.required(all, "at least one CIDR required"),
            1 | 2 => {}
            _ => errors.invalid(all, at(object, "spec.cidrs"), "may only hold up to 2 values"),
        }
        let parsed: Vec<_> = ranges
            .iter()
            .filter_map(Value::as_str)
            .enumerate()
            .filter_map(|(index, range)| net::cidr(all.index(index), range, errors))
            .collect();
        if let [first, second] = parsed.as_slice()
            && first.addr().is_ipv4() == second.addr().is_ipv4()
        {
            let why = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/96";
            errors.invalid(all, at(object, "spec.cidrs"), why);
        }
    }

    fn validate_update(&self, old: &Value, new: &Value, errors: &mut Errors) {
        errors.immutable(old, new, "spec.cidrs");
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}
