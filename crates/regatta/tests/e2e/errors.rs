//! What is wrong is said in one clear sentence, with what to do, and nothing is lost.

use std::process::Command;

use crate::cluster::{Cluster, Machine, possible, text};

fn fails(command: &mut Command, parts: &[&str]) {
    let output = command.output().expect("regatta runs");
    let error = text(&output.stderr);
    assert!(!output.status.success(), "{command:?} succeeded");
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in {error:?}");
    }
}

#[test]
fn what_is_wrong_with_a_start_is_said() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let cluster = Cluster::start(&machine, &[]);
    let directory = tempfile::tempdir().expect("directory");
    let up = |data: &std::path::Path, more: &[&str]| {
        let mut command = machine.command(env!("CARGO_BIN_EXE_regatta"));
        command.args(["up", "--data-dir"]).arg(data).args(more);
        command
    };
    fails(&mut up(&cluster.data, &[]), &["already running", "regatta down"]);
    fails(&mut up(&cluster.data, &["--detach"]), &["already running"]);
    fails(&mut up(&directory.path().join("other"), &[]), &["6443", "in use", "--https-port"]);
    std::fs::write(directory.path().join("file"), "x").expect("file");
    fails(&mut up(directory.path(), &[]), &["not Regatta's", "--data-dir"]);
    fails(&mut up(std::path::Path::new("/proc/regatta"), &[]), &["cannot make the data directory"]);
    fails(&mut up(&directory.path().join("new"), &["--cluster-cidr", "10.0.0.0"]), &["--cluster-cidr"]);
    fails(
        &mut up(&directory.path().join("new"), &["--cluster-cidr", "10.1.0.0/16", "--service-cidr", "10.1.2.0/24"]),
        &["overlap"],
    );
    fails(&mut up(&directory.path().join("new"), &["--registries", "/none.yaml"]), &["/none.yaml"]);
    fails(&mut up(&directory.path().join("new"), &["--node-name", "Not_A_Name"]), &["--node-name", "RFC 1123"]);
    fails(&mut cluster.regatta(&["image", "remove", "none"]), &["not found"]);
    fails(&mut cluster.regatta(&["image", "import", "/none.tar"]), &["/none.tar"]);
    crate::cluster::succeed(&mut cluster.regatta(&["status"]));
}

#[test]
fn a_user_without_rights_is_told_to_be_root() {
    if !possible() {
        return;
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", env!("CARGO_BIN_EXE_regatta")]);
    command.args(["up", "--data-dir", "/tmp/regatta-none"]);
    fails(&mut command, &["needs root", "sudo"]);
}
