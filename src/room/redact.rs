//! Redaction: which event is meant, and what remains of it by the rules of the room's version.

use serde_json::value::RawValue;

use crate::ids::EventId;
use crate::model::event::Event;
use crate::room::content::Fields;

/// The newest room version whose rules are known here.
const NEWEST: u32 = 12;

/// Returns the ID of the event that an `m.room.redaction` event redacts: `content.redacts` since room version 11,
/// before that `redacts`. Servers write both for old clients, so each stands in for the other.
pub fn target(redaction: &Event, room_version: &str) -> Option<EventId> {
    let top = Fields::of(&redaction.raw).text("redacts");
    let content = Fields::of_content(redaction).text("redacts");
    let id = if rules(room_version) >= 11 {
        content.or(top)
    } else {
        top.or(content)
    };
    id.map(EventId::from)
}

/// Returns what remains of `event`, with `unsigned.redacted_because` telling why.
pub fn redacted(event: &Event, redaction: &Event, room_version: &str) -> Event {
    let version = rules(room_version);
    let fields = Fields::of(&event.raw);
    let mut out = Object::new();
    for (key, value) in fields.iter() {
        match key {
            "content" => out.put(key, &kept_content(event, version)),
            _ if keeps(key, version) => out.put(key, value.get()),
            _ => {}
        }
    }
    if fields.is_empty() {
        // The event was read once, but not by the reader used here: keep what that one found.
        out.put_text("type", &event.event_type);
        out.put_text("event_id", event.event_id.as_str());
        out.put_text("sender", event.sender.as_str());
        if let Some(state_key) = &event.state_key {
            out.put_text("state_key", state_key);
        }
        out.put("origin_server_ts", &event.origin_server_ts.to_string());
        out.put("content", "{}");
    }
    let mut unsigned = Object::new();
    unsigned.put("redacted_because", redaction.raw.get());
    out.put("unsigned", &unsigned.finish());
    Event {
        event_id: event.event_id.clone(),
        event_type: event.event_type.clone(),
        state_key: event.state_key.clone(),
        sender: event.sender.clone(),
        origin_server_ts: event.origin_server_ts,
        // What was put together from valid values is valid; if it ever were not, nothing of the event may remain.
        raw: RawValue::from_string(out.finish()).unwrap_or_else(|_| RawValue::NULL.to_owned()),
    }
}

/// The room version as a number; rules of unknown versions are those of version 1.
fn rules(room_version: &str) -> u32 {
    let number = room_version.parse().ok();
    number.filter(|version| (1..=NEWEST).contains(version)).unwrap_or(1)
}

/// Whether a top-level key of an event survives.
fn keeps(key: &str, version: u32) -> bool {
    match key {
        "event_id" | "type" | "room_id" | "sender" | "state_key" | "hashes" | "signatures" | "depth"
        | "prev_events" | "auth_events" | "origin_server_ts" => true,
        "prev_state" | "origin" | "membership" => version < 11,
        _ => false,
    }
}

/// `content` without what a redaction removes.
fn kept_content(event: &Event, version: u32) -> String {
    let content = Fields::of_content(event);
    let mut out = Object::new();
    for (key, value) in content.iter() {
        let keep = match (&*event.event_type, key) {
            ("m.room.member", "membership") => true,
            ("m.room.member", "join_authorised_via_users_server") => version >= 9,
            ("m.room.member", "third_party_invite") if version >= 11 => {
                if let Some(signed) = Fields::of(value).raw("signed") {
                    let mut invite = Object::new();
                    invite.put("signed", signed.get());
                    out.put(key, &invite.finish());
                }
                false
            }
            ("m.room.create", "creator") => true,
            ("m.room.create", _) => version >= 11,
            ("m.room.join_rules", "join_rule") => true,
            ("m.room.join_rules", "allow") => version >= 8,
            (
                "m.room.power_levels",
                "ban" | "events" | "events_default" | "kick" | "redact" | "state_default" | "users" | "users_default",
            ) => true,
            ("m.room.power_levels", "invite") => version >= 11,
            ("m.room.aliases", "aliases") => version < 6,
            ("m.room.history_visibility", "history_visibility") => true,
            ("m.room.redaction", "redacts") => version >= 11,
            _ => false,
        };
        if keep {
            out.put(key, value.get());
        }
    }
    out.finish()
}

/// A JSON object written key by key, so that kept values keep every byte.
struct Object(String);

impl Object {
    fn new() -> Self {
        Self("{".to_owned())
    }

    fn put(&mut self, key: &str, value: &str) {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push_str(&serde_json::Value::from(key).to_string());
        self.0.push(':');
        self.0.push_str(value);
    }

    fn put_text(&mut self, key: &str, text: &str) {
        self.put(key, &serde_json::Value::from(text).to_string());
    }

    fn finish(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

#[cfg(test)]
mod tests;
