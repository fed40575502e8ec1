//! Operations on a client's windows: what a move of one room does to each of them (msc3575.md section 8).

use serde::Serialize;

use crate::ids::RoomId;
use crate::protocol::sliding::list::Move;
use crate::protocol::sliding::range::{Range, any_contains};

/// One operation of a list result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "op", rename_all = "UPPERCASE")]
pub enum Op {
    /// Indices `range` hold exactly these rooms.
    Sync {
        /// Inclusive.
        range: [usize; 2],
        /// As many as there are indices.
        room_ids: Vec<RoomId>,
    },
    /// Forget indices `range`.
    Invalidate {
        /// Inclusive.
        range: [usize; 2],
    },
    /// Remove the entry, leaving a hole.
    Delete {
        /// Where.
        index: usize,
    },
    /// Put a room there, shifting what is between it and the hole towards the hole.
    Insert {
        /// Where.
        index: usize,
        /// Which room.
        room_id: RoomId,
    },
}

/// What happens in one window: an entry leaves, and perhaps one comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Index of the entry that leaves.
    pub delete: usize,
    /// Index at which an entry comes in.
    pub insert: Option<usize>,
    /// Whether the entry that comes in was in none of the windows before.
    pub is_new: bool,
}

/// Returns what the move of one room does to the windows; `length` is the list's length after it.
pub fn steps(windows: &[Range], moved: Move, length: usize) -> Vec<Step> {
    let (is_add, is_delete) = (moved.from.is_none(), moved.to.is_none());
    let before = length + usize::from(is_delete) - usize::from(is_add && !is_delete);
    if before.max(length) == 0 || (is_add && is_delete) || moved.from == moved.to {
        return Vec::new();
    }
    let last = if is_delete { before - 1 } else { length - 1 };
    // An added room comes from just past the old end; a removed one goes to the old end.
    let from = moved.from.unwrap_or(before);
    let to = moved.to.unwrap_or(last);
    let mut order: Vec<&Range> = windows.iter().collect();
    // For a removal, the window that the shrinking happens in counts as the target.
    let target = if is_delete { length.checked_sub(1) } else { Some(to) };
    order.sort_by_key(|window| match () {
        () if window.contains(from) => 0,
        () if target.is_some_and(|target| window.contains(target)) => 1,
        () => 2,
    });
    let mut steps = Vec::new();
    for window in order {
        let end = window.end.min(last);
        if window.start > end || end < from.min(to) || window.start > from.max(to) {
            continue;
        }
        let delete = from.clamp(window.start, end);
        let insert = to.clamp(window.start, end);
        if is_delete && insert >= length {
            steps.push(Step {
                delete,
                insert: None,
                is_new: false,
            });
            continue;
        }
        let was_at = index_before(moved, from, to, insert);
        steps.push(Step {
            delete,
            insert: Some(insert),
            is_new: was_at.is_none_or(|index| !any_contains(windows, index)),
        });
    }
    steps
}

/// Where the room that is now at `index` was before the move.
fn index_before(moved: Move, from: usize, to: usize, index: usize) -> Option<usize> {
    if Some(index) == moved.to {
        moved.from
    } else if from < to && (from..to).contains(&index) {
        Some(index + 1)
    } else if to < from && (to + 1..=from).contains(&index) {
        Some(index - 1)
    } else {
        Some(index)
    }
}

#[cfg(test)]
#[path = "ops_tests.rs"]
pub(crate) mod tests;
