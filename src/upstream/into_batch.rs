//! From a response to what the store applies: all at once, or a very large first one in parts.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::vec::IntoIter;

use serde_json::value::RawValue;

use crate::clock::Moment;
use crate::ids::{DeviceKey, EventId, RoomId, UserId};
use crate::model::batch::{
    AccountData, Batch, JoinedRoom, KeyRequest, LeftRoom, Receipt, StrippedRoom, SummaryUpdate, ToDeviceMessage,
};
use crate::model::event::{Event, ReceivedEvent};
use crate::model::room::Unread;
use crate::upstream::wire::{self, Fields, Response, Skipped};

/// A part ends after the room with which it reached so many events.
const EVENTS_PER_PART: usize = 2_000;

impl<'a> Response<'a> {
    /// Turns the whole response into one batch. `sent_at` is when the request was first sent with exactly these
    /// parameters, `received_at` when the response was in.
    pub fn into_batch(
        self,
        device: DeviceKey,
        since_in: Option<String>,
        sent_at: Moment,
        received_at: Moment,
    ) -> (Batch, Skipped) {
        let mut parts = Parts::new(self, device, since_in, sent_at, received_at);
        let batch = parts.read(usize::MAX, usize::MAX);
        (batch, parts.skipped)
    }

    /// Turns the response of a first sync into several batches, each read only when asked for and holding at most
    /// `rooms_per_part` joined rooms (at least one) or about 2,000 events. Rooms come in the order of their latest
    /// timeline event, newest first, so that a client's first window is complete after the first part. That also has
    /// invites and account data; what belongs to the device, and `next_batch`, is in the last alone.
    pub fn into_parts(
        mut self,
        device: DeviceKey,
        since_in: Option<String>,
        sent_at: Moment,
        received_at: Moment,
        rooms_per_part: usize,
    ) -> Parts<'a> {
        self.joined
            .sort_by_cached_key(|(_, room)| Reverse(latest_timestamp(room)));
        Parts {
            rooms_per_part: rooms_per_part.max(1),
            ..Parts::new(self, device, since_in, sent_at, received_at)
        }
    }
}

/// The parts of a first sync, see [`Response::into_parts`]. There is always at least one.
#[derive(Debug)]
pub struct Parts<'a> {
    head: Batch,
    joined: IntoIter<(RoomId, &'a RawValue)>,
    /// What is left of the response; `None` after the last part.
    rest: Option<Response<'a>>,
    is_first: bool,
    rooms_per_part: usize,
    skipped: Skipped,
}

impl<'a> Parts<'a> {
    fn new(
        mut response: Response<'a>,
        device: DeviceKey,
        since_in: Option<String>,
        sent_at: Moment,
        received_at: Moment,
    ) -> Self {
        Self {
            head: Batch {
                sent_at,
                received_at,
                ..Batch::empty(device, since_in)
            },
            joined: std::mem::take(&mut response.joined).into_iter(),
            skipped: response.skipped,
            rest: Some(response),
            is_first: true,
            rooms_per_part: usize::MAX,
        }
    }

    /// Returns what had to be left out of the parts so far.
    pub fn skipped(&self) -> Skipped {
        self.skipped
    }

    /// Returns the number of joined rooms in the parts still to come.
    pub fn rooms_left(&self) -> usize {
        self.joined.len()
    }

    fn read(&mut self, rooms: usize, events: usize) -> Batch {
        let skipped = &mut self.skipped;
        let mut batch = Batch {
            sent_at: self.head.sent_at,
            received_at: self.head.received_at,
            ..Batch::empty(self.head.device.clone(), self.head.since_in.clone())
        };
        if self.is_first
            && let Some(rest) = &self.rest
        {
            batch.account_data = rest.account_data.map_or_else(Vec::new, |section| {
                account_data(wire::events(section, skipped), skipped)
            });
            batch.invited = stripped(&rest.invited, "invite_state", skipped);
            batch.knocked = stripped(&rest.knocked, "knock_state", skipped);
        }
        self.is_first = false;
        let mut count = 0;
        while batch.joined.len() < rooms && count < events {
            let Some((room_id, raw)) = self.joined.next() else {
                break;
            };
            match joined(room_id, raw, skipped) {
                Some(room) => {
                    count += room.state.len() + room.timeline.len();
                    batch.joined.push(room);
                }
                None => skipped.rooms += 1,
            }
        }
        if self.joined.len() == 0
            && let Some(rest) = self.rest.take()
        {
            finish(&mut batch, rest, skipped);
        }
        batch
    }
}

impl Iterator for Parts<'_> {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        self.rest.as_ref()?;
        Some(self.read(self.rooms_per_part, EVENTS_PER_PART))
    }
}

/// Adds what is in the last part alone.
fn finish(batch: &mut Batch, rest: Response<'_>, skipped: &mut Skipped) {
    batch.next_batch = Some(rest.next_batch().to_owned());
    for (room_id, raw) in rest.left {
        match left(room_id, raw, skipped) {
            Some(room) => batch.left.push(room),
            None => skipped.rooms += 1,
        }
    }
    let messages = rest
        .to_device
        .map_or_else(Vec::new, |section| wire::events(section, skipped));
    for raw in messages {
        match to_device(raw) {
            Some(message) => batch.to_device.push(message),
            None => skipped.events += 1,
        }
    }
    if let Some(lists) = rest.device_lists.and_then(|section| Fields::of(section, skipped)) {
        batch.device_lists_changed = lists.users("changed", skipped).unwrap_or_default();
        batch.device_lists_left = lists.users("left", skipped).unwrap_or_default();
    }
    batch.one_time_keys = rest.one_time_keys;
    batch.fallback_types = rest.fallback_types;
}

/// `origin_server_ts` of the last timeline event. Chosen by its sender, so good enough only to say what comes first.
fn latest_timestamp(room: &RawValue) -> i64 {
    let unused = &mut Skipped::default();
    let latest = Fields::of(room, unused)
        .and_then(|room| room.events("timeline", unused).pop())
        .and_then(|event| Fields::of(event, unused)?.get("origin_server_ts"));
    latest.and_then(wire::integer).unwrap_or(0)
}

fn joined(room_id: RoomId, raw: &RawValue, skipped: &mut Skipped) -> Option<JoinedRoom> {
    let fields: Fields<'_> = serde_json::from_str(raw.get()).ok()?;
    let (state, state_after) = state(&fields, skipped);
    let timeline = timeline(&fields, skipped);
    let mut room = JoinedRoom {
        state,
        state_after,
        timeline: timeline.events,
        limited: timeline.limited,
        prev_batch: timeline.prev_batch,
        unread: unread(&fields, skipped),
        account_data: account_data(fields.events("account_data", skipped), skipped),
        ..JoinedRoom::empty(room_id)
    };
    if let Some(summary) = fields.section("summary", skipped) {
        room.summary = SummaryUpdate {
            heroes: summary.users("m.heroes", skipped),
            joined_count: summary.count("m.joined_member_count"),
            invited_count: summary.count("m.invited_member_count"),
        };
    }
    let mut receipts = Receipts::default();
    for event in fields.events("ephemeral", skipped) {
        let Some(event) = Fields::of(event, &mut Skipped::default()) else {
            skipped.events += 1;
            continue;
        };
        let kind = event.get("type").and_then(wire::text);
        let content = event.section("content", skipped).unwrap_or_default();
        match kind.as_deref() {
            Some("m.receipt") => receipts.read(&content, skipped),
            Some("m.typing") => match content.users("user_ids", skipped) {
                Some(users) => room.typing = Some(users),
                None => skipped.events += 1,
            },
            Some(_) => {}
            None => skipped.events += 1,
        }
    }
    room.receipts = receipts.all;
    Some(room)
}

fn left(room_id: RoomId, raw: &RawValue, skipped: &mut Skipped) -> Option<LeftRoom> {
    let fields: Fields<'_> = serde_json::from_str(raw.get()).ok()?;
    let timeline = timeline(&fields, skipped);
    Some(LeftRoom {
        room_id,
        state: state(&fields, skipped).0,
        timeline: timeline.events,
        limited: timeline.limited,
        prev_batch: timeline.prev_batch,
    })
}

/// The state of a room, and whether it is that after the timeline. Which of the two is told by the presence of the key
/// alone, as a homeserver may take the request parameter without knowing it (MSC4222).
fn state(room: &Fields<'_>, skipped: &mut Skipped) -> (Vec<ReceivedEvent>, bool) {
    let after = room
        .get("state_after")
        .or_else(|| room.get("org.matrix.msc4222.state_after"))
        .filter(|section| section.get().starts_with('{'));
    let raw = match after {
        Some(section) => wire::events(section, skipped),
        None => room.events("state", skipped),
    };
    (receive(raw, skipped), after.is_some())
}

/// Reads events one by one.
pub(super) fn receive(raw: Vec<&RawValue>, skipped: &mut Skipped) -> Vec<ReceivedEvent> {
    let total = raw.len();
    let events: Vec<ReceivedEvent> = raw.into_iter().filter_map(|raw| Event::receive(raw).ok()).collect();
    skipped.events += total - events.len();
    events
}

#[derive(Default)]
struct Timeline {
    events: Vec<ReceivedEvent>,
    limited: bool,
    prev_batch: Option<String>,
}

fn timeline(room: &Fields<'_>, skipped: &mut Skipped) -> Timeline {
    let Some(fields) = room.section("timeline", skipped) else {
        return Timeline::default();
    };
    let raw = fields.get("events").and_then(|raw| wire::list(raw, skipped));
    let mut events = receive(raw.unwrap_or_default(), skipped);
    let mut seen: HashSet<EventId> = HashSet::with_capacity(events.len());
    events.retain(|event| seen.insert(event.event.event_id.clone()));
    Timeline {
        events,
        limited: fields.get("limited").is_some_and(|raw| raw.get() == "true"),
        prev_batch: fields.get("prev_batch").and_then(wire::token),
    }
}

/// Counts of the main timeline and of all threads, which the filter asks for separately. A section that says nothing
/// changes nothing.
fn unread(room: &Fields<'_>, skipped: &mut Skipped) -> Option<Unread> {
    let threads = room
        .get("unread_thread_notifications")
        .or_else(|| room.get("org.matrix.msc3773.unread_thread_notifications"))
        .and_then(|raw| Fields::of(raw, skipped));
    let mut sections = Vec::new();
    sections.extend(room.section("unread_notifications", skipped));
    for (_, thread) in threads.unwrap_or_default().0 {
        sections.extend(Fields::of(thread, skipped));
    }
    let mut total: Option<Unread> = None;
    for section in sections {
        let notifications = section.count("notification_count");
        let highlights = section.count("highlight_count");
        if notifications.is_none() && highlights.is_none() {
            continue;
        }
        let total = total.get_or_insert_default();
        total.notification_count = total.notification_count.saturating_add(notifications.unwrap_or(0));
        total.highlight_count = total.highlight_count.saturating_add(highlights.unwrap_or(0));
    }
    total
}

/// Each type once, with its last value: homeservers have been seen to repeat a change inside one response.
fn account_data(raw: Vec<&RawValue>, skipped: &mut Skipped) -> Vec<AccountData> {
    let mut kept: Vec<AccountData> = Vec::with_capacity(raw.len());
    let mut places: HashMap<String, usize> = HashMap::new();
    for raw in raw {
        let kind = Fields::of(raw, &mut Skipped::default()).and_then(|fields| wire::id(fields.get("type")?));
        let Some(kind) = kind else {
            skipped.events += 1;
            continue;
        };
        let entry = AccountData {
            kind: kind.clone(),
            raw: raw.to_owned(),
        };
        match places.get(&kind) {
            Some(&place) => kept[place] = entry,
            None => {
                places.insert(kind, kept.len());
                kept.push(entry);
            }
        }
    }
    kept
}

fn stripped(rooms: &[(RoomId, &RawValue)], section: &str, skipped: &mut Skipped) -> Vec<StrippedRoom> {
    let mut read = Vec::with_capacity(rooms.len());
    for (room_id, raw) in rooms {
        let Ok(fields) = serde_json::from_str::<Fields<'_>>(raw.get()) else {
            skipped.rooms += 1;
            continue;
        };
        let mut events = fields.events(section, skipped);
        let total = events.len();
        events.retain(|event| event.get().starts_with('{'));
        skipped.events += total - events.len();
        read.push(StrippedRoom {
            room_id: room_id.clone(),
            events: events.into_iter().map(RawValue::to_owned).collect(),
        });
    }
    read
}

#[derive(Default)]
struct Receipts {
    all: Vec<Receipt>,
    places: HashMap<(UserId, String, EventId), usize>,
}

impl Receipts {
    /// Reads `{event: {type: {user: {ts, thread_id}}}}`.
    fn read(&mut self, content: &Fields<'_>, skipped: &mut Skipped) {
        for (event_id, kinds) in &content.0 {
            let Some(event_id) = wire::id(event_id).map(EventId::from) else {
                skipped.events += 1;
                continue;
            };
            for (kind, users) in Fields::of(kinds, skipped).unwrap_or_default().0 {
                let Some(kind) = wire::id(kind).filter(|kind| kind == "m.read" || kind == "m.read.private") else {
                    continue;
                };
                for (user_id, receipt) in Fields::of(users, skipped).unwrap_or_default().0 {
                    let user_id = wire::id(user_id).map(UserId::from);
                    let receipt = Fields::of(receipt, &mut Skipped::default());
                    let (Some(user_id), Some(receipt)) = (user_id, receipt) else {
                        skipped.events += 1;
                        continue;
                    };
                    let thread = receipt.get("thread_id").filter(|raw| !wire::is_null(raw));
                    let thread_id = thread.and_then(wire::id);
                    if thread.is_some() && thread_id.is_none() {
                        // Taken as unthreaded it would mark too much as read.
                        skipped.events += 1;
                        continue;
                    }
                    self.add(Receipt {
                        user_id,
                        kind: kind.clone(),
                        thread_id,
                        event_id: event_id.clone(),
                        ts: receipt.get("ts").and_then(wire::integer).unwrap_or(0),
                    });
                }
            }
        }
    }

    fn add(&mut self, receipt: Receipt) {
        let key = (receipt.user_id.clone(), receipt.kind.clone(), receipt.event_id.clone());
        match self.places.get(&key) {
            // MSC4102: of receipts of one user on one event the unthreaded one counts.
            Some(&place) if self.all[place].thread_id.is_none() && receipt.thread_id.is_some() => {}
            Some(&place) => self.all[place] = receipt,
            None => {
                self.places.insert(key, self.all.len());
                self.all.push(receipt);
            }
        }
    }
}

fn to_device(raw: &RawValue) -> Option<ToDeviceMessage> {
    let fields = Fields::of(raw, &mut Skipped::default())?;
    let kind = wire::text(fields.get("type")?)?;
    let key_request = (kind == "m.room_key_request").then(|| key_request(&fields)).flatten();
    Some(ToDeviceMessage {
        raw: raw.to_owned(),
        key_request,
    })
}

fn key_request(message: &Fields<'_>) -> Option<KeyRequest> {
    let content = message.section("content", &mut Skipped::default())?;
    let field = |fields: &Fields<'_>, name: &str| wire::id(fields.get(name)?);
    let cancels = match field(&content, "action")?.as_str() {
        "request" => false,
        "request_cancellation" => true,
        _ => return None,
    };
    // Each of the three may hold any character, so they are joined as JSON.
    let parts = [
        field(message, "sender")?,
        field(&content, "requesting_device_id")?,
        field(&content, "request_id")?,
    ];
    let key = serde_json::to_string(&parts).ok()?;
    Some(KeyRequest { key, cancels })
}

#[cfg(test)]
mod tests;
