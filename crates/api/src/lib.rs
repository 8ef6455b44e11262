//! The Kubernetes API as data: kinds, schemas, codecs, patches, field ownership, selectors, validation and printing.
//!
//! Everything here is a function of values. This crate knows no I/O, no clock (the caller passes the time) and no store.
//! An object is one [`Value`] tree directed by its [`schema`]; a kind is a [`kind::Kind`] descriptor and, where the
//! schema does not say everything, a typed [`kind::Strategy`].

pub mod apply;
pub mod codec;
pub mod kind;
pub mod kinds;
pub mod patch;
pub mod print;
pub mod quantity;
pub mod schema;
pub mod selector;
pub mod status;
pub mod table;
pub mod validation;
pub mod volume;

pub use serde_json::{Map, Value};
pub use status::Status;
