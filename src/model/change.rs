//! What became new in a commit, and for whom.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::ids::{DeviceId, DeviceKey, EventId, RoomId, UserId};
use crate::model::batch::{AccountData, Receipt};
use crate::model::event::Event;
use crate::model::position::Position;
use crate::model::room::{Membership, RoomSummary, UserRoom};

/// One committed piece of work. Heard in position order by whoever listens to the store.
#[derive(Debug)]
pub struct Committed {
    /// Where it stands in the order of everything.
    pub position: Position,
    /// What the user whose poller brought it may see of it; `None` for repairs and member lists.
    pub user: Option<UserChange>,
    /// Users (others included) who are out of a room as of this commit, by whoever's poller reported it. To be applied
    /// before anything else of this commit is delivered (upstream.md section 9, rule 5).
    pub ended: Vec<Ended>,
    /// Every room whose summary this commit changed.
    pub summaries: Vec<Arc<RoomSummary>>,
}

/// Somebody is out of a room.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Who.
    pub user_id: UserId,
    /// Out of which room.
    pub room_id: RoomId,
    /// `Leave` or `Ban`.
    pub membership: Membership,
}

/// What one batch changed for the user whose device received it.
#[derive(Debug)]
pub struct UserChange {
    /// The receiving device.
    pub device: DeviceKey,
    /// Rooms of which anything changed for this user.
    pub rooms: Vec<Arc<RoomChange>>,
    /// Global account data that really changed.
    pub account_data: Vec<AccountData>,
    /// What changed for the device alone.
    pub device_change: Option<DeviceFacts>,
}

/// What changed in one room for one user.
#[derive(Debug)]
pub struct RoomChange {
    /// The user's whole knowledge of the room after this commit.
    pub room: Arc<UserRoom>,
    /// Timeline events this user had not been given before, in the order of the response that brought them.
    pub events: Vec<Arc<Event>>,
    /// Transaction IDs of those events, for the receiving device alone.
    pub transaction_ids: BTreeMap<EventId, String>,
    /// Whether the first of `events` follows a gap for this user.
    pub limited: bool,
    /// Token for what precedes the first of `events`.
    pub prev_batch: Option<String>,
    /// State entries that changed, as far as this user may know (joined): type, state key and the event, `None` when
    /// the entry is gone. Includes those that came as timeline events.
    pub state: Vec<Arc<Event>>,
    /// Account data of the room that really changed.
    pub account_data: Vec<AccountData>,
    /// Receipts that really changed, private ones only if the user's own.
    pub receipts: Vec<Receipt>,
    /// Who types now, if that was in the response. Not stored.
    pub typing: Option<Arc<[UserId]>>,
    /// Whether counts or membership of the room changed hands such that a list order or filter may change: always true
    /// unless only receipts or typing came.
    pub entry_changed: bool,
}

/// Counters and key facts of one device, always complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceFacts {
    /// Which device of the user.
    pub device_id: DeviceId,
    /// Sequence number of the newest to-device message ever queued; 0 for none.
    pub to_device_seq: i64,
    /// Sequence number of the newest device-list change ever recorded; 0 for none.
    pub device_list_seq: i64,
    /// Key counts; `None` while unknown.
    pub one_time_keys: Option<Arc<BTreeMap<String, i64>>>,
    /// Fallback key types; `None` if the homeserver does not say.
    pub fallback_types: Option<Arc<[String]>>,
}

impl DeviceFacts {
    /// Returns the facts of a device of which nothing is known.
    pub fn unknown(device_id: DeviceId) -> Self {
        Self {
            device_id,
            to_device_seq: 0,
            device_list_seq: 0,
            one_time_keys: None,
            fallback_types: None,
        }
    }
}

/// A change as a session hears it: the raw facts of a commit together with the view they led to.
#[derive(Debug)]
pub struct Changed {
    /// Position of the commit.
    pub position: Position,
    /// The user's view after it.
    pub view: crate::model::user_view::UserView,
    /// Rooms that changed, one after another.
    pub rooms: Vec<RoomUpdate>,
    /// Global account data that changed.
    pub account_data: Vec<AccountData>,
    /// Which device's poller brought this; `None` if it came by somebody else's.
    pub device_id: Option<DeviceId>,
}

/// One room's part of [`Changed`].
#[derive(Debug)]
pub struct RoomUpdate {
    /// The room.
    pub room_id: RoomId,
    /// What happened, events included. `None` if only derived facts changed (a DM mark, an end reported by others).
    pub change: Option<Arc<RoomChange>>,
}
