//! syncv3 gives Matrix clients the modern sync APIs that their homeserver lacks.
//!
//! It polls the homeserver's v2 `/sync` for each user's device, keeps what it learns in a database, and answers sync v3
//! from it. Data moves one way: homeserver, poller, store, room cache, user cache, session, client.

pub mod actors;
pub mod app;
pub mod clock;
pub mod config;
pub mod ids;
pub mod model;
pub mod protocol;
pub mod room;
pub mod store;
pub mod upstream;
pub mod web;
