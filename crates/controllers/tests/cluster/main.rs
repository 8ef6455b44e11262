//! The controllers against a real API server in memory, with pods that a made-up kubelet runs.

mod accounts;
mod autoscaling;
mod batch;
mod claims;
mod election;
mod harness;
mod services;
mod sets;
mod slow_stream;
mod stale;
mod storage;
mod teardown;
mod workloads;
