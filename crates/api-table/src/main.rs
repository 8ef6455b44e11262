//! Writes `crates/api/src/table/builtin.rs` and `crates/apiserver/src/openapi/texts.json.gz` from the published specification in the
//! folder that `REGATTA_SPEC` names.
//!
//!     REGATTA_SPEC=../shared/spec cargo run -p api-table
//!
//! The output is a function of the specification and of `pointers.txt`: run twice, it gives no diff.

mod emit;
mod model;
mod texts;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

fn read(spec: &Path, name: &str) -> Result<serde_json::Value> {
    let path = spec.join(name);
    let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is not JSON", path.display()))
}

/// What the specification's folder says, as source text.
fn generate(spec: &Path) -> Result<String> {
    let model = model::Model::new(&read(spec, "openapi-v2.json")?, &read(spec, "protobuf-fields.json")?)?;
    Ok(emit::source(&model))
}

/// A file that is checked in.
fn target(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

const TABLE: &str = "api/src/table/builtin.rs";
const TEXTS: &str = "apiserver/src/openapi/texts.json.gz";

fn main() -> Result<()> {
    let spec = std::env::var_os("REGATTA_SPEC").context("REGATTA_SPEC does not name the specification's folder")?;
    let spec = Path::new(&spec);
    let texts = texts::pack(&texts::collect(&read(spec, "openapi-v2.json")?)?)?;
    for (name, content) in [(TABLE, generate(spec)?.into_bytes()), (TEXTS, texts)] {
        let path = target(name);
        std::fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_checked_in_is_what_the_specification_gives() {
        let Some(spec) = std::env::var_os("REGATTA_SPEC") else {
            eprintln!("skipped: REGATTA_SPEC is not set");
            return;
        };
        let spec = Path::new(&spec);
        let advice = "run `cargo run -p api-table` and commit the result";
        let kept = std::fs::read_to_string(target(TABLE)).expect("the table is checked in");
        assert!(generate(spec).expect("the specification can be read") == kept, "{advice}");
        let kept = std::fs::File::open(target(TEXTS)).expect("the texts are checked in");
        let kept: serde_json::Value = serde_json::from_reader(flate2::read::GzDecoder::new(kept)).expect("JSON");
        let fresh = texts::collect(&read(spec, "openapi-v2.json").expect("the document")).expect("texts");
        assert!(fresh == kept, "{advice}");
    }
}
