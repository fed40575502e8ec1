//! One user's rooms and personal facts: a cheap snapshot (clones share their insides) that is only ever read.

use std::sync::Arc;

use imbl::GenericHashMap;
use imbl::shared_ptr::DefaultSharedPtr;

use crate::ids::{DeviceId, RoomId, UserId};
use crate::model::change::DeviceFacts;
use crate::model::position::Position;
use crate::model::room::UserRoom;

/// Hashes IDs; seeded per process.
pub type IdHasher = foldhash::fast::RandomState;

/// A map whose clones share their insides.
pub type SharedMap<K, V> = GenericHashMap<K, V, IdHasher, DefaultSharedPtr>;

/// What one user knows, as of a position. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct UserView {
    /// Whose view.
    pub user_id: UserId,
    /// Up to which position.
    pub position: Position,
    /// Every room the user is joined to, invited to, or knocks at - and rooms left since the view was made.
    pub rooms: SharedMap<RoomId, Arc<RoomEntry>>,
    /// Facts of the user's devices.
    pub devices: SharedMap<DeviceId, Arc<DeviceFacts>>,
    /// Whether the first sync of the account is still being stored, so that rooms may be missing.
    pub partial: bool,
}

impl UserView {
    /// Returns a view without anything in it.
    pub fn empty(user_id: UserId) -> Self {
        Self {
            user_id,
            position: Position::ZERO,
            rooms: SharedMap::default(),
            devices: SharedMap::default(),
            partial: false,
        }
    }
}

/// One room as a user sees it: the stored facts, and what is derived from them once per change.
#[derive(Debug)]
pub struct RoomEntry {
    /// Stored facts.
    pub room: Arc<UserRoom>,
    /// Display name for this user (msc3575.md 9.9).
    pub name: String,
    /// `name` made comparable for `by_name` (msc3575.md 6.3).
    pub name_key: String,
    /// Avatar for this user (msc3575.md 9.10).
    pub avatar: Option<String>,
    /// Whether `name` was computed from members.
    pub name_from_heroes: bool,
    /// Whether the room is a direct message: by `m.direct`, or for invites by `is_direct` of the invite.
    pub is_dm: bool,
    /// Whether the room is encrypted, as far as this user may know.
    pub encrypted: bool,
    /// Room type, as far as this user may know.
    pub room_type: Option<String>,
}
