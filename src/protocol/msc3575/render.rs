//! Writes an answer as JSON (msc3575.md section 4), copying events as they are.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use serde_json::value::RawValue;

use super::account_data::AccountDataBody;
use super::device::DeviceListsOutput;
use super::ops::Op;
use super::output::RoomOutput;
use crate::ids::{RoomId, UserId};
use crate::model::event::Event;
use crate::model::room::{Hero, Membership};
use crate::model::user_view::RoomEntry;
use crate::protocol::sliding::event_json::{self, EventJson};
use crate::protocol::sliding::sort;

/// A whole answer.
#[derive(Serialize)]
pub struct Response<'a> {
    pub pos: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub txn_id: Option<&'a str>,
    pub lists: ListResults<'a>,
    pub rooms: BTreeMap<&'a RoomId, RoomBody<'a>>,
    pub extensions: Extensions<'a>,
}

/// Lists in the shape of the request.
#[derive(Serialize)]
#[serde(untagged)]
pub enum ListResults<'a> {
    Map(BTreeMap<&'a str, ListResult<'a>>),
    Array(Vec<ListResult<'a>>),
}

#[derive(Serialize)]
pub struct ListResult<'a> {
    pub count: usize,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub ops: &'a [Op],
}

#[derive(Default, Serialize)]
pub struct Extensions<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_device: Option<ToDeviceBody<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub e2ee: Option<E2eeBody<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account_data: Option<AccountDataBody<'a>>,
}

#[derive(Serialize)]
pub struct ToDeviceBody<'a> {
    pub next_batch: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<&'a RawValue>,
}

#[derive(Serialize)]
pub struct E2eeBody<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_one_time_keys_count: Option<&'a BTreeMap<String, i64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_unused_fallback_key_types: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_lists: Option<&'a DeviceListsOutput>,
}

/// One room; which fields are set is the table of msc3575.md 4.4.
#[derive(Default, Serialize)]
pub struct RoomBody<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    // `Some(None)` is written as null: the room has no avatar.
    #[serde(skip_serializing_if = "Option::is_none")]
    avatar: Option<Option<&'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    heroes: Option<Vec<HeroBody<'a>>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    initial: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    is_dm: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    required_state: Vec<EventJson<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    timeline: Vec<EventJson<'a>>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    invite_state: &'a [Box<RawValue>],
    #[serde(skip_serializing_if = "Option::is_none")]
    prev_batch: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    limited: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    num_live: Option<usize>,
    notification_count: i64,
    highlight_count: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    joined_count: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    invited_count: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<i64>,
}

#[derive(Serialize)]
struct HeroBody<'a> {
    user_id: &'a UserId,
    #[serde(skip_serializing_if = "Option::is_none")]
    displayname: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    avatar_url: Option<&'a str>,
}

impl<'a> RoomBody<'a> {
    /// Returns what is to be said of a room; `None` if nothing may be. `entry` is the room as the user sees it now.
    pub fn new(output: &'a RoomOutput, entry: Option<&'a Arc<RoomEntry>>, reader: &UserId) -> Option<Self> {
        if output.is_empty() {
            return None;
        }
        if output.ended {
            let mut body = Self::default();
            body.write_timeline(output, reader);
            return Some(body);
        }
        let entry = entry?;
        let unread = sort::unread(entry);
        let mut body = Self {
            notification_count: unread.notification_count,
            highlight_count: unread.highlight_count,
            ..Self::default()
        };
        body.write_timeline(output, reader);
        body.write_facts(output, entry);
        let (snapshot, members) = (output.snapshot.as_ref(), output.members.iter());
        let state = snapshot.map_or(&[][..], |snapshot| &snapshot.loaded.state[..]);
        for event in members.chain(state) {
            body.required_state.push(event_json::for_reader(event, None, reader));
        }
        let recency = Some(entry.room.recency).filter(|ts| *ts > 0);
        if body.initial || !body.timeline.is_empty() {
            body.timestamp = recency;
        }
        Some(body)
    }

    fn write_timeline(&mut self, output: &'a RoomOutput, reader: &UserId) {
        if let Some(snapshot) = output.snapshot.as_ref() {
            let ids = &snapshot.loaded.transaction_ids;
            for event in &snapshot.loaded.timeline {
                let transaction_id = ids.get(&event.event_id).map(String::as_str);
                self.timeline
                    .push(event_json::for_reader(event, transaction_id, reader));
            }
            if !self.timeline.is_empty() {
                self.prev_batch = snapshot.loaded.prev_batch.as_deref();
            }
        }
        let starts_live = self.timeline.is_empty();
        for live in output.live_after_snapshot() {
            let event: &'a Event = &live.event;
            self.timeline
                .push(event_json::for_reader(event, live.transaction_id.as_deref(), reader));
        }
        if starts_live && !self.timeline.is_empty() {
            self.prev_batch = output.prev_batch.as_deref();
            self.limited = output.limited;
        }
        self.num_live = Some(output.live.len().min(self.timeline.len())).filter(|count| *count > 0);
    }

    fn write_facts(&mut self, output: &RoomOutput, entry: &'a RoomEntry) {
        let room = &entry.room;
        let is_initial = output.snapshot.is_some();
        let is_invite = room.membership == Membership::Invite;
        let facts = output.facts;
        self.initial = is_initial;
        self.is_dm = is_initial && entry.is_dm;
        self.name = (is_initial || facts.name).then_some(&*entry.name);
        self.avatar = (is_initial || facts.avatar).then_some(entry.avatar.as_deref());
        let wants_heroes = match &output.snapshot {
            Some(snapshot) => snapshot.want.include_heroes,
            None => facts.heroes,
        };
        if wants_heroes && entry.name_from_heroes {
            self.heroes = Some(room.heroes.iter().map(HeroBody::new).collect());
        }
        // An invite says nothing about how many are in the room.
        let count = |known: i64| if is_invite { 1 } else { known };
        self.joined_count = (is_initial || facts.joined).then(|| count(room.summary.joined_count));
        self.invited_count = (is_initial || facts.invited).then(|| count(room.summary.invited_count));
        if is_initial
            && is_invite
            && let Some(stripped) = &room.stripped
        {
            self.invite_state = &stripped.events;
        }
    }
}

impl<'a> HeroBody<'a> {
    fn new(hero: &'a Hero) -> Self {
        Self {
            user_id: &hero.user_id,
            displayname: hero.displayname.as_deref(),
            avatar_url: hero.avatar_url.as_deref(),
        }
    }
}
