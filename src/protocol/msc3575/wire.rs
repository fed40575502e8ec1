//! MSC3575 requests as they come in: decoding, and the checks that need no connection (msc3575.md sections 2 and 3).

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::ids::{ConnId, RoomId};
use crate::model::event::Entries;
use crate::protocol::Refusal;
use crate::protocol::sliding::filter::Filters;
use crate::protocol::sliding::range::{self, Range};
use crate::protocol::sliding::required_state::Entry;

/// Longest `conn_id`, in bytes (MSC3575 as served so far).
pub const MAX_CONN_ID_BYTES: usize = 16;
/// Longest `txn_id`, in bytes (MSC3575 as served so far).
pub const MAX_TXN_ID_BYTES: usize = 64;
/// Most lists of one connection (MSC3575).
pub const MAX_LISTS: usize = 100;
/// Longest name of a list, in bytes (MSC3575).
pub const MAX_LIST_NAME_BYTES: usize = 64;
/// Most ranges of one list. Ours, far above what clients use.
pub const MAX_RANGES: usize = 500;
/// Most events of a snapshot's timeline; more may be asked for and are not given (MSC3575 as served so far).
pub const MAX_TIMELINE: usize = 50;
const DEFAULT_TIMEOUT_MS: i64 = 10_000;
/// Shortest wait, in ms.
pub const MIN_TIMEOUT_MS: u64 = 100;
const MAX_TIMEOUT_MS: u64 = 120_000;

/// Query parameters as received.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// `pos`.
    pub pos: Option<String>,
    /// `timeout`.
    pub timeout: Option<String>,
}

/// A request with everything in it that can be judged without a connection.
#[derive(Clone, Debug)]
pub struct Request {
    conn_id: ConnId,
    query: Query,
    pub(super) txn_id: Option<String>,
    pub(super) body: Body,
}

/// The body without `txn_id` and `conn_id`: bodies that are equal ask the same.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Body {
    pub(super) lists: Option<Lists>,
    pub(super) room_subscriptions: BTreeMap<RoomId, RoomRequest>,
    pub(super) unsubscribe_rooms: Vec<RoomId>,
    pub(super) extensions: ExtensionsRequest,
}

/// `lists` in one of its two shapes.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Lists {
    Map(BTreeMap<String, ListRequest>),
    Array(Vec<ListRequest>),
}

/// One list; `None` stands for an absent field.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ListRequest {
    pub(super) ranges: Option<Vec<Range>>,
    pub(super) sort: Option<Vec<String>>,
    pub(super) filters: Option<Filters>,
    pub(super) slow_get_all_rooms: Option<bool>,
    pub(super) bump_event_types: Option<Vec<String>>,
    pub(super) deleted: bool,
    pub(super) room: RoomRequest,
}

/// Room parameters of a list or subscription.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct RoomRequest {
    pub(super) required_state: Option<Vec<Entry>>,
    pub(super) timeline_limit: Option<usize>,
    pub(super) include_heroes: Option<bool>,
    /// Kept as text: so far only for comparing bodies.
    pub(super) include_old_rooms: Option<String>,
}

/// Extensions that are served; all others are ignored.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ExtensionsRequest {
    pub(super) to_device: Option<ToDeviceRequest>,
    pub(super) e2ee: Option<E2eeRequest>,
    pub(super) account_data: Option<ScopedRequest>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ToDeviceRequest {
    pub(super) enabled: Option<bool>,
    pub(super) since: Option<String>,
    pub(super) limit: Option<usize>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct E2eeRequest {
    pub(super) enabled: Option<bool>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ScopedRequest {
    pub(super) enabled: Option<bool>,
    pub(super) lists: Option<Vec<String>>,
    pub(super) rooms: Option<Vec<RoomId>>,
}

impl Request {
    /// Decodes a request. An empty body is `{}`. `pos` and `timeout` are judged when the request is accepted.
    pub fn parse(body: &[u8], query: Query) -> Result<Self, Refusal> {
        let body = if body.is_empty() { b"{}" } else { body };
        let raw: &RawValue = serde_json::from_slice(body).map_err(|e| Refusal::NotJson(e.to_string()))?;
        // All types first: a wrong type anywhere wins over a bad value anywhere.
        let decoded = Decoded::read(raw)?;
        decoded.check(query)
    }

    /// Returns which of the device's connections is meant.
    pub fn conn_id(&self) -> &ConnId {
        &self.conn_id
    }

    /// Returns whether the request continues a connection.
    pub fn has_pos(&self) -> bool {
        self.pos().is_some()
    }

    pub(super) fn pos(&self) -> Option<&str> {
        self.query.pos.as_deref().filter(|pos| !pos.is_empty())
    }

    /// Returns the wait the client asks for, in ms, clamped.
    pub(super) fn timeout_ms(&self) -> Result<u64, Refusal> {
        let millis = match self.query.timeout.as_deref().filter(|text| !text.is_empty()) {
            Some(text) => text
                .parse::<i64>()
                .map_err(|_| Refusal::InvalidParam(format!("invalid timeout: {text}")))?,
            None => DEFAULT_TIMEOUT_MS,
        };
        Ok(u64::try_from(millis).unwrap_or(0).clamp(MIN_TIMEOUT_MS, MAX_TIMEOUT_MS))
    }
}

/// A JSON object whose fields are read one by one, so that an error can name the field.
struct Object<'a> {
    path: String,
    entries: Vec<(Cow<'a, str>, &'a RawValue)>,
}

impl<'a> Object<'a> {
    fn read(path: &str, raw: &'a RawValue) -> Result<Self, Refusal> {
        let entries: Entries<'a> = typed(if path.is_empty() { "body" } else { path }, raw)?;
        Ok(Self {
            path: path.to_owned(),
            entries: entries.0,
        })
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// Returns the value; `null` counts as absent, and the last one of repeated keys counts.
    fn raw(&self, key: &str) -> Option<&'a RawValue> {
        let (_, raw) = self.entries.iter().rev().find(|(k, _)| k == key)?;
        (raw.get() != "null").then_some(*raw)
    }

    fn field<T: Deserialize<'a>>(&self, key: &str) -> Result<Option<T>, Refusal> {
        self.raw(key).map(|raw| typed(&self.path_of(key), raw)).transpose()
    }

    fn object(&self, key: &str) -> Result<Option<Object<'a>>, Refusal> {
        self.raw(key)
            .map(|raw| Object::read(&self.path_of(key), raw))
            .transpose()
    }
}

fn typed<'a, T: Deserialize<'a>>(path: &str, raw: &'a RawValue) -> Result<T, Refusal> {
    serde_json::from_str(raw.get()).map_err(|e| Refusal::BadJson(format!("{path}: {e}")))
}

/// The body with its types checked, but not its values.
struct Decoded {
    conn_id: String,
    txn_id: String,
    lists: Option<DecodedLists>,
    room_subscriptions: BTreeMap<RoomId, DecodedRoom>,
    unsubscribe_rooms: Vec<RoomId>,
    to_device: Option<DecodedToDevice>,
    e2ee: Option<E2eeRequest>,
    account_data: Option<ScopedRequest>,
}

enum DecodedLists {
    Map(BTreeMap<String, DecodedList>),
    Array(Vec<DecodedList>),
}

struct DecodedList {
    ranges: Option<Vec<Vec<i64>>>,
    sort: Option<Vec<String>>,
    filters: Option<Filters>,
    slow_get_all_rooms: Option<bool>,
    bump_event_types: Option<Vec<String>>,
    deleted: bool,
    room: DecodedRoom,
}

struct DecodedRoom {
    required_state: Option<Vec<Vec<String>>>,
    timeline_limit: Option<i64>,
    include_heroes: Option<bool>,
    include_old_rooms: Option<String>,
}

struct DecodedToDevice {
    enabled: Option<bool>,
    since: Option<String>,
    limit: Option<i64>,
}

impl Decoded {
    fn read(raw: &RawValue) -> Result<Self, Refusal> {
        let body = Object::read("", raw)?;
        let lists = match body.raw("lists") {
            None => None,
            Some(raw) if raw.get().starts_with('[') => {
                let elements: Vec<&RawValue> = typed("lists", raw)?;
                let lists = elements.iter().enumerate();
                let lists = lists.map(|(i, raw)| DecodedList::read(&format!("lists[{i}]"), raw));
                Some(DecodedLists::Array(lists.collect::<Result<_, _>>()?))
            }
            Some(raw) => {
                let lists = Object::read("lists", raw)?;
                let named = lists.entries.iter().filter(|(_, raw)| raw.get() != "null");
                let named =
                    named.map(|(name, raw)| Ok((name.to_string(), DecodedList::read(&format!("lists.{name}"), raw)?)));
                Some(DecodedLists::Map(named.collect::<Result<_, Refusal>>()?))
            }
        };
        let mut room_subscriptions = BTreeMap::new();
        if let Some(rooms) = body.object("room_subscriptions")? {
            for (room_id, raw) in rooms.entries.iter().filter(|(_, raw)| raw.get() != "null") {
                let room = DecodedRoom::read(&Object::read(&rooms.path_of(room_id), raw)?)?;
                room_subscriptions.insert(RoomId::from(&**room_id), room);
            }
        }
        let (mut to_device, mut e2ee, mut account_data) = (None, None, None);
        if let Some(extensions) = body.object("extensions")? {
            if let Some(object) = extensions.object("to_device")? {
                to_device = Some(DecodedToDevice {
                    enabled: object.field("enabled")?,
                    since: object.field("since")?,
                    limit: object.field("limit")?,
                });
            }
            if let Some(object) = extensions.object("e2ee")? {
                e2ee = Some(E2eeRequest {
                    enabled: object.field("enabled")?,
                });
            }
            if let Some(object) = extensions.object("account_data")? {
                account_data = Some(ScopedRequest {
                    enabled: object.field("enabled")?,
                    lists: object.field("lists")?,
                    rooms: object.field("rooms")?,
                });
            }
        }
        Ok(Self {
            conn_id: body.field("conn_id")?.unwrap_or_default(),
            txn_id: body.field("txn_id")?.unwrap_or_default(),
            lists,
            room_subscriptions,
            unsubscribe_rooms: body.field("unsubscribe_rooms")?.unwrap_or_default(),
            to_device,
            e2ee,
            account_data,
        })
    }

    /// Checks values in the order that decides which error wins (msc3575.md section 2).
    fn check(self, query: Query) -> Result<Request, Refusal> {
        let too_long = |what: &str, length: usize, limit: usize| {
            Err(Refusal::InvalidParam(format!("{what} is too long: {length} > {limit}")))
        };
        if self.conn_id.len() > MAX_CONN_ID_BYTES {
            return too_long("conn_id", self.conn_id.len(), MAX_CONN_ID_BYTES);
        }
        if self.txn_id.len() > MAX_TXN_ID_BYTES {
            return too_long("txn_id", self.txn_id.len(), MAX_TXN_ID_BYTES);
        }
        let lists = match self.lists {
            None => None,
            Some(DecodedLists::Array(lists)) => {
                let named = lists.into_iter().enumerate().map(|(i, list)| (i.to_string(), list));
                let checked = check_lists(named.collect())?;
                Some(Lists::Array(checked.into_iter().map(|(_, list)| list).collect()))
            }
            Some(DecodedLists::Map(lists)) => {
                let checked = check_lists(lists.into_iter().collect())?;
                Some(Lists::Map(checked.into_iter().collect()))
            }
        };
        let mut room_subscriptions = BTreeMap::new();
        for (room_id, room) in self.room_subscriptions {
            let room = room.check(&format!("room_subscriptions[{room_id}]"))?;
            room_subscriptions.insert(room_id, room);
        }
        let to_device = match self.to_device {
            None => None,
            Some(to_device) => Some(ToDeviceRequest {
                enabled: to_device.enabled,
                since: to_device.since.filter(|since| !since.is_empty()),
                limit: not_negative("extensions.to_device limit", to_device.limit)?,
            }),
        };
        Ok(Request {
            conn_id: ConnId::from(self.conn_id),
            query,
            txn_id: Some(self.txn_id).filter(|id| !id.is_empty()),
            body: Body {
                lists,
                room_subscriptions,
                unsubscribe_rooms: self.unsubscribe_rooms,
                extensions: ExtensionsRequest {
                    to_device,
                    e2ee: self.e2ee,
                    account_data: self.account_data,
                },
            },
        })
    }
}

fn check_lists(lists: Vec<(String, DecodedList)>) -> Result<Vec<(String, ListRequest)>, Refusal> {
    let mut windows = Vec::with_capacity(lists.len());
    for (name, list) in &lists {
        let ranges = list.ranges.as_ref().map(|ranges| range::validate(ranges, MAX_RANGES));
        windows.push(
            ranges
                .transpose()
                .map_err(|e| Refusal::InvalidParam(format!("list[{name}] {e}")))?,
        );
    }
    if lists.len() > MAX_LISTS {
        return Err(Refusal::InvalidParam(format!(
            "too many lists: {} > {MAX_LISTS}",
            lists.len()
        )));
    }
    let mut checked = Vec::with_capacity(lists.len());
    for ((name, list), ranges) in lists.into_iter().zip(windows) {
        if name.len() > MAX_LIST_NAME_BYTES {
            let length = name.len();
            return Err(Refusal::InvalidParam(format!(
                "list name is too long: {length} > {MAX_LIST_NAME_BYTES}"
            )));
        }
        let room = list.room.check(&format!("list[{name}]"))?;
        checked.push((
            name,
            ListRequest {
                ranges,
                sort: list.sort,
                filters: list.filters,
                slow_get_all_rooms: list.slow_get_all_rooms,
                bump_event_types: list.bump_event_types,
                deleted: list.deleted,
                room,
            },
        ));
    }
    Ok(checked)
}

impl DecodedList {
    fn read(path: &str, raw: &RawValue) -> Result<Self, Refusal> {
        let object = Object::read(path, raw)?;
        Ok(Self {
            ranges: object.field("ranges")?,
            sort: object.field("sort")?,
            filters: object.object("filters")?.map(|o| read_filters(&o)).transpose()?,
            slow_get_all_rooms: object.field("slow_get_all_rooms")?,
            bump_event_types: object.field("bump_event_types")?,
            deleted: object.field("deleted")?.unwrap_or(false),
            room: DecodedRoom::read(&object)?,
        })
    }
}

fn read_filters(object: &Object<'_>) -> Result<Filters, Refusal> {
    let name: Option<String> = object.field("room_name_like")?;
    let types = |key: &str| Ok(object.field::<BTreeSet<Option<String>>>(key)?.unwrap_or_default());
    let tags = |key: &str| Ok(object.field::<BTreeSet<String>>(key)?.unwrap_or_default());
    Ok(Filters {
        is_dm: object.field("is_dm")?,
        is_encrypted: object.field("is_encrypted")?,
        is_invite: object.field("is_invite")?,
        is_tombstoned: object.field("is_tombstoned")?,
        room_name_like: name.map(|name| name.to_lowercase()).unwrap_or_default(),
        room_types: types("room_types")?,
        not_room_types: types("not_room_types")?,
        tags: tags("tags")?,
        not_tags: tags("not_tags")?,
    })
}

impl DecodedRoom {
    fn read(object: &Object<'_>) -> Result<Self, Refusal> {
        // Decoded for its types alone; one level is enough to be sure of the shape that matters.
        let old = object.object("include_old_rooms")?;
        if let Some(old) = &old {
            old.field::<Vec<Vec<String>>>("required_state")?;
            old.field::<i64>("timeline_limit")?;
        }
        Ok(Self {
            required_state: object.field("required_state")?,
            timeline_limit: object.field("timeline_limit")?,
            include_heroes: object.field("include_heroes")?,
            include_old_rooms: object.raw("include_old_rooms").map(|raw| raw.get().to_owned()),
        })
    }

    fn check(self, what: &str) -> Result<RoomRequest, Refusal> {
        let mut entries = Vec::new();
        for pair in self.required_state.iter().flatten() {
            let [kind, key] = &pair[..] else {
                return Err(Refusal::InvalidParam(format!(
                    "{what} invalid required_state: entries are [event type, state key]"
                )));
            };
            entries.push((kind.clone(), key.clone()));
        }
        let limit = not_negative(&format!("{what} timeline_limit"), self.timeline_limit)?;
        Ok(RoomRequest {
            required_state: self.required_state.map(|_| entries),
            timeline_limit: limit.map(|limit| limit.min(MAX_TIMELINE)),
            include_heroes: self.include_heroes,
            include_old_rooms: self.include_old_rooms,
        })
    }
}

fn not_negative(what: &str, value: Option<i64>) -> Result<Option<usize>, Refusal> {
    value
        .map(|value| usize::try_from(value).map_err(|_| Refusal::InvalidParam(format!("{what} is negative: {value}"))))
        .transpose()
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
