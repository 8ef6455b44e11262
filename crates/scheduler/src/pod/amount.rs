//! Amounts of resources.

use api::quantity::Quantity;
use serde::{Deserialize, Deserializer, de};

/// A quantity, of CPU in thousandths when asked as such.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Amount(Quantity);

impl Amount {
    /// The amount in the unit in which a resource is counted.
    pub fn of(&self, resource: &str) -> i64 {
        if resource == "cpu" { self.0.milli_value() } else { self.0.value() }
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Amount;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a quantity")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Amount, E> {
                Quantity::parse(text).map(Amount).map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Amount, E> {
                self.visit_str(&number.to_string())
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Amount, E> {
                self.visit_str(&number.to_string())
            }
            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Amount, E> {
                self.visit_str(&number.to_string())
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}
