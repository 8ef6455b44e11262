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
    let apart = ["--cluster-cidr", "10.52.0.0/16", "--service-cidr", "10.53.0.0/16"];
    fails(&mut up(&directory.path().join("other"), &apart), &["6443", "in use", "--https-port"]);
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
    let machine = Machine::new();
    let cluster = Cluster::start(&machine, &[]);
    let directory = tempfile::tempdir().expect("directory");
    // Where anybody may look, but nobody write.
    let place = directory.path();
    std::fs::set_permissions(place, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("mode");
    let nobody = |args: &[&str], data: &std::path::Path| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", env!("CARGO_BIN_EXE_regatta")]);
        command.args(args).arg("--data-dir").arg(data);
        command
    };
    fails(&mut nobody(&["up"], &place.join("none")), &["needs root", "sudo"]);
    fails(&mut nobody(&["up", "--detach"], &place.join("none")), &["needs root", "sudo"]);
    for args in
        [&["down"][..], &["down", "--purge"], &["image", "list"], &["image", "import", "/none"], &["sample", "start"]]
    {
        fails(&mut nobody(args, &cluster.data), &["needs root", "sudo regatta"]);
    }
    // The test's directory is closed to others, and so is what is in it.
    fails(&mut nobody(&["status"], &cluster.data), &["root", "sudo"]);
    crate::cluster::succeed(&mut cluster.regatta(&["status"]));
}

#[test]
fn a_directory_that_cannot_be_written_is_told() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let directory = tempfile::tempdir().expect("directory");
    let mount = |options: &str| {
        crate::cluster::succeed(
            Command::new("mount").args(["-o", options, "tmpfs"]).arg(directory.path()).args(["-t", "tmpfs"]),
        );
    };
    mount("size=64m");
    let mut cluster = Cluster::start_at(&machine, directory.path().join("data"), &[]);
    cluster.interrupt();
    // An existing directory, on a file system that only gives.
    mount("remount,ro");
    let read_only = || {
        fails(&mut cluster.regatta(&["up"]), &["cannot write", "Read-only file system", "--data-dir"]);
        fails(&mut cluster.regatta(&["up", "--detach"]), &["Read-only file system", "--data-dir"]);
        let mut other = machine.command(env!("CARGO_BIN_EXE_regatta"));
        other.args(["up", "--data-dir"]).arg(directory.path().join("other"));
        fails(&mut other, &["cannot make the data directory", "Read-only file system", "--data-dir"]);
    };
    read_only();
    mount("remount,rw");
    cluster.up();
    cluster.purge();
    drop(cluster);
    crate::cluster::succeed(Command::new("umount").arg("-l").arg(directory.path()));
}

#[test]
fn flags_and_versions_are_checked_before_anything_is_made() {
    let run = |args: &[&str]| Command::new(env!("CARGO_BIN_EXE_regatta")).args(args).output().expect("regatta runs");
    for args in [&["--version"][..], &["-V"], &["version"]] {
        let output = run(args);
        assert!(output.status.success() && text(&output.stdout).contains("(Kubernetes v1.36.0)"), "{output:?}");
    }
    for (args, part) in [
        (vec!["up", "--https-port", "0"], "--https-port"),
        (vec!["up", "--https-port", "70000"], "--https-port"),
        (vec!["up", "--bind-address", "x"], "--bind-address"),
        (vec!["up", "--cni", "--container-runtime-endpoint", "unix:///x"], "--cni"),
    ] {
        let output = run(&args);
        assert!(!output.status.success() && text(&output.stderr).contains(part), "{output:?}");
    }
    if !possible() {
        return;
    }
    let directory = tempfile::tempdir().expect("directory");
    let machine = Machine::new();
    let data = directory.path().join("data");
    let name = "a".repeat(64);
    for (args, part) in [(["--bind-address", "::1"], "IPv6"), (["--node-name", name.as_str()], "63")] {
        let mut command = machine.command(env!("CARGO_BIN_EXE_regatta"));
        fails(command.args(["up", "--data-dir"]).arg(&data).args(args), &[part]);
    }
    let foreign = directory.path().join("config");
    std::fs::write(&foreign, "no kubeconfig").expect("file");
    let mut command = machine.command(env!("CARGO_BIN_EXE_regatta"));
    command.args(["up", "--data-dir"]).arg(&data).arg("--kubeconfig").arg(&foreign);
    fails(&mut command, &["is no kubeconfig", "--kubeconfig"]);
    assert_eq!(std::fs::read_to_string(&foreign).expect("file"), "no kubeconfig");
}
