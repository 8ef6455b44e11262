//! Ports, addresses and ranges of addresses.

use std::net::IpAddr;

use serde_json::Value;

use super::{Errors, names};
use std::fmt::Display;

/// A port's number: 1 to 65535.
pub fn port(field: impl Display, number: i64, errors: &mut Errors) {
    if !(1..=65535).contains(&number) {
        errors.invalid(field, number, "must be between 1 and 65535, inclusive");
    }
}

/// A port's number or name.
pub fn port_or_name(field: impl Display, value: &Value, errors: &mut Errors) {
    match value {
        Value::String(name) => errors.all_invalid(field, name, names::port_name(name)),
        other => port(field, other.as_i64().unwrap_or_default(), errors),
    }
}

/// An address of either family.
pub fn ip(field: impl Display, text: &str, errors: &mut Errors) -> Option<IpAddr> {
    let parsed = text.parse::<IpAddr>().ok();
    if parsed.is_none() {
        errors.invalid(field, text, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
    }
    parsed
}

/// A range of addresses in CIDR notation.
pub fn cidr(field: impl Display, text: &str, errors: &mut Errors) -> Option<ipnet::IpNet> {
    let parsed = text.parse::<ipnet::IpNet>().ok();
    if parsed.is_none() {
        errors.invalid(field, text, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
    }
    parsed
}

/// A range of addresses in the one form that newer kinds take.
pub fn canonical_cidr(field: impl Display + Copy, text: &str, errors: &mut Errors) {
    let Some(range) = cidr(field, text, errors) else { return };
    if range.addr() != range.network() {
        errors.invalid(field, text, "must not have bits set beyond the prefix length");
    } else if range.to_string() != text {
        errors.invalid(field, text, format!("must be in canonical form ({:?})", range.to_string()));
    }
}

/// An address that an endpoint may have: neither unspecified nor loopback, link-local or multicast.
pub fn endpoint_ip(field: impl Display + Copy, text: &str, errors: &mut Errors) {
    let Some(address) = ip(field, text, errors) else { return };
    let (loopback, multicast, v4, v6) = match address {
        IpAddr::V4(v4) => (v4.is_loopback(), v4.octets()[..3] == [224, 0, 0], v4.is_link_local(), false),
        IpAddr::V6(v6) => {
            let first = v6.segments()[0];
            (v6.is_loopback(), first & 0xff0f == 0xff02, false, first & 0xffc0 == 0xfe80)
        }
    };
    let mut refuse = |when: bool, why: &str| {
        if when {
            errors.invalid(field, text, why);
        }
    };
    refuse(address.is_unspecified(), &format!("may not be unspecified ({text})"));
    refuse(loopback, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    refuse(v4 || v6, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    refuse(multicast, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
}
