//! Rows of the larger tables, and their way from and to the model.

use std::sync::Arc;

use diesel::prelude::*;
use serde_json::value::RawValue;

use super::error::Error;
use super::schema::{devices, events, rooms, state, user_rooms};
use crate::ids::{DeviceId, EventId, RoomId, UserId};
use crate::model::change::DeviceFacts;
use crate::model::event::Event;
use crate::model::position::Position;
use crate::model::room::{Hero, Membership, RoomSummary, Stripped, Unread, UserRoom};

/// `state.until_pos` of a current entry.
pub(super) const CURRENT: i64 = i64::MAX;

/// A row of `rooms`.
#[derive(Clone, Debug, Insertable, Queryable, Selectable, AsChangeset)]
#[diesel(table_name = rooms, primary_key(nid), treat_none_as_default_value = false, treat_none_as_null = true)]
pub(super) struct RoomRow {
    pub(super) nid: i64,
    pub(super) room_id: String,
    pub(super) has_create: bool,
    pub(super) name: Option<String>,
    pub(super) canonical_alias: Option<String>,
    pub(super) avatar_url: Option<String>,
    pub(super) room_type: Option<String>,
    pub(super) room_version: String,
    pub(super) predecessor: Option<String>,
    pub(super) encrypted: bool,
    pub(super) replacement: Option<String>,
    pub(super) joined_count: i64,
    pub(super) invited_count: i64,
    pub(super) members_complete: bool,
}

impl RoomRow {
    /// Makes the row of a summary.
    pub(super) fn new(nid: i64, has_create: bool, summary: &RoomSummary) -> Self {
        // A name out of an event can hold U+0000, which Postgres refuses in text.
        let text = |value: &Option<String>| value.as_ref().map(|s| s.replace('\0', ""));
        Self {
            nid,
            room_id: summary.room_id.as_str().to_owned(),
            has_create,
            name: text(&summary.name),
            canonical_alias: text(&summary.canonical_alias),
            avatar_url: text(&summary.avatar_url),
            room_type: text(&summary.room_type),
            room_version: summary.room_version.replace('\0', ""),
            predecessor: summary.predecessor.as_ref().map(|id| id.as_str().replace('\0', "")),
            encrypted: summary.encrypted,
            replacement: summary.replacement.as_ref().map(|id| id.as_str().replace('\0', "")),
            joined_count: summary.joined_count,
            invited_count: summary.invited_count,
            members_complete: summary.members_complete,
        }
    }

    /// Returns the summary.
    pub(super) fn summary(self) -> RoomSummary {
        RoomSummary {
            room_id: RoomId::from(self.room_id),
            name: self.name,
            canonical_alias: self.canonical_alias,
            avatar_url: self.avatar_url,
            room_type: self.room_type,
            room_version: self.room_version,
            predecessor: self.predecessor.map(RoomId::from),
            encrypted: self.encrypted,
            replacement: self.replacement.map(RoomId::from),
            joined_count: self.joined_count,
            invited_count: self.invited_count,
            members_complete: self.members_complete,
        }
    }
}

/// A row of `events`.
#[derive(Clone, Debug, Insertable)]
#[diesel(table_name = events, treat_none_as_default_value = false)]
pub(super) struct EventRow {
    pub(super) nid: i64,
    pub(super) event_id: String,
    pub(super) room_nid: i64,
    pub(super) ranking: Option<i64>,
    pub(super) gap_before: bool,
    pub(super) prev_batch: Option<String>,
    pub(super) event_type: String,
    pub(super) state_key: Option<String>,
    pub(super) sender: String,
    pub(super) origin_server_ts: i64,
    pub(super) redacted: bool,
    pub(super) body: Vec<u8>,
}

/// What is read of an event to serve it.
#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = events)]
pub(super) struct StoredEvent {
    pub(super) nid: i64,
    pub(super) event_id: String,
    pub(super) event_type: String,
    pub(super) state_key: Option<String>,
    pub(super) sender: String,
    pub(super) origin_server_ts: i64,
    pub(super) redacted: bool,
    pub(super) body: Vec<u8>,
}

impl StoredEvent {
    /// Returns the event.
    pub(super) fn event(self) -> Result<Arc<Event>, Error> {
        let raw = raw(self.body).ok_or_else(|| Error::inconsistent("events", self.nid))?;
        Ok(Arc::new(Event {
            event_id: EventId::from(self.event_id),
            event_type: Arc::from(self.event_type),
            state_key: self.state_key.map(Arc::from),
            sender: UserId::from(self.sender),
            origin_server_ts: self.origin_server_ts,
            raw,
        }))
    }
}

/// Reads JSON bytes back.
pub(super) fn raw(bytes: Vec<u8>) -> Option<Box<RawValue>> {
    RawValue::from_string(String::from_utf8(bytes).ok()?).ok()
}

/// A row of `state`.
#[derive(Clone, Debug, Insertable)]
#[diesel(table_name = state)]
pub(super) struct StateRow {
    pub(super) room_nid: i64,
    pub(super) event_type: String,
    pub(super) state_key: String,
    pub(super) until_pos: i64,
    pub(super) from_pos: i64,
    pub(super) event_nid: i64,
    pub(super) ended_ms: i64,
}

/// A row of `user_rooms` without the view.
#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = user_rooms)]
pub(super) struct UserRoomFacts {
    pub(super) user_nid: i64,
    pub(super) room_nid: i64,
    pub(super) membership: String,
    pub(super) notification_count: i64,
    pub(super) highlight_count: i64,
    pub(super) heroes: String,
    pub(super) tags: String,
    pub(super) recency: i64,
    pub(super) joined_ts: i64,
    pub(super) joined_pos: i64,
    pub(super) gap_pending: bool,
    pub(super) stripped: Option<Vec<u8>>,
    pub(super) changed_pos: i64,
}

/// A whole row of `user_rooms`.
#[derive(Clone, Debug, Insertable, AsChangeset)]
#[diesel(table_name = user_rooms, primary_key(user_nid, room_nid))]
#[diesel(treat_none_as_default_value = false, treat_none_as_null = true)]
pub(super) struct UserRoomRow {
    pub(super) user_nid: i64,
    pub(super) room_nid: i64,
    pub(super) membership: String,
    pub(super) notification_count: i64,
    pub(super) highlight_count: i64,
    pub(super) heroes: String,
    pub(super) tags: String,
    pub(super) recency: i64,
    pub(super) joined_ts: i64,
    pub(super) joined_pos: i64,
    pub(super) gap_pending: bool,
    pub(super) stripped: Option<Vec<u8>>,
    pub(super) changed_pos: i64,
    pub(super) timeline: Vec<u8>,
}

impl UserRoomFacts {
    /// Returns the model's form of the row.
    pub(super) fn room(self, summary: Arc<RoomSummary>) -> Result<UserRoom, Error> {
        let bad = || Error::inconsistent("user_rooms", format!("{}/{}", self.user_nid, self.room_nid));
        let heroes: Vec<Hero> = serde_json::from_str(&self.heroes).map_err(|_| bad())?;
        let tags: Vec<String> = serde_json::from_str(&self.tags).map_err(|_| bad())?;
        let stripped = match &self.stripped {
            Some(bytes) => Some(Arc::new(Stripped {
                events: serde_json::from_slice(bytes).map_err(|_| bad())?,
            })),
            None => None,
        };
        Ok(UserRoom {
            room_id: summary.room_id.clone(),
            membership: Membership::parse(&self.membership).ok_or_else(bad)?,
            summary,
            heroes: heroes.into(),
            unread: Unread {
                notification_count: self.notification_count,
                highlight_count: self.highlight_count,
            },
            tags: tags.into(),
            recency: self.recency,
            joined_ts: self.joined_ts,
            stripped,
            changed: Position(self.changed_pos),
        })
    }
}

/// A row of `devices`.
#[derive(Clone, Debug, Insertable, Queryable, Selectable, AsChangeset)]
#[diesel(table_name = devices, primary_key(nid), treat_none_as_default_value = false, treat_none_as_null = true)]
pub(super) struct DeviceRow {
    pub(super) nid: i64,
    pub(super) user_nid: i64,
    pub(super) device_id: String,
    pub(super) since: Option<String>,
    pub(super) has_synced: bool,
    pub(super) filter_version: i64,
    pub(super) one_time_keys: Option<String>,
    pub(super) fallback_types: Option<String>,
    pub(super) to_device_seq: i64,
    pub(super) device_list_seq: i64,
    pub(super) last_seen: i64,
}

impl DeviceRow {
    /// Makes the row of a device of which nothing is known.
    pub(super) fn unknown(nid: i64, user_nid: i64, device_id: &DeviceId, now: i64) -> Self {
        Self {
            nid,
            user_nid,
            device_id: device_id.as_str().to_owned(),
            since: None,
            has_synced: false,
            filter_version: 0,
            one_time_keys: None,
            fallback_types: None,
            to_device_seq: 0,
            device_list_seq: 0,
            last_seen: now,
        }
    }

    /// Returns counters and key facts.
    pub(super) fn facts(&self) -> Result<DeviceFacts, Error> {
        let bad = |_| Error::inconsistent("devices", self.nid);
        Ok(DeviceFacts {
            device_id: DeviceId::from(self.device_id.as_str()),
            to_device_seq: self.to_device_seq,
            device_list_seq: self.device_list_seq,
            one_time_keys: match &self.one_time_keys {
                Some(text) => Some(Arc::new(serde_json::from_str(text).map_err(bad)?)),
                None => None,
            },
            fallback_types: match &self.fallback_types {
                Some(text) => Some(serde_json::from_str::<Vec<String>>(text).map_err(bad)?.into()),
                None => None,
            },
        })
    }
}
