//! json
use super::{DecodeError, Decoded};

/// Decodes.
pub fn decode(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    let value = serde_json::from_slice(bytes).map_err(|e| DecodeError(e.to_string()))?;
    Ok(Decoded { value, duplicates: Vec::new() })
}
