//! Upstream's walk-throughs of the workloads, as its documents write them. The images have the names that they have there,
//! and busybox in them.

use crate::cluster::{Cluster, Machine, possible};

/// A web server that ends when it is told to.
const WEB: &str = "trap exit TERM; mkdir -p /usr/share/nginx/html; httpd -f -p 80 -h /usr/share/nginx/html & while true; do wait; done";
/// A web server that computes a while for each answer.
const BUSY: &str = "trap exit TERM; mkdir -p /www/cgi-bin; printf '#!/bin/sh\\necho; i=0; while [ $i -lt 30000 ]; do i=$((i+1)); \
                    done; echo OK!\\n' > /www/cgi-bin/index.cgi; chmod +x /www/cgi-bin/index.cgi; httpd -f -p 80 -h /www & \
                    while true; do wait; done";

fn walk(text: &str, images: &[&str]) {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let cluster = Cluster::start(&machine, &[]);
    for image in images {
        let command = match image.split_once(':').expect("a tag").0 {
            "nginx" | "registry.k8s.io/nginx-slim" => &["sh", "-c", WEB][..],
            "registry.k8s.io/hpa-example" => &["sh", "-c", BUSY],
            _ => &["sh"],
        };
        cluster.import(image, command);
    }
    crate::transcript::run(&cluster, text, &crate::transcript::directory_of("KUBECTL", "kubectl"));
}

#[test]
fn a_deployment_is_updated_rolled_back_scaled_paused_and_tried_as_a_canary() {
    walk(include_str!("transcripts/deployment.txt"), &["nginx:1.14.2", "nginx:1.16.1"]);
}

#[test]
fn a_stateful_set_keeps_its_order_its_names_and_its_storage() {
    let images = ["registry.k8s.io/nginx-slim:0.21", "registry.k8s.io/nginx-slim:0.24", "busybox:1.28"];
    walk(include_str!("transcripts/statefulset.txt"), &images);
}

#[test]
fn a_replicated_database_starts_in_order_follows_its_primary_and_grows() {
    walk(include_str!("transcripts/replicated.txt"), &["mysql:5.7"]);
}

#[test]
fn jobs_share_their_work_and_end_as_their_policies_say() {
    walk(include_str!("transcripts/jobs.txt"), &["busybox:1.28", "bash:5"]);
}

#[test]
fn a_server_is_scaled_by_the_load_of_its_clients() {
    walk(include_str!("transcripts/autoscaling.txt"), &["registry.k8s.io/hpa-example:1", "busybox:1.28"]);
}

#[test]
fn a_drain_respects_budgets_whose_pods_are_healthy() {
    walk(include_str!("transcripts/disruption.txt"), &["nginx:1.14.2"]);
}
