//! Black-box tests: the program itself against homeservers, on both databases.

mod framework_contract;
mod layers;
mod synapse;

#[path = "../support/mod.rs"]
mod support;
