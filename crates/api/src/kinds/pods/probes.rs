//! Validation of probes and lifecycle hooks.

use serde_json::Value;

use crate::kinds::access::{at, has, list, number, text};
use crate::validation::{Errors, Path, names, net};

/// What a handler is for.
#[derive(Clone, Copy)]
pub enum Of {
    Probe,
    /// With the pod's grace period, which bounds a sleep.
    Hook {
        grace: i64,
    },
}

/// A probe of the given kind (`livenessProbe`).
pub fn probe(kind: &str, probe: &Value, path: &Path, errors: &mut Errors) {
    handler(probe, path, Of::Probe, errors);
    for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        errors.not_negative(path.child(field), at(probe, field));
    }
    if let Some(seconds) = at(probe, "terminationGracePeriodSeconds").as_i64() {
        let path = path.child("terminationGracePeriodSeconds");
        if kind == "readinessProbe" {
            errors.invalid(path, seconds, "must not be set for readinessProbes");
        } else if seconds <= 0 {
            errors.invalid(path, seconds, "must be greater than 0");
        }
    }
    let threshold = number(probe, "successThreshold");
    if kind != "readinessProbe" && threshold != 1 {
        errors.invalid(path.child("successThreshold"), threshold, "must be 1");
    }
}

/// The one handler of a probe or a hook.
pub fn handler(holder: &Value, path: &Path, of: Of, errors: &mut Errors) {
    let kinds: &[&str] = match of {
        Of::Probe => &["exec", "httpGet", "tcpSocket", "grpc"],
        Of::Hook { .. } => &["exec", "httpGet", "tcpSocket", "sleep"],
    };
    let mut given = kinds.iter().filter(|kind| has(holder, kind));
    let Some(first) = given.next() else {
        errors.required(path, "must specify a handler type");
        return;
    };
    one(first, at(holder, first), &path.child(first), of, errors);
    for more in given {
        errors.forbidden(path.child(more), "may not specify more than 1 handler type");
    }
}

fn one(kind: &str, handler: &Value, path: &Path, of: Of, errors: &mut Errors) {
    match (kind, of) {
        ("exec", _) if list(handler, "command").is_empty() => {
            errors.required(path.child("command"), "");
        }
        ("httpGet", _) => {
            if text(handler, "path").is_empty() {
                errors.required(path.child("path"), "");
            }
            net::port_or_name(path.child("port"), at(handler, "port"), errors);
            errors.one_of_supported(path.child("scheme"), at(handler, "scheme"), &["HTTP", "HTTPS"]);
            for header in list(handler, "httpHeaders") {
                let name = text(header, "name");
                errors.all_invalid(path.child("httpHeaders"), name, names::http_header(name));
            }
        }
        ("tcpSocket", _) => net::port_or_name(path.child("port"), at(handler, "port"), errors),
        ("grpc", _) => net::port(path.child("port"), number(handler, "port"), errors),
        ("sleep", Of::Hook { grace }) => {
            let seconds = number(handler, "seconds");
            if seconds < 0 || seconds > grace {
                let why = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
                errors.invalid(path, seconds, why);
            }
        }
        _ => {}
    }
}
