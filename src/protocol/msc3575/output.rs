//! What the answer being made will say of each room, before it is serialized.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::account_data::AccountDataOutput;
use super::device::{DeviceListsOutput, ToDeviceOutput};
use super::ops::Op;
use super::sticky::RoomParameters;
use super::wire::Body;
use crate::ids::{RoomId, UserId};
use crate::model::change::RoomChange;
use crate::model::event::Event;
use crate::model::load::LoadedRoom;
use crate::model::position::Position;
use crate::protocol::Acknowledgement;
use crate::protocol::sliding::required_state::Entry;

/// A wish for a snapshot of a room.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Want {
    /// Newest events; 0 for none, and then the snapshot does not stand in for live events either.
    pub timeline_limit: usize,
    /// State.
    pub required_state: Vec<Entry>,
    /// Whether to name heroes.
    pub include_heroes: bool,
}

impl From<&RoomParameters> for Want {
    fn from(parameters: &RoomParameters) -> Self {
        Self {
            timeline_limit: parameters.timeline_limit,
            required_state: parameters.required_state.clone(),
            include_heroes: parameters.include_heroes,
        }
    }
}

impl Want {
    /// Adds another reason for a snapshot of the same room (msc3575.md 9.1).
    pub fn join(&mut self, other: &Want) {
        self.timeline_limit = self.timeline_limit.max(other.timeline_limit);
        for entry in &other.required_state {
            if !self.required_state.contains(entry) {
                self.required_state.push(entry.clone());
            }
        }
        self.include_heroes |= other.include_heroes;
    }
}

/// A snapshot as read.
#[derive(Debug)]
pub struct Snapshot {
    /// What it was read for.
    pub want: Want,
    /// Its timeline ends here.
    pub at: Position,
    /// The data; nothing for an invite.
    pub loaded: LoadedRoom,
}

/// A live event.
#[derive(Debug)]
pub struct Live {
    /// The event.
    pub event: Arc<Event>,
    /// Where its change stands.
    pub position: Position,
    /// If this device sent it.
    pub transaction_id: Option<String>,
}

/// Which facts of a room that the client knows have changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Display name.
    pub name: bool,
    /// Members it was made of.
    pub heroes: bool,
    /// Avatar.
    pub avatar: bool,
    /// `joined_count`.
    pub joined: bool,
    /// `invited_count`.
    pub invited: bool,
    /// Unread counts.
    pub unread: bool,
}

impl Facts {
    /// Returns the facts in either.
    pub fn or(self, other: Facts) -> Facts {
        Facts {
            name: self.name || other.name,
            heroes: self.heroes || other.heroes,
            avatar: self.avatar || other.avatar,
            joined: self.joined || other.joined,
            invited: self.invited || other.invited,
            unread: self.unread || other.unread,
        }
    }
}

/// One room of the answer.
#[derive(Debug, Default)]
pub struct RoomOutput {
    /// Snapshot yet to be read.
    pub want: Option<Want>,
    /// Snapshot read.
    pub snapshot: Option<Snapshot>,
    /// Live events in order.
    pub live: Vec<Live>,
    /// Whether the first live event follows a gap.
    pub limited: bool,
    /// Token for what precedes the first live event.
    pub prev_batch: Option<String>,
    /// Facts that changed live.
    pub facts: Facts,
    /// Whether members of live senders are wanted.
    pub lazy: bool,
    /// Member events of live senders.
    pub members: Vec<Arc<Event>>,
    /// Whether the user is out of the room: nothing but how they left may be said.
    pub ended: bool,
}

impl RoomOutput {
    /// Adds a reason for a snapshot, unless the one read already has everything.
    pub fn want(&mut self, want: &Want) {
        match (&mut self.want, &self.snapshot) {
            (Some(wanted), _) => wanted.join(want),
            (None, Some(snapshot)) => {
                let mut joined = snapshot.want.clone();
                joined.join(want);
                if joined != snapshot.want {
                    self.want = Some(joined);
                }
            }
            (None, None) => self.want = Some(want.clone()),
        }
    }

    /// Like [`RoomOutput::want`], but what has been read is out of date.
    pub fn want_again(&mut self, want: &Want) {
        self.want(want);
        if let (None, Some(snapshot)) = (&self.want, &self.snapshot) {
            self.want = Some(snapshot.want.clone());
        }
    }

    /// Queues the events of a change.
    pub fn push_events(&mut self, change: &RoomChange, position: Position, own_device: bool) {
        if change.events.is_empty() {
            return;
        }
        if change.limited
            && let Some(snapshot) = &self.snapshot
        {
            // The snapshot and these events do not join up; only a new snapshot is right.
            let want = snapshot.want.clone();
            self.want_again(&want);
        }
        if change.limited || self.live.is_empty() {
            // What was queued before a gap can be had by paging back.
            self.live.clear();
            self.limited = change.limited;
            self.prev_batch.clone_from(&change.prev_batch);
        }
        for event in &change.events {
            let transaction_id = own_device
                .then(|| change.transaction_ids.get(&event.event_id).cloned())
                .flatten();
            self.live.push(Live {
                event: Arc::clone(event),
                position,
                transaction_id,
            });
        }
    }

    /// Returns the live events that the snapshot does not have.
    pub fn live_after_snapshot(&self) -> impl Iterator<Item = &Live> {
        let covering = self
            .snapshot
            .as_ref()
            .filter(|snapshot| snapshot.want.timeline_limit > 0);
        self.live.iter().filter(move |live| {
            covering.is_none_or(|snapshot| {
                live.position > snapshot.at
                    && !(snapshot.loaded.timeline.iter()).any(|event| event.event_id == live.event.event_id)
            })
        })
    }

    /// Returns whether there is anything to say.
    pub fn is_empty(&self) -> bool {
        self.snapshot.is_none() && self.live.is_empty() && self.facts == Facts::default() && self.members.is_empty()
    }

    /// Leaves nothing but the event by which the user left.
    pub fn revoke(&mut self, user_id: &UserId) {
        let mut live = std::mem::take(&mut self.live);
        live.retain(|live| is_own_end(&live.event, user_id));
        *self = Self {
            live,
            ended: true,
            ..Self::default()
        };
    }
}

/// Returns whether the event is the user's own member event.
pub fn is_own_member(event: &Event, user_id: &UserId) -> bool {
    &*event.event_type == "m.room.member" && event.state_key.as_deref() == Some(user_id.as_str())
}

/// Returns whether the event puts the user out of the room.
fn is_own_end(event: &Event, user_id: &UserId) -> bool {
    #[derive(serde::Deserialize)]
    struct Content<'a> {
        #[serde(borrow)]
        membership: std::borrow::Cow<'a, str>,
    }
    is_own_member(event, user_id)
        && event
            .content::<Content<'_>>()
            .is_some_and(|content| matches!(&*content.membership, "leave" | "ban"))
}

/// What a plan asked for one room.
#[derive(Debug)]
pub enum Planned {
    /// A snapshot.
    Snapshot(Want),
    /// Member events of these users.
    Members(BTreeSet<UserId>),
}

/// The answer being made.
#[derive(Debug)]
pub struct Pending {
    /// Position of the request.
    pub position: Option<u64>,
    /// `txn_id` to echo.
    pub txn_id: Option<String>,
    /// The request, for telling retries.
    pub body: Body,
    /// Operations by list, in order.
    pub ops: BTreeMap<String, Vec<Op>>,
    /// Rooms.
    pub rooms: BTreeMap<RoomId, RoomOutput>,
    /// Account data.
    pub account_data: AccountDataOutput,
    /// To-device messages.
    pub to_device: ToDeviceOutput,
    /// Device lists.
    pub device_lists: DeviceListsOutput,
    /// Acknowledgements not yet handed out.
    pub acknowledgements: Vec<Acknowledgement>,
    /// What the last plan asked for, and as of which position.
    pub planned: (Position, Vec<(RoomId, Planned)>),
    /// Whether it asked for to-device messages, device lists, global account data.
    pub planned_extensions: (bool, bool, bool),
}

impl Pending {
    /// Returns an answer that says nothing yet.
    pub fn new(position: Option<u64>, txn_id: Option<String>, body: Body) -> Self {
        Self {
            position,
            txn_id,
            body,
            ops: BTreeMap::new(),
            rooms: BTreeMap::new(),
            account_data: AccountDataOutput::default(),
            to_device: ToDeviceOutput::default(),
            device_lists: DeviceListsOutput::default(),
            acknowledgements: Vec::new(),
            planned: (Position::ZERO, Vec::new()),
            planned_extensions: (false, false, false),
        }
    }

    /// Asks for a snapshot of a room.
    pub fn want(&mut self, room_id: &RoomId, want: &Want) {
        self.rooms.entry(room_id.clone()).or_default().want(want);
    }

    /// Appends an operation.
    pub fn op(&mut self, list: &str, op: Op) {
        match self.ops.get_mut(list) {
            Some(ops) => ops.push(op),
            None => {
                self.ops.insert(list.to_owned(), vec![op]);
            }
        }
    }
}
