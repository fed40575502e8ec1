//! The homeserver as a client sees it: requests, what their failures mean, when to repeat them, and its responses sorted
//! into what the store applies. Keeps nothing between requests.

pub mod backoff;
pub mod client;
pub mod error;
pub mod filter;
mod into_batch;
pub mod wire;

pub use backoff::{Backoff, Pace, Throttle};
pub use client::{Homeserver, HomeserverOptions, SyncAnswer, SyncRequest, Versions};
pub use error::{Error, ErrorKind};
pub use into_batch::Parts;
pub use wire::{Response, Skipped};
