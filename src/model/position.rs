//! The store's own order of everything that happened.

use serde::{Deserialize, Serialize};

/// A point in commit order. Every ingested part of a response gets its own; what it brought is visible from it on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Position(pub i64);

impl Position {
    /// Before everything.
    pub const ZERO: Position = Position(0);
    /// After everything: "as it is now".
    pub const MAX: Position = Position(i64::MAX);
}
