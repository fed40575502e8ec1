//! What a user's cache starts from.

use std::sync::Arc;

use diesel::prelude::*;

use super::connection::{Connection, with_connection};
use super::devices::facts;
use super::error::Error;
use super::load::{account_data_of, user};
use super::memory::Counters;
use super::rows::{RoomRow, UserRoomFacts};
use super::schema::{rooms, user_rooms};
use crate::ids::UserId;
use crate::model::batch::AccountData;
use crate::model::change::DeviceFacts;
use crate::model::position::Position;
use crate::model::room::{Membership, UserRoom};

/// Everything a user's cache starts from, as of one position.
#[derive(Clone, Debug)]
pub struct UserSnapshot {
    /// Position it was taken at; later changes come as commits.
    pub position: Position,
    /// Rooms joined, invited to, or knocked at.
    pub rooms: Vec<UserRoom>,
    /// All global account data.
    pub account_data: Vec<AccountData>,
    /// All devices of the user.
    pub devices: Vec<DeviceFacts>,
}

/// Reads a user's snapshot: one row per room, no state.
pub(super) fn snapshot(c: &mut Connection, user_id: &UserId) -> Result<UserSnapshot, Error> {
    let mut out = UserSnapshot {
        position: Position(Counters::read(c)?.position),
        rooms: Vec::new(),
        account_data: Vec::new(),
        devices: Vec::new(),
    };
    let Some(user_nid) = user(c, user_id)? else {
        return Ok(out);
    };
    let shown = [Membership::Join, Membership::Invite, Membership::Knock].map(Membership::as_str);
    let rows: Vec<(UserRoomFacts, RoomRow)> = with_connection!(c, |c| user_rooms::table
        .inner_join(rooms::table)
        .filter(user_rooms::user_nid.eq(user_nid))
        .filter(user_rooms::membership.eq_any(shown))
        .select((UserRoomFacts::as_select(), RoomRow::as_select()))
        .load(c))?;
    out.rooms.reserve(rows.len());
    for (facts, room) in rows {
        // A joined room whose create event is not known yet cannot be shown.
        if !room.has_create && facts.membership == Membership::Join.as_str() {
            continue;
        }
        out.rooms.push(facts.room(Arc::new(room.summary()))?);
    }
    out.account_data = account_data_of(c, user_nid, 0)?;
    out.devices = facts(c, user_nid)?;
    Ok(out)
}
