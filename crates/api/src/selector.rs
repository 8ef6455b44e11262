//! Label and field selectors, as queries write them and as `LabelSelector` objects hold them.

mod field;
mod label;

pub use field::{FieldSelector, Term};
pub use label::{LabelSelector, Operator, Requirement};
