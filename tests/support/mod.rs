//! What the black-box tests share.

pub mod client;
pub mod database;
pub mod server;
