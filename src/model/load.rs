//! What an answer needs read from the store, and what came back. A plan is answered in one read transaction.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde_json::value::RawValue;

use crate::ids::{DeviceKey, EventId, RoomId, UserId};
use crate::model::batch::{AccountData, Receipt};
use crate::model::event::Event;
use crate::model::position::Position;

/// Everything one answer needs.
#[derive(Clone, Debug)]
pub struct LoadPlan {
    /// For whom; every read is limited to what this user may see.
    pub device: DeviceKey,
    /// Timelines end here: later events reach the session as changes of their own.
    pub at: Position,
    /// Rooms.
    pub rooms: Vec<RoomPlan>,
    /// To-device messages.
    pub to_device: Option<ToDevicePlan>,
    /// Device-list changes; the number is the most to return.
    pub device_lists: Option<usize>,
    /// All global account data.
    pub account_data: bool,
}

impl LoadPlan {
    /// Returns whether there is nothing to read.
    pub fn is_empty(&self) -> bool {
        self.rooms.is_empty() && self.to_device.is_none() && self.device_lists.is_none() && !self.account_data
    }
}

/// What to read of one room. Rooms that the user may not see are missing from the result.
#[derive(Clone, Debug)]
pub struct RoomPlan {
    /// The room.
    pub room_id: RoomId,
    /// Newest events to return, 0 for none.
    pub timeline_limit: usize,
    /// Current state to return.
    pub state: StateSelector,
    /// All of the room's account data.
    pub account_data: bool,
    /// Receipts: the user's own, and public ones on the events of the returned timeline.
    pub receipts: bool,
}

/// Which entries of a room's current state are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateSelector {
    /// Whole state; then `only` restricts some types.
    pub everything: bool,
    /// With `everything`: of these types only these state keys.
    pub only: BTreeMap<String, BTreeSet<String>>,
    /// Types of which every entry is wanted.
    pub types: BTreeSet<String>,
    /// State keys wanted under every type.
    pub keys: BTreeSet<String>,
    /// Single entries: type and state key.
    pub exact: BTreeSet<(String, String)>,
    /// Member events of the senders of the returned timeline.
    pub lazy_members: bool,
    /// Member events of these users as well, if there are any.
    pub members: BTreeSet<UserId>,
}

impl StateSelector {
    /// Returns whether the entry is wanted (without regard to `lazy_members`).
    pub fn wants(&self, event_type: &str, state_key: &str) -> bool {
        if event_type == "m.room.member" && self.members.contains(state_key) {
            return true;
        }
        if self.everything {
            return self.only.get(event_type).is_none_or(|keys| keys.contains(state_key));
        }
        self.types.contains(event_type)
            || self.keys.contains(state_key)
            || self.exact.contains(&(event_type.to_owned(), state_key.to_owned()))
    }

    /// Returns whether no entry can be wanted.
    pub fn is_empty(&self) -> bool {
        !self.everything
            && !self.lazy_members
            && self.types.is_empty()
            && self.keys.is_empty()
            && self.exact.is_empty()
            && self.members.is_empty()
    }

    /// Returns whether the answer is only right if every member of the room is known.
    pub fn needs_all_members(&self) -> bool {
        (self.everything && !self.only.contains_key("m.room.member")) || self.types.contains("m.room.member")
    }
}

/// Which to-device messages to return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToDevicePlan {
    /// Messages with a greater sequence number.
    pub after: i64,
    /// At most so many.
    pub limit: usize,
}

/// What a [`LoadPlan`] brought.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Rooms of the plan that the user may see.
    pub rooms: HashMap<RoomId, LoadedRoom>,
    /// To-device messages with their sequence numbers, oldest first.
    pub to_device: Vec<(i64, Box<RawValue>)>,
    /// Device-list changes: `(user, left)`, each user once.
    pub device_lists: Vec<(UserId, bool)>,
    /// Sequence number of the newest of `device_lists`.
    pub device_lists_seq: i64,
    /// Global account data.
    pub account_data: Vec<AccountData>,
}

/// One room's part of [`Loaded`].
#[derive(Debug, Default)]
pub struct LoadedRoom {
    /// Oldest first, cut at the user's latest join and at the newest gap.
    pub timeline: Vec<Arc<Event>>,
    /// Whether a gap or the store's bound (not the wanted limit, not the join) cut the timeline.
    pub limited: bool,
    /// Token for what precedes the timeline; may overlap with it, never skips.
    pub prev_batch: Option<String>,
    /// Current state entries asked for, each once.
    pub state: Vec<Arc<Event>>,
    /// Transaction IDs of timeline events sent by the asking device.
    pub transaction_ids: BTreeMap<EventId, String>,
    /// Account data of the room.
    pub account_data: Vec<AccountData>,
    /// Receipts.
    pub receipts: Vec<Receipt>,
}
