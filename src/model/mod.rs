//! Facts shared by all layers: data, and the few methods without which the data has no meaning.
//!
//! Nothing here logs, waits, knows the time or talks to a database.

pub mod batch;
pub mod change;
pub mod event;
pub mod load;
pub mod position;
pub mod room;
pub mod user_view;
