//! Which rooms belong to a list.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::ids::RoomId;
use crate::model::room::Membership;
use crate::model::user_view::{RoomEntry, SharedMap};

/// A list's filters; all of them must hold. Empty sets and an empty name filter nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Filters {
    /// Whether the room is a direct message.
    pub is_dm: Option<bool>,
    /// Whether the room is encrypted.
    pub is_encrypted: Option<bool>,
    /// Whether the user is only invited.
    pub is_invite: Option<bool>,
    /// Whether the room names a successor (deprecated).
    pub is_tombstoned: Option<bool>,
    /// What the name must contain, in lower case.
    pub room_name_like: String,
    /// Room types of which one must match; `None` stands for rooms without a type.
    pub room_types: BTreeSet<Option<String>>,
    /// Room types that exclude a room; stronger than `room_types`.
    pub not_room_types: BTreeSet<Option<String>>,
    /// Tags of which the room must have one.
    pub tags: BTreeSet<String>,
    /// Tags that exclude a room; stronger than `tags`.
    pub not_tags: BTreeSet<String>,
}

impl Filters {
    /// Returns whether the room belongs to a list with these filters. `rooms` are all rooms of the user.
    pub fn pass(&self, entry: &RoomEntry, rooms: &SharedMap<RoomId, Arc<RoomEntry>>) -> bool {
        let is = |wanted: Option<bool>, actual: bool| wanted.is_none_or(|wanted| wanted == actual);
        is_candidate(entry, rooms)
            && is(self.is_dm, entry.is_dm)
            && is(self.is_encrypted, entry.encrypted)
            && is(self.is_invite, entry.room.membership == Membership::Invite)
            && is(self.is_tombstoned, replacement(entry).is_some())
            && !self.not_room_types.contains(&entry.room_type)
            && (self.room_types.is_empty() || self.room_types.contains(&entry.room_type))
            && !entry.room.tags.iter().any(|tag| self.not_tags.contains(tag))
            && (self.tags.is_empty() || entry.room.tags.iter().any(|tag| self.tags.contains(tag)))
            && (self.room_name_like.is_empty() || entry.name.to_lowercase().contains(&self.room_name_like))
    }
}

/// Returns whether any list may hold the room: joined or invited, and not replaced by a room the user has joined.
fn is_candidate(entry: &RoomEntry, rooms: &SharedMap<RoomId, Arc<RoomEntry>>) -> bool {
    match entry.room.membership {
        Membership::Invite => true,
        Membership::Join => replacement(entry)
            .and_then(|successor| rooms.get(successor))
            // A room that names itself as its successor is not old.
            .is_none_or(|next| next.room.membership != Membership::Join || next.room.room_id == entry.room.room_id),
        Membership::Knock | Membership::Leave | Membership::Ban => false,
    }
}

/// The summary must not be looked at unless the user is joined.
fn replacement(entry: &RoomEntry) -> Option<&RoomId> {
    (entry.room.membership == Membership::Join)
        .then_some(entry.room.summary.replacement.as_ref())
        .flatten()
}

/// Returns the room whose place in lists depends on the user's membership of the given one, if that membership changed.
pub fn predecessor(before: Option<&Arc<RoomEntry>>, after: Option<&Arc<RoomEntry>>) -> Option<RoomId> {
    let joined = |entry: Option<&Arc<RoomEntry>>| entry.is_some_and(|e| e.room.membership == Membership::Join);
    if joined(before) == joined(after) {
        return None;
    }
    let entry = if joined(after) { after } else { before }?;
    let old = entry.room.summary.predecessor.clone()?;
    (old != entry.room.room_id).then_some(old)
}
