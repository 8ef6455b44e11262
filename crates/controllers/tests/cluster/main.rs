//! The controllers against a real API server in memory, with pods that a made-up kubelet runs.

mod batch;
mod election;
mod harness;
mod services;
mod teardown;
mod workloads;
