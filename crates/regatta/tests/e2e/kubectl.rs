//! Stock kubectl, by transcripts of what a user types and sees.

use crate::cluster::{Cluster, Machine, possible};

fn transcript(text: &str, images: bool) {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let cluster = Cluster::start(&machine, &[]);
    if images {
        cluster.import_images();
    }
    crate::transcript::run(&cluster, text, &crate::transcript::directory_of("KUBECTL", "kubectl"));
}

#[test]
fn objects_are_made_read_changed_and_deleted_in_every_form() {
    transcript(include_str!("transcripts/objects.txt"), false);
}

#[test]
fn running_workloads_are_rolled_scaled_exposed_drained_and_orphaned() {
    transcript(include_str!("transcripts/workloads.txt"), true);
}

#[test]
fn the_server_explains_itself() {
    transcript(include_str!("transcripts/documents.txt"), false);
}

#[test]
fn the_server_adds_and_refuses_as_its_plugins_say() {
    transcript(include_str!("transcripts/admission.txt"), false);
}
