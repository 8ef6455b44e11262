//! Real containers, made by the runtime as a kubelet would. Needs root.

mod faults;
mod isolation;
mod lives;
mod users;
mod world;
