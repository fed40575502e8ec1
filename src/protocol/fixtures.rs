//! A small world for tests: one user's rooms with their history, commits that change them, and a store that answers
//! plans from it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::ids::{DeviceId, DeviceKey, EventId, RoomId, UserId};
use crate::model::batch::AccountData;
use crate::model::change::{Changed, DeviceFacts, RoomChange, RoomUpdate};
use crate::model::event::Event;
use crate::model::load::{LoadPlan, Loaded, LoadedRoom};
use crate::model::position::Position;
use crate::model::room::{Hero, Membership, RoomSummary, Stripped, Unread, UserRoom};
use crate::model::user_view::{RoomEntry, UserView};

pub(crate) const ME: &str = "@me:h";
pub(crate) const DEVICE: &str = "PHONE";

pub(crate) fn raw(value: &Value) -> Box<RawValue> {
    RawValue::from_string(value.to_string()).unwrap()
}

pub(crate) fn event(id: &str, sender: &str, kind: &str, state_key: Option<&str>, content: Value) -> Arc<Event> {
    let mut json = json!({"type": kind, "event_id": id, "sender": sender, "content": content, "origin_server_ts": 1});
    if let Some(key) = state_key {
        json["state_key"] = json!(key);
    }
    Event::receive(&raw(&json)).unwrap().event
}

pub(crate) fn message(id: &str, sender: &str) -> Arc<Event> {
    event(id, sender, "m.room.message", None, json!({"body": "x"}))
}

pub(crate) fn member(id: &str, sender: &str, user: &str, membership: &str) -> Arc<Event> {
    event(
        id,
        sender,
        "m.room.member",
        Some(user),
        json!({"membership": membership}),
    )
}

pub(crate) fn account_data(kind: &str, content: Value) -> AccountData {
    AccountData {
        kind: kind.to_owned(),
        raw: raw(&json!({"type": kind, "content": content})),
    }
}

/// A room as the user sees it, ready to be changed.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    pub(crate) membership: Membership,
    pub(crate) name: String,
    pub(crate) avatar: Option<String>,
    pub(crate) from_heroes: bool,
    pub(crate) heroes: Vec<Hero>,
    pub(crate) recency: i64,
    pub(crate) unread: Unread,
    pub(crate) is_dm: bool,
    pub(crate) encrypted: bool,
    pub(crate) room_type: Option<String>,
    pub(crate) tags: Vec<String>,
    pub(crate) joined: i64,
    pub(crate) invited: i64,
    pub(crate) joined_ts: i64,
    pub(crate) replacement: Option<String>,
    pub(crate) predecessor: Option<String>,
    pub(crate) invite: Vec<Value>,
}

impl Room {
    pub(crate) fn new(name: &str, recency: i64) -> Self {
        Self {
            membership: Membership::Join,
            name: name.to_owned(),
            avatar: None,
            from_heroes: false,
            heroes: Vec::new(),
            recency,
            unread: Unread::default(),
            is_dm: false,
            encrypted: false,
            room_type: None,
            tags: Vec::new(),
            joined: 2,
            invited: 0,
            joined_ts: 1,
            replacement: None,
            predecessor: None,
            invite: Vec::new(),
        }
    }

    pub(crate) fn entry(&self, room_id: &str) -> Arc<RoomEntry> {
        let mut summary = RoomSummary::unknown(RoomId::from(room_id));
        summary.joined_count = self.joined;
        summary.invited_count = self.invited;
        summary.replacement = self.replacement.as_deref().map(RoomId::from);
        summary.predecessor = self.predecessor.as_deref().map(RoomId::from);
        let events: Vec<_> = self.invite.iter().map(raw).collect();
        let room = UserRoom {
            room_id: RoomId::from(room_id),
            membership: self.membership,
            summary: Arc::new(summary),
            heroes: Arc::from(&self.heroes[..]),
            unread: self.unread,
            tags: Arc::from(&self.tags[..]),
            recency: self.recency,
            joined_ts: self.joined_ts,
            stripped: (!events.is_empty()).then(|| Arc::new(Stripped { events })),
            changed: Position::ZERO,
        };
        Arc::new(RoomEntry {
            room: Arc::new(room),
            name: self.name.clone(),
            name_key: self
                .name
                .trim_matches(&['#', '!', '(', ')', ':', '_', '@'][..])
                .to_lowercase(),
            avatar: self.avatar.clone(),
            name_from_heroes: self.from_heroes,
            is_dm: self.is_dm,
            encrypted: self.encrypted,
            room_type: self.room_type.clone(),
        })
    }
}

/// What a commit brings for one room.
#[derive(Debug, Default)]
pub(crate) struct Brings {
    pub(crate) events: Vec<Arc<Event>>,
    pub(crate) transaction_ids: BTreeMap<EventId, String>,
    pub(crate) limited: bool,
    pub(crate) prev_batch: Option<String>,
    pub(crate) account_data: Vec<AccountData>,
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) view: UserView,
    pub(crate) rooms: BTreeMap<String, Room>,
    pub(crate) timelines: BTreeMap<String, Vec<(Position, Arc<Event>)>>,
    pub(crate) state: BTreeMap<String, BTreeMap<(String, String), Arc<Event>>>,
    pub(crate) transaction_ids: BTreeMap<EventId, String>,
    pub(crate) account_data: Vec<AccountData>,
    pub(crate) room_account_data: BTreeMap<String, Vec<AccountData>>,
    pub(crate) to_device: Vec<(i64, Value)>,
    pub(crate) device_lists: Vec<(i64, String, bool)>,
    pub(crate) facts: DeviceFacts,
    pub(crate) plans: Vec<LoadPlan>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            view: UserView::empty(UserId::from(ME)),
            rooms: BTreeMap::new(),
            timelines: BTreeMap::new(),
            state: BTreeMap::new(),
            transaction_ids: BTreeMap::new(),
            account_data: Vec::new(),
            room_account_data: BTreeMap::new(),
            to_device: Vec::new(),
            device_lists: Vec::new(),
            facts: DeviceFacts::unknown(DeviceId::from(DEVICE)),
            plans: Vec::new(),
        }
    }

    /// A world with joined rooms named by the letters, the first being the most recent.
    pub(crate) fn with_rooms(letters: &str) -> Self {
        let mut world = Self::new();
        for (index, letter) in letters.chars().enumerate() {
            let id = format!("!{letter}:h");
            let recency = 1_000_000 - i64::try_from(index).unwrap();
            world.rooms.insert(id, Room::new(&letter.to_string(), recency));
        }
        let ids: Vec<String> = world.rooms.keys().cloned().collect();
        for id in ids {
            let first = message(&format!("$first{id}"), "@you:h");
            let brings = Brings {
                events: vec![first],
                ..Brings::default()
            };
            world.commit(&[(&id, Some(brings))]);
        }
        world
    }

    pub(crate) fn device() -> DeviceKey {
        DeviceKey::new(UserId::from(ME), DeviceId::from(DEVICE))
    }

    pub(crate) fn change(&mut self, id: &str, with: impl FnOnce(&mut Room)) -> &mut Self {
        with(self.rooms.entry(id.to_owned()).or_insert_with(|| Room::new(id, 0)));
        self
    }

    /// Commits the rooms as they are now, with what is brought for each.
    pub(crate) fn commit(&mut self, updates: &[(&str, Option<Brings>)]) -> Changed {
        let position = Position(self.view.position.0 + 1);
        self.view.position = position;
        let mut rooms = Vec::new();
        for (id, brings) in updates {
            let room_id = RoomId::from(*id);
            let entry = self.rooms[*id].entry(id);
            self.view.rooms.insert(room_id.clone(), Arc::clone(&entry));
            let change = brings.as_ref().map(|brings| self.bring(id, &entry, brings, position));
            rooms.push(RoomUpdate { room_id, change });
        }
        let facts = Arc::new(self.facts.clone());
        self.view.devices.insert(DeviceId::from(DEVICE), facts);
        Changed {
            position,
            view: self.view.clone(),
            rooms,
            account_data: Vec::new(),
            device_id: Some(DeviceId::from(DEVICE)),
        }
    }

    fn bring(&mut self, id: &str, entry: &RoomEntry, brings: &Brings, position: Position) -> Arc<RoomChange> {
        for event in &brings.events {
            let timeline = self.timelines.entry(id.to_owned()).or_default();
            timeline.push((position, Arc::clone(event)));
            if let Some(key) = &event.state_key {
                let state = self.state.entry(id.to_owned()).or_default();
                state.insert((event.event_type.to_string(), key.to_string()), Arc::clone(event));
            }
        }
        self.transaction_ids.extend(brings.transaction_ids.clone());
        Arc::new(RoomChange {
            room: Arc::clone(&entry.room),
            events: brings.events.clone(),
            transaction_ids: brings.transaction_ids.clone(),
            limited: brings.limited,
            prev_batch: brings.prev_batch.clone(),
            state: Vec::new(),
            account_data: brings.account_data.clone(),
            receipts: Vec::new(),
            typing: None,
            entry_changed: true,
        })
    }

    /// Commits a message that makes the room the most recent one.
    pub(crate) fn bump(&mut self, id: &str, event_id: &str) -> Changed {
        let newest = self.rooms.values().map(|room| room.recency).max().unwrap_or(0);
        self.change(id, |room| room.recency = newest + 1);
        let brings = Brings {
            events: vec![message(event_id, "@you:h")],
            prev_batch: Some(format!("before{event_id}")),
            ..Brings::default()
        };
        self.commit(&[(id, Some(brings))])
    }

    /// Answers a plan as the store would.
    pub(crate) fn load(&mut self, plan: &LoadPlan) -> Loaded {
        self.plans.push(plan.clone());
        let mut loaded = Loaded::default();
        for room in &plan.rooms {
            let id = room.room_id.as_str();
            if self
                .rooms
                .get(id)
                .is_none_or(|room| room.membership != Membership::Join)
            {
                continue;
            }
            let events = self.timelines.get(id).map(Vec::as_slice).unwrap_or_default();
            let visible: Vec<_> = events.iter().filter(|(position, _)| *position <= plan.at).collect();
            let skipped = visible.len().saturating_sub(room.timeline_limit);
            let timeline: Vec<_> = visible[skipped..].iter().map(|(_, event)| Arc::clone(event)).collect();
            let state = self.state.get(id).into_iter().flatten();
            let wanted = |kind: &str, key: &str| {
                let lazy = room.state.lazy_members && kind == "m.room.member";
                room.state.wants(kind, key) || (lazy && timeline.iter().any(|event| event.sender.as_str() == key))
            };
            let state = state
                .filter(|((kind, key), _)| wanted(kind, key))
                .map(|(_, event)| Arc::clone(event))
                .collect();
            let all_data = self.room_account_data.get(id).cloned().unwrap_or_default();
            let room_data = LoadedRoom {
                prev_batch: timeline.first().map(|event| format!("page{}", event.event_id)),
                timeline,
                limited: false,
                state,
                transaction_ids: self.transaction_ids.clone(),
                account_data: if room.account_data { all_data } else { Vec::new() },
                receipts: Vec::new(),
            };
            loaded.rooms.insert(room.room_id.clone(), room_data);
        }
        if let Some(plan) = plan.to_device {
            let messages = self
                .to_device
                .iter()
                .filter(|(seq, _)| *seq > plan.after)
                .take(plan.limit);
            loaded.to_device = messages.map(|(seq, value)| (*seq, raw(value))).collect();
        }
        if let Some(limit) = plan.device_lists {
            for (seq, user, left) in self.device_lists.iter().take(limit) {
                loaded.device_lists.push((UserId::from(user.as_str()), *left));
                loaded.device_lists_seq = *seq;
            }
        }
        if plan.account_data {
            loaded.account_data = self.account_data.clone();
        }
        loaded
    }
}
