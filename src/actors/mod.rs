//! The moving parts. Each user poller, each sync session and the shared room cache is an actor; what they say to each
//! other is typed, bounded and counted ([`mail`]), and each can be asked what it is doing ([`observe`]).

pub mod exit;
pub mod fleet;
pub mod mail;
pub mod metrics;
pub mod observe;
pub mod place;
pub mod poller;
pub mod registry;
pub mod room_cache;
pub mod session;
pub mod user_cache;
