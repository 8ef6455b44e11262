//! Writes `crates/api/src/table/builtin.rs` from the published specification in the folder that `REGATTA_SPEC` names.
//!
//!     REGATTA_SPEC=../shared/spec cargo run -p api-table
//!
//! The output is a function of the specification and of `pointers.txt`: run twice, it gives no diff.

mod emit;
mod model;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// What the specification's folder says, as source text.
fn generate(spec: &Path) -> Result<String> {
    let read = |name: &str| -> Result<serde_json::Value> {
        let path = spec.join(name);
        let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is not JSON", path.display()))
    };
    let model = model::Model::new(&read("openapi-v2.json")?, &read("protobuf-fields.json")?)?;
    Ok(emit::source(&model))
}

/// The file that is checked in.
fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../api/src/table/builtin.rs")
}

fn main() -> Result<()> {
    let spec = std::env::var_os("REGATTA_SPEC").context("REGATTA_SPEC does not name the specification's folder")?;
    let path = target();
    std::fs::write(&path, generate(Path::new(&spec))?).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_checked_in_table_is_what_the_specification_gives() {
        let Some(spec) = std::env::var_os("REGATTA_SPEC") else {
            eprintln!("skipped: REGATTA_SPEC is not set");
            return;
        };
        let fresh = super::generate(spec.as_ref()).expect("the specification can be read");
        let kept = std::fs::read_to_string(super::target()).expect("the table is checked in");
        assert!(fresh == kept, "run `cargo run -p api-table` and commit the result");
    }
}
