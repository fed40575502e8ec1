//! What the black-box tests share.
#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

pub mod bodies;
pub mod client;
pub mod database;
pub mod homeserver;
pub mod server;
