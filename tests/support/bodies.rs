//! Builders for what a homeserver says: events, v2 responses, and one very large first response.

#![allow(dead_code, reason = "no test binary uses everything")]

use std::fmt::Write;

use bytes::Bytes;
use serde_json::{Value, json};

/// Returns an `m.room.message` event.
pub fn message(event_id: &str, sender: &str, ts: i64, body: &str) -> Value {
    json!({
        "type": "m.room.message", "event_id": event_id, "sender": sender, "origin_server_ts": ts,
        "content": {"msgtype": "m.text", "body": body},
    })
}

/// Returns a state event.
pub fn state(event_id: &str, sender: &str, ts: i64, event_type: &str, state_key: &str, content: Value) -> Value {
    json!({
        "type": event_type, "event_id": event_id, "sender": sender, "origin_server_ts": ts,
        "state_key": state_key, "content": content,
    })
}

/// Returns an `m.room.member` event by the member.
pub fn member(event_id: &str, user_id: &str, ts: i64, membership: &str, displayname: &str) -> Value {
    let content = json!({"membership": membership, "displayname": displayname});
    state(event_id, user_id, ts, "m.room.member", user_id, content)
}

/// Returns a response that brings nothing.
pub fn v2() -> V2 {
    V2 { body: json!({}) }
}

/// A v2 response without `next_batch`, which the homeserver adds.
#[derive(Clone, Debug)]
pub struct V2 {
    body: Value,
}

impl From<V2> for Value {
    fn from(response: V2) -> Self {
        response.body
    }
}

impl V2 {
    /// Adds a room under `join`.
    pub fn join(self, room_id: &str, build: impl FnOnce(Room) -> Room) -> Self {
        self.room("join", room_id, build(Room::default()).body)
    }

    /// Adds a room under `leave`.
    pub fn leave(self, room_id: &str, build: impl FnOnce(Room) -> Room) -> Self {
        self.room("leave", room_id, build(Room::default()).body)
    }

    /// Adds a room under `invite`.
    pub fn invite(self, room_id: &str, events: impl IntoIterator<Item = Value>) -> Self {
        let events: Vec<Value> = events.into_iter().collect();
        self.room("invite", room_id, json!({"invite_state": {"events": events}}))
    }

    /// Adds a room under `knock`.
    pub fn knock(self, room_id: &str, events: impl IntoIterator<Item = Value>) -> Self {
        let events: Vec<Value> = events.into_iter().collect();
        self.room("knock", room_id, json!({"knock_state": {"events": events}}))
    }

    fn room(mut self, section: &str, room_id: &str, room: Value) -> Self {
        self.body["rooms"][section][room_id] = room;
        self
    }

    /// Adds a to-device message, which the ledger knows by `message_id`.
    #[expect(clippy::wrong_self_convention, reason = "named after the section of the response")]
    pub fn to_device(mut self, message_id: &str, sender: &str, event_type: &str, mut content: Value) -> Self {
        content["message_id"] = json!(message_id);
        let message = json!({"type": event_type, "sender": sender, "content": content});
        append(&mut self.body["to_device"]["events"], message);
        self
    }

    /// Adds global account data.
    pub fn account_data(mut self, event_type: &str, content: Value) -> Self {
        let event = json!({"type": event_type, "content": content});
        append(&mut self.body["account_data"]["events"], event);
        self
    }

    /// Sets the one-time-key counts and the unused fallback key types.
    pub fn keys(mut self, counts: Value, fallback_types: &[&str]) -> Self {
        self.body["device_one_time_keys_count"] = counts;
        self.body["device_unused_fallback_key_types"] = json!(fallback_types);
        self
    }

    /// Sets the device-list changes.
    pub fn device_lists(mut self, changed: &[&str], left: &[&str]) -> Self {
        self.body["device_lists"] = json!({"changed": changed, "left": left});
        self
    }
}

/// A room under `join` or `leave`.
#[derive(Clone, Debug)]
pub struct Room {
    body: Value,
}

impl Default for Room {
    fn default() -> Self {
        Self { body: json!({}) }
    }
}

impl Room {
    /// Adds to the state block.
    pub fn state(mut self, events: impl IntoIterator<Item = Value>) -> Self {
        for event in events {
            append(&mut self.body["state"]["events"], event);
        }
        self
    }

    /// Adds to the timeline.
    pub fn timeline(mut self, events: impl IntoIterator<Item = Value>) -> Self {
        for event in events {
            append(&mut self.body["timeline"]["events"], event);
        }
        self
    }

    /// Makes the timeline limited.
    pub fn limited(mut self, prev_batch: &str) -> Self {
        self.body["timeline"]["limited"] = json!(true);
        self.body["timeline"]["prev_batch"] = json!(prev_batch);
        self
    }

    /// Sets the summary.
    pub fn summary(mut self, heroes: &[&str], joined: i64, invited: i64) -> Self {
        self.body["summary"] = json!({
            "m.heroes": heroes, "m.joined_member_count": joined, "m.invited_member_count": invited,
        });
        self
    }

    /// Sets the unread counts.
    pub fn unread(mut self, notification_count: i64, highlight_count: i64) -> Self {
        self.body["unread_notifications"] =
            json!({"notification_count": notification_count, "highlight_count": highlight_count});
        self
    }

    /// Adds account data of the room.
    pub fn account_data(mut self, event_type: &str, content: Value) -> Self {
        let event = json!({"type": event_type, "content": content});
        append(&mut self.body["account_data"]["events"], event);
        self
    }

    /// Sets who types.
    pub fn typing(mut self, user_ids: &[&str]) -> Self {
        let event = json!({"type": "m.typing", "content": {"user_ids": user_ids}});
        append(&mut self.body["ephemeral"]["events"], event);
        self
    }

    /// Adds a public, unthreaded receipt.
    pub fn receipt(mut self, event_id: &str, user_id: &str, ts: i64) -> Self {
        let event = json!({"type": "m.receipt", "content": {event_id: {"m.read": {user_id: {"ts": ts}}}}});
        append(&mut self.body["ephemeral"]["events"], event);
        self
    }
}

fn append(list: &mut Value, value: Value) {
    match list {
        Value::Array(values) => values.push(value),
        other => *other = json!([value]),
    }
}

/// Room ID of the `n`-th room of [`account`].
pub fn account_room(n: usize) -> String {
    format!("!room{n}:load.example")
}

/// Renders the first response of an account with `rooms` rooms and about `bytes_target` bytes (0: as large as is
/// typical, about 18 kB per room). The same arguments give the same bytes.
pub fn account(seed: u64, rooms: usize, bytes_target: usize) -> Bytes {
    const EVENTS: usize = 20;
    const STATE_BYTES: usize = 3_300;
    const LEAST_EVENT: usize = 300;
    let per_room = match bytes_target {
        0 => STATE_BYTES + EVENTS * 700,
        bytes => bytes / rooms.max(1),
    };
    let for_timeline = per_room.saturating_sub(STATE_BYTES);
    let events = EVENTS.min(for_timeline / LEAST_EVENT).max(1);
    let event_bytes = (for_timeline / events).max(LEAST_EVENT);
    let mut random = Random(seed);
    let mut out = String::with_capacity(rooms * (per_room + 500) + 1_000);
    out.push_str(r#"{"device_one_time_keys_count":{"signed_curve25519":50},"rooms":{"join":{"#);
    for n in 0..rooms {
        if n > 0 {
            out.push(',');
        }
        room(&mut out, &mut random, n, events, event_bytes);
    }
    out.push_str("}}}");
    Bytes::from(out)
}

fn room(out: &mut String, random: &mut Random, n: usize, events: usize, event_bytes: usize) {
    let named = random.below(100) < 60;
    let encrypted = random.below(100) < 30;
    let members = if named {
        3 + random.below(200)
    } else {
        2 + random.below(5)
    };
    let user = |i: u64| format!("@user{}:load.example", (n as u64 * 7 + i) % 5_000);
    // Rooms were last used at moments spread over a year.
    let last_used = 1_700_000_000_000 + random.below(31_536_000_000);
    let created = last_used - 86_400_000 * 30;
    let mut state: Vec<(&str, String, String, String)> = vec![
        (
            "m.room.create",
            String::new(),
            user(0),
            r#"{"room_version":"10"}"#.to_owned(),
        ),
        (
            "m.room.power_levels",
            String::new(),
            user(0),
            format!(
                r#"{{"users":{{"{}":100}},"users_default":0,"events_default":0,"state_default":50,"ban":50,"kick":50}}"#,
                user(0)
            ),
        ),
        (
            "m.room.join_rules",
            String::new(),
            user(0),
            r#"{"join_rule":"invite"}"#.to_owned(),
        ),
        (
            "m.room.history_visibility",
            String::new(),
            user(0),
            r#"{"history_visibility":"shared"}"#.to_owned(),
        ),
    ];
    if named {
        state.push((
            "m.room.name",
            String::new(),
            user(0),
            format!(r#"{{"name":"Room {n} of {}"}}"#, random.below(1_000)),
        ));
    }
    if encrypted {
        state.push((
            "m.room.encryption",
            String::new(),
            user(0),
            r#"{"algorithm":"m.megolm.v1.aes-sha2"}"#.to_owned(),
        ));
    }
    let heroes = members.min(5);
    for i in 0..heroes {
        state.push((
            "m.room.member",
            user(i),
            user(i),
            format!(
                r#"{{"membership":"join","displayname":"User {i} of {n}","avatar_url":"mxc://load.example/{n}x{i}"}}"#
            ),
        ));
    }
    let _ = write!(out, r#""{}":{{"state":{{"events":["#, account_room(n));
    for (i, (event_type, state_key, sender, content)) in state.iter().enumerate() {
        let comma = if i > 0 { "," } else { "" };
        let _ = write!(
            out,
            r#"{comma}{{"type":"{event_type}","state_key":"{state_key}","sender":"{sender}","event_id":"$state{n}x{i}:{:016x}","origin_server_ts":{created},"content":{content},"unsigned":{{"age":1}}}}"#,
            random.next()
        );
    }
    let _ = write!(
        out,
        r#"]}},"timeline":{{"limited":true,"prev_batch":"p{n}_1","events":["#
    );
    for i in 0..events {
        let comma = if i > 0 { "," } else { "" };
        let ts = last_used - ((events - i) as u64) * (1_000 + random.below(600_000));
        let from = out.len();
        let (event_type, open, close) = if encrypted {
            (
                "m.room.encrypted",
                r#"{"algorithm":"m.megolm.v1.aes-sha2","ciphertext":""#,
                r#""}"#,
            )
        } else {
            ("m.room.message", r#"{"msgtype":"m.text","body":""#, r#""}"#)
        };
        let _ = write!(
            out,
            r#"{comma}{{"type":"{event_type}","sender":"{}","event_id":"$event{n}x{i}:{:016x}","origin_server_ts":{ts},"unsigned":{{"age":1}},"content":{open}"#,
            user(random.below(heroes)),
            random.next()
        );
        while out.len() - from + close.len() + 1 < event_bytes {
            let _ = write!(out, "{:x} ", random.next());
        }
        out.push_str(close);
        out.push('}');
    }
    let _ = write!(
        out,
        r#"]}},"summary":{{"m.joined_member_count":{},"m.invited_member_count":0,"m.heroes":["#,
        members + 1
    );
    for i in 0..heroes {
        let comma = if i > 0 { "," } else { "" };
        let _ = write!(out, r#"{comma}"{}""#, user(i));
    }
    let _ = write!(
        out,
        r#"]}},"unread_notifications":{{"notification_count":{},"highlight_count":0}}}}"#,
        random.below(4)
    );
}

/// SplitMix64: the same numbers on every machine and with every version of every crate.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }
}

/// Returns what makes a room: create, the members' joins, a name. Event IDs are derived from the room's.
pub fn room_state(room_id: &str, name: &str, members: &[&str]) -> Vec<Value> {
    let creator = members[0];
    let id = |what: &str| format!("${what}{}", room_id.replace(['!', ':'], "_"));
    let mut events = vec![state(
        &id("create"),
        creator,
        1,
        "m.room.create",
        "",
        json!({"room_version": "10"}),
    )];
    for (n, user_id) in members.iter().enumerate() {
        events.push(state(
            &id(&format!("member{n}")),
            user_id,
            2,
            "m.room.member",
            user_id,
            json!({"membership": "join"}),
        ));
    }
    events.push(state(&id("name"), creator, 3, "m.room.name", "", json!({"name": name})));
    events
}

/// Returns a v2 response with one joined room.
pub fn joined(room_id: &str, state: Vec<Value>, timeline: Vec<Value>, members: i64) -> Value {
    v2().join(room_id, |room| {
        room.state(state)
            .timeline(timeline)
            .summary(&[], members, 0)
            .unread(0, 0)
    })
    .into()
}
