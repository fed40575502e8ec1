//! Black-box tests: the program itself against homeservers, on both databases.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod admin;
mod crash;
mod failures;
mod framework_contract;
mod layers;
mod synapse;
mod visibility;

#[path = "../support/mod.rs"]
mod support;
