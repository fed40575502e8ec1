//! A room event: the JSON as received without the parts that belong to one user, plus the few fields we read.

use std::borrow::Cow;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::ids::{EventId, UserId};

/// A room event as shared by everybody who may see it.
#[derive(Debug)]
pub struct Event {
    /// Its ID.
    pub event_id: EventId,
    /// `type`.
    pub event_type: Arc<str>,
    /// `state_key`; present exactly on state events, and possibly empty.
    pub state_key: Option<Arc<str>>,
    /// `sender`.
    pub sender: UserId,
    /// `origin_server_ts`, milliseconds; chosen by the sending server, so never an order. 0 when absent or unusable.
    pub origin_server_ts: i64,
    /// The JSON text as received, without per-user fields of `unsigned` (see [`ReceivedEvent`]).
    pub raw: Box<RawValue>,
}

/// An event as one device received it: the shared part, and what was for this device or user alone.
#[derive(Clone, Debug)]
pub struct ReceivedEvent {
    /// What everybody may see.
    pub event: Arc<Event>,
    /// `unsigned.transaction_id`, which the homeserver gives only to the sending device.
    pub transaction_id: Option<String>,
}

/// Why a piece of JSON is no event. Concerns that one event, never the response around it (upstream.md, RULE 1.d).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// Not JSON that we can read, or a field that we read has the wrong type.
    #[error("event is malformed")]
    Malformed,
    /// No `event_id`, or an empty one.
    #[error("event has no event_id")]
    NoEventId,
    /// A decoded string holds U+0000, which a text column cannot.
    #[error("event has a NUL character in an identifying field")]
    Nul,
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    event_id: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "type")]
    event_type: Cow<'a, str>,
    #[serde(borrow, default)]
    state_key: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    sender: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    origin_server_ts: Option<&'a RawValue>,
    #[serde(borrow, default)]
    unsigned: Option<&'a RawValue>,
}

/// Keys of `unsigned` that are true for one requester only (upstream.md section 9, rule 8).
const PERSONAL: [&str; 7] = [
    "transaction_id",
    "age",
    "age_ts",
    "membership",
    "io.element.msc4115.membership",
    "invite_room_state",
    "knock_room_state",
];

impl Event {
    /// Reads an event out of a v2 response and separates what is personal.
    pub fn receive(raw: &RawValue) -> Result<ReceivedEvent, EventError> {
        let text = raw.get();
        let head: Head<'_> = serde_json::from_str(text).map_err(|_| EventError::Malformed)?;
        let event_id = head
            .event_id
            .as_deref()
            .filter(|id| !id.is_empty())
            .ok_or(EventError::NoEventId)?;
        let sender = head.sender.as_deref().unwrap_or_default();
        let state_key = head.state_key.as_deref();
        let has_nul = |s: &str| s.contains('\0');
        if has_nul(event_id) || has_nul(&head.event_type) || has_nul(sender) || state_key.is_some_and(has_nul) {
            return Err(EventError::Nul);
        }
        let (raw, transaction_id) = match head.unsigned {
            Some(unsigned) => strip(text, unsigned.get())?,
            None => (raw.to_owned(), None),
        };
        Ok(ReceivedEvent {
            event: Arc::new(Event {
                event_id: EventId::from(event_id),
                event_type: Arc::from(&*head.event_type),
                state_key: state_key.map(Arc::from),
                sender: UserId::from(sender),
                origin_server_ts: head.origin_server_ts.map_or(0, |n| timestamp(n.get())),
                raw,
            }),
            transaction_id,
        })
    }

    /// Returns whether this is a state event.
    pub fn is_state(&self) -> bool {
        self.state_key.is_some()
    }

    /// Decodes `content` leniently: `None` if it does not have the wanted shape.
    pub fn content<'a, T: Deserialize<'a>>(&'a self) -> Option<T> {
        #[derive(Deserialize)]
        struct Content<'a> {
            #[serde(borrow)]
            content: &'a RawValue,
        }
        let outer: Content<'a> = serde_json::from_str(self.raw.get()).ok()?;
        serde_json::from_str(outer.content.get()).ok()
    }
}

/// Milliseconds out of a JSON number, also when written as a float; 0 for anything else.
fn timestamp(text: &str) -> i64 {
    if let Ok(n) = text.parse::<i64>() {
        return n;
    }
    match text.parse::<f64>() {
        // `as` saturates, which is what an absurd timestamp deserves.
        Ok(n) if n.is_finite() => n as i64,
        _ => 0,
    }
}

/// Removes personal keys from `unsigned` without touching any other byte. `unsigned` is a slice of `text`.
fn strip(text: &str, unsigned: &str) -> Result<(Box<RawValue>, Option<String>), EventError> {
    let own = |s: String| RawValue::from_string(s).map_err(|_| EventError::Malformed);
    let Ok(entries) = serde_json::from_str::<Entries<'_>>(unsigned) else {
        // `null`, or no object at all: nothing personal can be in it.
        return Ok((own(text.to_owned())?, None));
    };
    let is_personal = |key: &str| PERSONAL.contains(&key);
    if !entries.0.iter().any(|(key, _)| is_personal(key)) {
        return Ok((own(text.to_owned())?, None));
    }
    let mut transaction_id = None;
    let mut kept = String::with_capacity(unsigned.len());
    kept.push('{');
    for (key, value) in &entries.0 {
        if key == "transaction_id" {
            transaction_id = serde_json::from_str::<String>(value.get()).ok();
        }
        if is_personal(key) {
            continue;
        }
        if kept.len() > 1 {
            kept.push(',');
        }
        let key = serde_json::to_string(key).map_err(|_| EventError::Malformed)?;
        kept.push_str(&key);
        kept.push(':');
        kept.push_str(value.get());
    }
    kept.push('}');
    let start = unsigned.as_ptr() as usize - text.as_ptr() as usize;
    let mut out = String::with_capacity(text.len());
    out.push_str(&text[..start]);
    out.push_str(&kept);
    out.push_str(&text[start + unsigned.len()..]);
    Ok((own(out)?, transaction_id))
}

/// The entries of a JSON object in their order, repeated keys included.
pub(crate) struct Entries<'a>(pub(crate) Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<'a>(std::marker::PhantomData<&'a ()>);
        impl<'de: 'a, 'a> serde::de::Visitor<'de> for Visitor<'a> {
            type Value = Entries<'a>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: serde::de::MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut out = Vec::new();
                while let Some(key) = map.next_key::<String>()? {
                    out.push((Cow::Owned(key), map.next_value::<&'a RawValue>()?));
                }
                Ok(Entries(out))
            }
        }
        deserializer.deserialize_map(Visitor(std::marker::PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(text: &str) -> Result<ReceivedEvent, EventError> {
        Event::receive(&RawValue::from_string(text.to_owned()).expect("test JSON"))
    }

    #[test]
    fn personal_fields_are_cut_out_and_every_other_byte_stays() {
        let got = receive(
            r#"{ "type":"m.room.message","event_id":"$a", "sender":"@a:h","big":9007199254740993,"f":1.0e400,
                "unsigned": {"age":5,"x": [1, 2],"transaction_id":"t1","membership":"join"},"content":{"b":"\u0000"}}"#,
        )
        .unwrap();
        assert_eq!(got.transaction_id.as_deref(), Some("t1"));
        assert_eq!(
            got.event.raw.get(),
            r#"{ "type":"m.room.message","event_id":"$a", "sender":"@a:h","big":9007199254740993,"f":1.0e400,
                "unsigned": {"x":[1, 2]},"content":{"b":"\u0000"}}"#
        );
    }

    #[test]
    fn events_that_cannot_be_identified_are_refused() {
        assert_eq!(receive(r#"{"type":"m.x"}"#).unwrap_err(), EventError::NoEventId);
        assert_eq!(
            receive(r#"{"type":5,"event_id":"$a"}"#).unwrap_err(),
            EventError::Malformed
        );
        assert_eq!(
            receive(r#"{"type":"a","event_id":"$\u0000"}"#).unwrap_err(),
            EventError::Nul
        );
    }

    #[test]
    fn an_empty_state_key_is_a_state_key_and_null_is_none() {
        assert!(
            receive(r#"{"type":"a","event_id":"$a","state_key":""}"#)
                .unwrap()
                .event
                .is_state()
        );
        assert!(
            !receive(r#"{"type":"a","event_id":"$a","state_key":null}"#)
                .unwrap()
                .event
                .is_state()
        );
    }

    #[test]
    fn odd_timestamps_do_not_spoil_an_event() {
        for (text, ts) in [("12", 12), ("1.5e3", 1500), ("\"x\"", 0), ("null", 0)] {
            let event = receive(&format!(r#"{{"type":"a","event_id":"$a","origin_server_ts":{text}}}"#)).unwrap();
            assert_eq!(event.event.origin_server_ts, ts, "{text}");
        }
    }
}
