//! The shape of a v2 response, read in steps so that nothing broken can take the rest with it: the outer object, then
//! each room, then each event on its own. `null`, wrong types and missing fields are all fine, and what had to be left
//! out is counted.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::ids::{RoomId, UserId};
use crate::upstream::error::{Error, ErrorKind};

/// What could not be used of a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Events, receipts and entries of lists.
    pub events: usize,
    /// Rooms.
    pub rooms: usize,
    /// Whole sections that have the wrong type.
    pub sections: usize,
}

impl Skipped {
    /// Returns whether everything could be used.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// A v2 response: its outer structure, borrowed from the body.
#[derive(Debug)]
pub struct Response<'a> {
    next_batch: String,
    pub(super) account_data: Option<&'a RawValue>,
    pub(super) to_device: Option<&'a RawValue>,
    pub(super) device_lists: Option<&'a RawValue>,
    pub(super) one_time_keys: Option<BTreeMap<String, i64>>,
    pub(super) fallback_types: Option<Vec<String>>,
    pub(super) joined: Vec<(RoomId, &'a RawValue)>,
    pub(super) invited: Vec<(RoomId, &'a RawValue)>,
    pub(super) knocked: Vec<(RoomId, &'a RawValue)>,
    pub(super) left: Vec<(RoomId, &'a RawValue)>,
    pub(super) skipped: Skipped,
}

impl<'a> Response<'a> {
    /// Reads the outer structure of a response body. Fails only if the body is not one JSON object with a `next_batch`.
    pub fn parse(body: &'a [u8]) -> Result<Self, Error> {
        let bad = |message: &str| Error::new(ErrorKind::BadJson, message);
        let text = std::str::from_utf8(body).map_err(|_| bad("response is not UTF-8"))?;
        let outer: Fields<'_> = serde_json::from_str(text).map_err(|_| bad("response is not a JSON object"))?;
        let next_batch = outer
            .get("next_batch")
            .and_then(token)
            .ok_or_else(|| bad("response has no next_batch"))?;
        let mut skipped = Skipped::default();
        let one_time_keys = outer
            .section("device_one_time_keys_count", &mut skipped)
            .map(|counts| counts.counts(&mut skipped));
        let fallback_types = outer
            .get("device_unused_fallback_key_types")
            .or_else(|| outer.get("org.matrix.msc2732.device_unused_fallback_key_types"))
            .and_then(|raw| list(raw, &mut skipped))
            .map(|types| strings(&types, &mut skipped));
        let rooms = outer.section("rooms", &mut skipped).unwrap_or_default();
        let mut of = |section: &str| rooms_of(rooms.section(section, &mut skipped), &mut skipped);
        Ok(Self {
            joined: of("join"),
            invited: of("invite"),
            knocked: of("knock"),
            left: of("leave"),
            next_batch,
            account_data: outer.get("account_data"),
            to_device: outer.get("to_device"),
            device_lists: outer.get("device_lists"),
            one_time_keys,
            fallback_types,
            skipped,
        })
    }

    /// Returns the token that the next request is to send as `since`.
    pub fn next_batch(&self) -> &str {
        &self.next_batch
    }

    /// Returns whether there is nothing but `next_batch`. Synapse sends the key fields always, see
    /// [`Response::is_quiet`].
    pub fn is_empty(&self) -> bool {
        self.is_quiet() && self.one_time_keys.is_none() && self.fallback_types.is_none()
    }

    /// Returns whether there is nothing but `next_batch` and perhaps the state of the device's keys, which is news only
    /// if it differs from what is known.
    pub fn is_quiet(&self) -> bool {
        self.room_count() == 0
            && self.skipped.is_nothing()
            && [self.account_data, self.to_device, self.device_lists]
                .into_iter()
                .flatten()
                .all(holds_nothing)
    }

    /// Returns the number of rooms in all sections.
    pub fn room_count(&self) -> usize {
        self.joined.len() + self.invited.len() + self.knocked.len() + self.left.len()
    }

    /// Returns `device_one_time_keys_count`; `None` when the response has no such field.
    pub fn one_time_keys(&self) -> Option<&BTreeMap<String, i64>> {
        self.one_time_keys.as_ref()
    }

    /// Returns `device_unused_fallback_key_types`; `None` when the response has no such field.
    pub fn fallback_types(&self) -> Option<&[String]> {
        self.fallback_types.as_deref()
    }
}

/// Whether a section is no object, or an object in which everything is empty.
fn holds_nothing(section: &RawValue) -> bool {
    serde_json::from_str::<Fields<'_>>(section.get()).map_or(true, |fields| {
        fields.0.iter().all(|(_, value)| {
            let text = value.get().as_bytes();
            text == b"null" || matches!(text, [b'[', inner @ .., b']'] if inner.trim_ascii().is_empty())
        })
    })
}

fn rooms_of<'a>(section: Option<Fields<'a>>, skipped: &mut Skipped) -> Vec<(RoomId, &'a RawValue)> {
    let entries = section.unwrap_or_default().0;
    let mut rooms: Vec<(RoomId, &RawValue)> = Vec::with_capacity(entries.len());
    let mut places: HashMap<RoomId, usize> = HashMap::with_capacity(entries.len());
    for (key, value) in entries {
        let Some(id) = id(key).filter(|_| value.get().starts_with('{')).map(RoomId::from) else {
            skipped.rooms += 1;
            continue;
        };
        match places.get(&id) {
            // Of a repeated key the last counts, as everywhere in JSON.
            Some(&place) => {
                skipped.rooms += 1;
                rooms[place].1 = value;
            }
            None => {
                places.insert(id.clone(), rooms.len());
                rooms.push((id, value));
            }
        }
    }
    rooms
}

/// The entries of a JSON object. Keys stay undecoded, so that one that cannot be decoded spoils only itself.
#[derive(Debug, Default)]
pub(super) struct Fields<'a>(pub(super) Vec<(&'a RawValue, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<'a>(std::marker::PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for Entries<'a> {
            type Value = Fields<'a>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Fields(entries))
            }
        }
        deserializer.deserialize_map(Entries(std::marker::PhantomData))
    }
}

impl<'a> Fields<'a> {
    /// Reads an object; `null` is none, and anything else is a skipped section.
    pub(super) fn of(raw: &'a RawValue, skipped: &mut Skipped) -> Option<Self> {
        if is_null(raw) {
            return None;
        }
        let fields = serde_json::from_str(raw.get()).ok();
        skipped.sections += usize::from(fields.is_none());
        fields
    }

    /// The value of a key, which has nothing to escape. `null` is a value here.
    pub(super) fn get(&self, name: &str) -> Option<&'a RawValue> {
        let is_it = |key: &RawValue| key.get().get(1..key.get().len() - 1) == Some(name);
        let (_, value) = self.0.iter().rev().find(|(key, _)| is_it(key))?;
        Some(value)
    }

    /// The object under a key.
    pub(super) fn section(&self, name: &str, skipped: &mut Skipped) -> Option<Self> {
        self.get(name).and_then(|raw| Fields::of(raw, skipped))
    }

    /// `{"events": […]}` under a key; nothing if any of that is missing.
    pub(super) fn events(&self, name: &str, skipped: &mut Skipped) -> Vec<&'a RawValue> {
        self.get(name).map_or_else(Vec::new, |raw| events(raw, skipped))
    }

    /// The list of IDs under a key.
    pub(super) fn users(&self, name: &str, skipped: &mut Skipped) -> Option<Vec<UserId>> {
        let users = list(self.get(name)?, skipped)?;
        Some(strings(&users, skipped).into_iter().map(UserId::from).collect())
    }

    /// A count under a key. Negative ones and other nonsense are as good as missing.
    pub(super) fn count(&self, name: &str) -> Option<i64> {
        count(self.get(name)?)
    }

    /// This object as counts by name.
    pub(super) fn counts(&self, skipped: &mut Skipped) -> BTreeMap<String, i64> {
        let mut counts = BTreeMap::new();
        for (key, value) in &self.0 {
            match (id(key), count(value)) {
                (Some(key), Some(value)) => drop(counts.insert(key, value)),
                _ => skipped.events += 1,
            }
        }
        counts
    }
}

/// The `events` of an object.
pub(super) fn events<'a>(raw: &'a RawValue, skipped: &mut Skipped) -> Vec<&'a RawValue> {
    Fields::of(raw, skipped)
        .and_then(|fields| list(fields.get("events")?, skipped))
        .unwrap_or_default()
}

/// Reads a list; `null` is none, and anything else is a skipped section.
pub(super) fn list<'a>(raw: &'a RawValue, skipped: &mut Skipped) -> Option<Vec<&'a RawValue>> {
    if is_null(raw) {
        return None;
    }
    let list = serde_json::from_str(raw.get()).ok();
    skipped.sections += usize::from(list.is_none());
    list
}

/// The usable strings of a list.
pub(super) fn strings(list: &[&RawValue], skipped: &mut Skipped) -> Vec<String> {
    let usable: Vec<String> = list.iter().filter_map(|raw| id(raw)).collect();
    skipped.events += list.len() - usable.len();
    usable
}

pub(super) fn is_null(raw: &RawValue) -> bool {
    raw.get() == "null"
}

/// A string that can identify something: not empty, and without U+0000, which a text column cannot hold.
pub(super) fn id(raw: &RawValue) -> Option<String> {
    text(raw).filter(|text| !text.is_empty() && !text.contains('\0'))
}

/// Any string.
pub(super) fn text(raw: &RawValue) -> Option<String> {
    serde_json::from_str(raw.get()).ok()
}

/// A pagination or sync token; a number is taken as its text.
pub(super) fn token(raw: &RawValue) -> Option<String> {
    id(raw).or_else(|| {
        let text = raw.get();
        let is_number = text.starts_with(|c: char| c == '-' || c.is_ascii_digit());
        is_number.then(|| text.to_owned())
    })
}

/// An integer, also when written as a float.
pub(super) fn integer(raw: &RawValue) -> Option<i64> {
    let text = raw.get();
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    let is_number = text.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    let number: f64 = text.parse().ok().filter(|_| is_number)?;
    // Saturates.
    Some(number as i64)
}

fn count(raw: &RawValue) -> Option<i64> {
    integer(raw).filter(|count| *count >= 0)
}
