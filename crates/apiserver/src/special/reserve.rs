//! What a write takes or gives back together with its object, in the same transaction: addresses and ports of Services.

use api::{Status, Value};
use store::{Guard, Op};

use crate::rest::Call;

/// Further guards and changes of a write's transaction.
#[derive(Default)]
pub struct Reservation {
    pub guards: Vec<Guard>,
    pub ops: Vec<Op>,
}

/// Reserves what `new` needs and releases what only `old` needed; `new` is null for a deletion.
pub fn reserve(_call: &Call, _old: Option<&Value>, _new: &mut Value) -> Result<Reservation, Status> {
    Ok(Reservation::default())
}
