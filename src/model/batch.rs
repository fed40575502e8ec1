//! One v2 response, sorted into things the store can apply.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::clock::Moment;
use crate::ids::{DeviceKey, EventId, RoomId, UserId};
use crate::model::event::ReceivedEvent;
use crate::model::room::Unread;

/// What one v2 response (or one part of a very large first one) brought. Stored in one transaction.
#[derive(Debug)]
pub struct Batch {
    /// Whose response this is.
    pub device: DeviceKey,
    /// The `since` of the request. The store refuses the batch if the device has moved on from it.
    pub since_in: Option<String>,
    /// The response's `next_batch`; `None` in all parts but the last, which leave the device where it is.
    pub next_batch: Option<String>,
    /// When the request was first sent with exactly these parameters.
    pub sent_at: Moment,
    /// When the response was in.
    pub received_at: Moment,
    /// Global account data.
    pub account_data: Vec<AccountData>,
    /// Rooms under `join`.
    pub joined: Vec<JoinedRoom>,
    /// Rooms under `invite`.
    pub invited: Vec<StrippedRoom>,
    /// Rooms under `knock`.
    pub knocked: Vec<StrippedRoom>,
    /// Rooms under `leave`.
    pub left: Vec<LeftRoom>,
    /// To-device messages in the order received.
    pub to_device: Vec<ToDeviceMessage>,
    /// `device_lists.changed`.
    pub device_lists_changed: Vec<UserId>,
    /// `device_lists.left`.
    pub device_lists_left: Vec<UserId>,
    /// `device_one_time_keys_count`; `None` when the response has no such field.
    pub one_time_keys: Option<BTreeMap<String, i64>>,
    /// `device_unused_fallback_key_types`; `None` when the homeserver does not say, which differs from `[]`.
    pub fallback_types: Option<Vec<String>>,
}

impl Batch {
    /// Returns a batch that brings nothing and moves nothing.
    pub fn empty(device: DeviceKey, since_in: Option<String>) -> Self {
        Self {
            device,
            since_in,
            next_batch: None,
            sent_at: Moment::default(),
            received_at: Moment::default(),
            account_data: Vec::new(),
            joined: Vec::new(),
            invited: Vec::new(),
            knocked: Vec::new(),
            left: Vec::new(),
            to_device: Vec::new(),
            device_lists_changed: Vec::new(),
            device_lists_left: Vec::new(),
            one_time_keys: None,
            fallback_types: None,
        }
    }
}

/// One piece of account data.
#[derive(Clone, Debug)]
pub struct AccountData {
    /// `type`.
    pub kind: String,
    /// The event as received, `{"type": …, "content": …}`.
    pub raw: Box<RawValue>,
}

/// A room under `join`.
#[derive(Debug)]
pub struct JoinedRoom {
    /// The room.
    pub room_id: RoomId,
    /// State: before the timeline, or after it if `state_after`.
    pub state: Vec<ReceivedEvent>,
    /// Whether `state` came as MSC4222 `state_after`; then timeline events never change the state.
    pub state_after: bool,
    /// The timeline, oldest first, repeats inside it dropped.
    pub timeline: Vec<ReceivedEvent>,
    /// v2 `limited`.
    pub limited: bool,
    /// Token for what precedes the timeline.
    pub prev_batch: Option<String>,
    /// v2 `summary`.
    pub summary: SummaryUpdate,
    /// v2 `unread_notifications` plus all threads; `None` when unchanged.
    pub unread: Option<Unread>,
    /// Account data of the room.
    pub account_data: Vec<AccountData>,
    /// Receipts.
    pub receipts: Vec<Receipt>,
    /// Who types now; `None` when unchanged.
    pub typing: Option<Vec<UserId>>,
}

impl JoinedRoom {
    /// Returns a room that brings nothing.
    pub fn empty(room_id: RoomId) -> Self {
        Self {
            room_id,
            state: Vec::new(),
            state_after: false,
            timeline: Vec::new(),
            limited: false,
            prev_batch: None,
            summary: SummaryUpdate::default(),
            unread: None,
            account_data: Vec::new(),
            receipts: Vec::new(),
            typing: None,
        }
    }
}

/// v2 `summary`: absent fields are unchanged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SummaryUpdate {
    /// `m.heroes`; never includes the requesting user.
    pub heroes: Option<Vec<UserId>>,
    /// `m.joined_member_count`.
    pub joined_count: Option<i64>,
    /// `m.invited_member_count`.
    pub invited_count: Option<i64>,
}

/// A room under `invite` or `knock`.
#[derive(Debug)]
pub struct StrippedRoom {
    /// The room.
    pub room_id: RoomId,
    /// Stripped state as received.
    pub events: Vec<Box<RawValue>>,
}

/// A room under `leave`.
#[derive(Debug)]
pub struct LeftRoom {
    /// The room.
    pub room_id: RoomId,
    /// State block; only this user's view of the room.
    pub state: Vec<ReceivedEvent>,
    /// Timeline up to the leave, oldest first.
    pub timeline: Vec<ReceivedEvent>,
    /// v2 `limited`.
    pub limited: bool,
    /// Token for what precedes the timeline.
    pub prev_batch: Option<String>,
}

/// A read receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Reader.
    pub user_id: UserId,
    /// `m.read` or `m.read.private` (private ones only ever come from their owner's own poller).
    pub kind: String,
    /// `thread_id`; `None` for unthreaded.
    pub thread_id: Option<String>,
    /// Event read up to.
    pub event_id: EventId,
    /// `ts`, ms.
    pub ts: i64,
}

/// A to-device message.
#[derive(Clone, Debug)]
pub struct ToDeviceMessage {
    /// As received.
    pub raw: Box<RawValue>,
    /// For `m.room_key_request`: what request and cancellation have in common.
    pub key_request: Option<KeyRequest>,
}

/// Identity of a room-key request (upstream.md 6.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRequest {
    /// `sender`, `requesting_device_id` and `request_id` in one string.
    pub key: String,
    /// Whether this message takes the request back.
    pub cancels: bool,
}

/// Every member of a room, as `GET /rooms/{id}/members` gave them; makes a room's members complete.
#[derive(Debug)]
pub struct MemberList {
    /// The room.
    pub room_id: RoomId,
    /// Who asked, and must be joined.
    pub user_id: UserId,
    /// All `m.room.member` events.
    pub members: Vec<ReceivedEvent>,
    /// When the request was sent.
    pub sent_at: Moment,
    /// When the answer was in.
    pub received_at: Moment,
}

/// State fetched one key at a time because two responses disagreed (upstream.md 4.5, the doubt list).
#[derive(Debug)]
pub struct StateRepair {
    /// The room.
    pub room_id: RoomId,
    /// Who asked.
    pub user_id: UserId,
    /// The entry in doubt.
    pub key: StateKey,
    /// What the homeserver holds; `None` if it has no such entry.
    pub event: Option<ReceivedEvent>,
    /// When the request was sent.
    pub sent_at: Moment,
    /// When the answer was in.
    pub received_at: Moment,
}

/// Names one entry of a room's state.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StateKey {
    /// Event type.
    pub event_type: String,
    /// State key.
    pub state_key: String,
}
