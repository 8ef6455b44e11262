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
        match ranges {
            [] => return errors.required(all, "at least one CIDR required"),
            [_] => {}
            [first, second] => {
                let family = |range: &Value| {
                    let parsed = range.as_str().and_then(|text| text.parse::<ipnet::IpNet>().ok());
                    parsed.map(|range| range.addr().is_ipv4())
                };
                if !matches!((family(first), family(second)), (Some(one), Some(other)) if one != other) {
                    let why =
                        "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
                    return errors.invalid(all, at(object, "spec"), why);
                }
            }
            _ => return errors.invalid(all, at(object, "spec"), "may only hold up to 2 values"),
        }
        for (index, range) in ranges.iter().filter_map(Value::as_str).enumerate() {
            net::canonical_cidr(all.index(index), range, errors);
        }
    }

    fn validate_update(&self, old: &Value, new: &Value, errors: &mut Errors) {
        errors.immutable(old, new, "spec.cidrs");
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}
