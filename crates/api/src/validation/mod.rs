//! Validation: field paths and errors in upstream's wording, and the syntaxes that many kinds share.

use crate::status::{Cause, Details, Reason, Status, qualified};

/// Field errors collected while an object is validated.
#[derive(Debug, Default)]
pub struct Errors {
    causes: Vec<Cause>,
}

impl Errors {
    pub fn is_empty(&self) -> bool {
        self.causes.is_empty()
    }

    /// Adds an error. `reason` is upstream's cause type (`FieldValueInvalid`), `message` its whole text without the path.
    pub fn push(&mut self, reason: &str, field: &str, message: String) {
        self.causes.push(Cause { reason: reason.to_owned(), message, field: field.to_owned() });
    }

    /// The `Invalid` status for the object, or `Ok` where there are no errors.
    pub fn into_result(self, group: &str, kind: &str, name: &str) -> Result<(), Status> {
        if self.causes.is_empty() {
            return Ok(());
        }
        let texts: Vec<String> = self.causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect();
        let list = if texts.len() == 1 { texts[0].clone() } else { format!("[{}]", texts.join(", ")) };
        let message = format!("{} {name:?} is invalid: {list}", qualified(group, kind));
        let details = Details {
            name: name.to_owned(),
            group: group.to_owned(),
            kind: kind.to_owned(),
            causes: self.causes,
            ..Details::default()
        };
        Err(Status { details: Some(Box::new(details)), ..Status::new(Reason::Invalid, message) })
    }
}
