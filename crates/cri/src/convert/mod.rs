//! Between the messages on the wire and the runtime's own structures, which have the same names and fields.
//!
//! [`Wire`] is made by tables: what has the same fields on both sides is one line. A message that is absent on the wire is
//! its default here.

mod messages;
mod special;

use std::collections::BTreeMap;

use runtime::cri::{Code, CriError};

use crate::v1;

/// A value that has a form on the wire.
pub trait Wire<W>: Sized {
    fn to_wire(self) -> W;
    fn from_wire(wire: W) -> Self;
}

/// Types that are the same on both sides.
macro_rules! same {
    ($($type:ty),*) => {
        $(impl Wire<$type> for $type {
            fn to_wire(self) -> $type {
                self
            }

            fn from_wire(wire: $type) -> $type {
                wire
            }
        })*
    };
}

same!(String, bool, i32, u32, i64, u64, u8, BTreeMap<String, String>);

impl<T: Wire<W>, W> Wire<Vec<W>> for Vec<T> {
    fn to_wire(self) -> Vec<W> {
        self.into_iter().map(T::to_wire).collect()
    }

    fn from_wire(wire: Vec<W>) -> Vec<T> {
        wire.into_iter().map(T::from_wire).collect()
    }
}

impl<T: Wire<W>, W> Wire<Option<W>> for Option<T> {
    fn to_wire(self) -> Option<W> {
        self.map(T::to_wire)
    }

    fn from_wire(wire: Option<W>) -> Option<T> {
        wire.map(T::from_wire)
    }
}

/// Numbers that may be absent are messages on the wire.
macro_rules! wrapped {
    ($($type:ty => $wrapper:ident),*) => {
        $(impl Wire<v1::$wrapper> for $type {
            fn to_wire(self) -> v1::$wrapper {
                v1::$wrapper { value: self }
            }

            fn from_wire(wire: v1::$wrapper) -> $type {
                wire.value
            }
        }

        impl Wire<Option<v1::$wrapper>> for $type {
            fn to_wire(self) -> Option<v1::$wrapper> {
                Some(v1::$wrapper { value: self })
            }

            fn from_wire(wire: Option<v1::$wrapper>) -> $type {
                wire.map_or(0, |wire| wire.value)
            }
        })*
    };
}

wrapped!(i64 => Int64Value, u64 => UInt64Value);

/// Ports, which the wire has as wider numbers. What does not fit is no port.
impl Wire<i32> for u16 {
    fn to_wire(self) -> i32 {
        i32::from(self)
    }

    fn from_wire(wire: i32) -> u16 {
        u16::try_from(wire).unwrap_or(0)
    }
}

/// What the wire calls an error is one of the runtime's, with its text unchanged, since users read it.
pub fn error(status: tonic::Status) -> CriError {
    let code = match status.code() {
        tonic::Code::Cancelled => Code::Cancelled,
        tonic::Code::InvalidArgument | tonic::Code::OutOfRange => Code::InvalidArgument,
        tonic::Code::DeadlineExceeded => Code::DeadlineExceeded,
        tonic::Code::NotFound => Code::NotFound,
        tonic::Code::AlreadyExists => Code::AlreadyExists,
        tonic::Code::ResourceExhausted => Code::ResourceExhausted,
        tonic::Code::FailedPrecondition | tonic::Code::Aborted => Code::FailedPrecondition,
        tonic::Code::Unimplemented => Code::Unimplemented,
        tonic::Code::Internal | tonic::Code::DataLoss => Code::Internal,
        tonic::Code::Unavailable => Code::Unavailable,
        _ => Code::Unknown,
    };
    CriError::new(code, status.message())
}

pub fn status(error: CriError) -> tonic::Status {
    let code = match error.code {
        Code::Cancelled => tonic::Code::Cancelled,
        Code::Unknown => tonic::Code::Unknown,
        Code::InvalidArgument => tonic::Code::InvalidArgument,
        Code::DeadlineExceeded => tonic::Code::DeadlineExceeded,
        Code::NotFound => tonic::Code::NotFound,
        Code::AlreadyExists => tonic::Code::AlreadyExists,
        Code::ResourceExhausted => tonic::Code::ResourceExhausted,
        Code::FailedPrecondition => tonic::Code::FailedPrecondition,
        Code::Unimplemented => tonic::Code::Unimplemented,
        Code::Internal => tonic::Code::Internal,
        Code::Unavailable => tonic::Code::Unavailable,
    };
    tonic::Status::new(code, error.message)
}
