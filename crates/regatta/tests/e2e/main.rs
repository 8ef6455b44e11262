//! Real clusters, end to end: each test starts one in a network namespace of its own and drives it with stock clients.

mod cluster;
mod transcript;

mod autoscaling;
mod containerd;
mod controllers;
mod convergence;
mod crash;
mod durability;
mod endpoints;
mod errors;
mod faults;
mod fields;
mod helm;
mod images;
mod isolation;
mod kubectl;
mod leaks;
mod libraries;
mod lifecycle;
mod node;
mod nodes;
mod obstacles;
mod pods;
mod reboot;
mod scheduling;
mod services;
mod side_by_side;
mod start;
mod storage;
mod streams;
mod users;
mod volumes;
mod walk;
mod walkthroughs;
mod workloads;
