//! The bindings in `src/v1.rs` are what the interface's definition gives. `REGATTA_GENERATE=1` writes them anew.

use std::path::Path;

#[test]
fn the_bindings_are_those_of_the_definition() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let directory = tempfile::tempdir().unwrap();
    let files = protox::compile([here.join("proto/v1.proto")], [here.join("proto")]).unwrap();
    tonic_prost_build::configure().btree_map(".").out_dir(directory.path()).compile_fds(files).unwrap();
    let made = std::fs::read_to_string(directory.path().join("runtime.v1.rs")).unwrap();
    let kept = here.join("src/v1.rs");
    if std::env::var_os("REGATTA_GENERATE").is_some() {
        std::fs::write(&kept, &made).unwrap();
    }
    let kept = std::fs::read_to_string(&kept).unwrap();
    assert!(made == kept, "run this test with REGATTA_GENERATE=1 and commit src/v1.rs");
}
