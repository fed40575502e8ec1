//! Orders of rooms (MSC3575 `sort`). Every order ends with the room ID, so that it is total and the same everywhere.

use std::cmp::Ordering;

use crate::model::room::{Membership, Unread};
use crate::model::user_view::RoomEntry;

/// One key of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sort {
    /// Newest activity first.
    Recency,
    /// Canonical name, ascending.
    Name,
    /// Highlighted, then unread and encrypted, then unread, then the rest.
    NotificationLevel,
    /// Most notifications first (deprecated).
    NotificationCount,
    /// Most highlights first (deprecated).
    HighlightCount,
}

impl Sort {
    /// Reads the name used on the wire.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "by_recency" => Sort::Recency,
            "by_name" => Sort::Name,
            "by_notification_level" => Sort::NotificationLevel,
            "by_notification_count" => Sort::NotificationCount,
            "by_highlight_count" => Sort::HighlightCount,
            _ => return None,
        })
    }

    /// Reads a whole order. Unknown and repeated names are skipped; by recency if nothing is left.
    pub fn parse_all<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<Self> {
        let mut keys = Vec::new();
        for key in names.into_iter().filter_map(Self::parse) {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        if keys.is_empty() {
            keys.push(Sort::Recency);
        }
        keys
    }

    fn compare(self, a: &RoomEntry, b: &RoomEntry) -> Ordering {
        match self {
            Sort::Recency => b.room.recency.cmp(&a.room.recency),
            Sort::Name => a.name_key.cmp(&b.name_key),
            Sort::NotificationLevel => level(a).cmp(&level(b)),
            Sort::NotificationCount => unread(b).notification_count.cmp(&unread(a).notification_count),
            Sort::HighlightCount => unread(b).highlight_count.cmp(&unread(a).highlight_count),
        }
    }
}

/// Compares two rooms by the keys in turn and at last by room ID.
pub fn compare(keys: &[Sort], a: &RoomEntry, b: &RoomEntry) -> Ordering {
    keys.iter()
        .map(|key| key.compare(a, b))
        .find(|ordering| ordering.is_ne())
        .unwrap_or_else(|| a.room.room_id.cmp(&b.room.room_id))
}

/// Returns the unread counts to show: a pending invite is one highlight (MSC3575 as served so far).
pub fn unread(entry: &RoomEntry) -> Unread {
    match entry.room.membership {
        Membership::Join => entry.room.unread,
        Membership::Invite => Unread {
            notification_count: 0,
            highlight_count: 1,
        },
        Membership::Knock | Membership::Leave | Membership::Ban => Unread::default(),
    }
}

fn level(entry: &RoomEntry) -> u8 {
    let unread = unread(entry);
    if unread.highlight_count > 0 {
        0
    } else if unread.notification_count > 0 && entry.encrypted {
        // The homeserver cannot see highlights in encrypted rooms, so any message there may be one.
        1
    } else if unread.notification_count > 0 {
        2
    } else {
        3
    }
}
