//! Stock Helm, with a chart that has hooks.

use crate::cluster::{Cluster, Machine, possible};

#[test]
fn a_chart_is_installed_upgraded_rolled_back_and_taken_away() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let cluster = Cluster::start(&machine, &[]);
    cluster.import_images();
    let path = ["HELM", "KUBECTL"].map(|variable| crate::transcript::directory_of(variable, "")).join(":");
    crate::transcript::run(&cluster, include_str!("transcripts/helm.txt"), &path);
}
