//! What is known of a room by everybody in it ([`RoomSummary`]) and by one user ([`UserRoom`]).

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::ids::{RoomId, UserId};
use crate::model::position::Position;

/// How a user stands to a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Membership {
    /// In the room.
    Join,
    /// Asked in.
    Invite,
    /// Asked to be let in.
    Knock,
    /// Was in the room, or was invited, and no more.
    Leave,
    /// Kept out.
    Ban,
}

impl Membership {
    /// Returns the word used on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Membership::Join => "join",
            Membership::Invite => "invite",
            Membership::Knock => "knock",
            Membership::Leave => "leave",
            Membership::Ban => "ban",
        }
    }

    /// Reads the word used on the wire.
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "join" => Membership::Join,
            "invite" => Membership::Invite,
            "knock" => Membership::Knock,
            "leave" => Membership::Leave,
            "ban" => Membership::Ban,
            _ => return None,
        })
    }
}

/// Facts of a room that are the same for everybody who is joined to it; derived from current state and v2 summaries.
/// Never shown to users who are only invited (msc3575.md 10.2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomSummary {
    /// The room.
    pub room_id: RoomId,
    /// `m.room.name`, if set and not empty.
    pub name: Option<String>,
    /// `m.room.canonical_alias`, if set and not empty.
    pub canonical_alias: Option<String>,
    /// `m.room.avatar`'s `url`, if set and not empty.
    pub avatar_url: Option<String>,
    /// `m.room.create`'s `type`.
    pub room_type: Option<String>,
    /// `m.room.create`'s `room_version`, "1" if absent.
    pub room_version: String,
    /// `m.room.create`'s `predecessor.room_id`.
    pub predecessor: Option<RoomId>,
    /// Whether there is an `m.room.encryption` state event.
    pub encrypted: bool,
    /// `m.room.tombstone`'s `replacement_room`, if set and not empty.
    pub replacement: Option<RoomId>,
    /// Number of joined members.
    pub joined_count: i64,
    /// Number of invited members.
    pub invited_count: i64,
    /// Whether the store holds every member of the room.
    pub members_complete: bool,
}

impl RoomSummary {
    /// Returns the summary of a room of which nothing is known.
    pub fn unknown(room_id: RoomId) -> Self {
        Self {
            room_id,
            name: None,
            canonical_alias: None,
            avatar_url: None,
            room_type: None,
            room_version: "1".to_owned(),
            predecessor: None,
            encrypted: false,
            replacement: None,
            joined_count: 0,
            invited_count: 0,
            members_complete: false,
        }
    }
}

/// A member by whom a room without a name is called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hero {
    /// The member.
    pub user_id: UserId,
    /// Display name, if set and not empty.
    #[serde(rename = "n", default, skip_serializing_if = "Option::is_none")]
    pub displayname: Option<String>,
    /// Avatar, if set and not empty.
    #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
    pub avatar_url: Option<String>,
}

/// Unread counts as the homeserver counts them for one user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unread {
    /// `notification_count`, threads included.
    pub notification_count: i64,
    /// `highlight_count`, threads included.
    pub highlight_count: i64,
}

/// What an invited or knocking user was given about the room: the only thing they may be shown of it.
#[derive(Clone, Debug)]
pub struct Stripped {
    /// The stripped events exactly as received.
    pub events: Vec<Box<RawValue>>,
}

/// Everything one user knows of one room, always complete, so that a later value simply replaces an earlier one.
#[derive(Clone, Debug)]
pub struct UserRoom {
    /// The room.
    pub room_id: RoomId,
    /// By the user's own pollers (ended by anybody's).
    pub membership: Membership,
    /// Shared facts. Meaningless unless `membership` is `Join`.
    pub summary: Arc<RoomSummary>,
    /// Members to name the room by, without the user (v2 `m.heroes` is computed per user).
    pub heroes: Arc<[Hero]>,
    /// Unread counts.
    pub unread: Unread,
    /// Names of the room's tags (`m.tag`).
    pub tags: Arc<[String]>,
    /// `origin_server_ts` of the last event this user received in the room, ms; for invites, of the own member event.
    pub recency: i64,
    /// `origin_server_ts` of the user's latest join, ms; 0 when unknown.
    pub joined_ts: i64,
    /// For invites and knocks.
    pub stripped: Option<Arc<Stripped>>,
    /// Position at which any of this last changed.
    pub changed: Position,
}
