//! What both sliding sync dialects share: sorted lists, filters, windows, state selection.

pub mod event_json;
pub mod filter;
pub mod list;
pub mod range;
pub mod required_state;
pub mod sort;
