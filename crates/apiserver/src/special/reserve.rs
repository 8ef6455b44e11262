//! What a write takes or gives back together with its object, in the same transaction: the namespace it lies in, addresses
//! and ports of Services, shares of quotas.

use api::status::Reason;
use api::{Status, Value};
use store::{Expect, Guard, Op};

use super::{quota, services};
use crate::rest::Call;

/// Where namespaces are.
const NAMESPACES: &str = "/registry/namespaces/";

/// Further guards and changes of a write's transaction.
#[derive(Default)]
pub struct Reservation {
    pub guards: Vec<Guard>,
    pub ops: Vec<Op>,
}

impl Reservation {
    /// Adds a change of a key whose state is expected.
    pub fn push(&mut self, expect: Expect, op: Op) {
        self.guards.push(Guard { key: op.key().clone(), expect });
        self.ops.push(op);
    }
}

/// Reserves what `new` needs and releases what only `old` needed; `new` is null for a deletion.
pub fn reserve(call: &Call, old: Option<&Value>, new: &mut Value) -> Result<Reservation, Status> {
    let mut reservation = Reservation::default();
    if old.is_none() && call.kind.namespaced {
        let key = format!("{NAMESPACES}{}", call.info.namespace);
        reservation.guards.push(Guard { key: key.into(), expect: Expect::Exists });
    }
    let status = call.info.subresource == "status";
    if call.kind.group.is_empty() && call.kind.plural == "services" && !status {
        services::reserve(call, old, new, &mut reservation)?;
    }
    quota::reserve(call, old, new, &mut reservation)?;
    Ok(reservation)
}

/// The error for a reservation's key that was not as expected, however often it was tried.
pub fn lost(key: &str) -> Status {
    match key.strip_prefix(NAMESPACES) {
        Some(namespace) => Status::not_found("", "namespaces", namespace),
        None => Status::new(
            Reason::ServerTimeout,
            "addresses or ports are being taken faster than they can be found, please try again",
        ),
    }
}
