//! MSC3575 sliding sync, in both of the shapes that clients speak (lists as an array or as a map).

mod account_data;
pub mod conn;
mod device;
mod live;
mod ops;
mod output;
mod render;
mod replay;
mod state;
mod sticky;
pub mod wire;

#[cfg(test)]
mod tests;

pub use conn::{Connection, Limits};
pub use wire::{Query, Request};
