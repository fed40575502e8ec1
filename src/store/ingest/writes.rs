//! Rows waiting to be inserted, so that Postgres gets many per statement.

use diesel::prelude::*;

use crate::model::room::{Stripped, UserRoom};
use crate::store::connection::{Connection, insert_rows, with_connection};
use crate::store::error::Error;
use crate::store::memory::{Member, Room};
use crate::store::rows::{EventRow, RoomRow, StateRow, UserRoomRow};
use crate::store::schema::{events, rooms, state, user_rooms};

/// Rows held back at most.
const HELD: usize = 2_000;

/// Inserts that have not been sent to the database yet. Whoever updates or reads such rows flushes first.
#[derive(Default)]
pub(super) struct Writes {
    rooms: Vec<RoomRow>,
    events: Vec<EventRow>,
    state: Vec<StateRow>,
    members: Vec<UserRoomRow>,
}

impl Writes {
    /// Adds events.
    pub(super) fn events(&mut self, rows: Vec<EventRow>) {
        self.events.extend(rows);
    }

    /// Adds a state entry.
    pub(super) fn state(&mut self, row: StateRow) {
        self.state.push(row);
    }

    /// Writes a room: later if it is new, at once otherwise. To be called before anything that refers to the room.
    pub(super) fn room(&mut self, c: &mut Connection, room: &mut Room) -> Result<(), Error> {
        let row = RoomRow::new(room.nid, room.has_create, &room.summary);
        if !room.stored {
            room.stored = true;
            self.rooms.push(row);
            return Ok(());
        }
        if let Some(held) = self.rooms.iter_mut().rev().find(|held| held.nid == row.nid) {
            *held = row;
            return Ok(());
        }
        let found = with_connection!(c, |c| diesel::update(rooms::table.find(row.nid)).set(&row).execute(c))?;
        if found == 1 {
            Ok(())
        } else {
            Err(Error::inconsistent("rooms", row.nid))
        }
    }

    /// Writes a user's row of a room: later if it is new, at once otherwise.
    pub(super) fn member(
        &mut self,
        c: &mut Connection,
        user_nid: i64,
        room_nid: i64,
        member: &mut Member,
    ) -> Result<(), Error> {
        let row = row(user_nid, room_nid, member)?;
        if !member.stored {
            member.stored = true;
            self.members.push(row);
            return Ok(());
        }
        let same = |held: &&mut UserRoomRow| held.user_nid == user_nid && held.room_nid == room_nid;
        if let Some(held) = self.members.iter_mut().rev().find(same) {
            *held = row;
            return Ok(());
        }
        let found = with_connection!(c, |c| diesel::update(user_rooms::table.find((user_nid, room_nid)))
            .set(&row)
            .execute(c))?;
        if found == 1 {
            Ok(())
        } else {
            Err(Error::inconsistent("user_rooms", format!("{user_nid}/{room_nid}")))
        }
    }

    /// Inserts everything if it has become much.
    pub(super) fn relieve(&mut self, c: &mut Connection) -> Result<(), Error> {
        if self.events.len() + self.state.len() + self.members.len() > HELD {
            self.flush(c)?;
        }
        Ok(())
    }

    /// Inserts rooms, for rows that refer to them.
    pub(super) fn flush_rooms(&mut self, c: &mut Connection) -> Result<(), Error> {
        insert_rows!(c, &self.rooms, |rows| diesel::insert_into(rooms::table).values(rows));
        self.rooms.clear();
        Ok(())
    }

    /// Inserts everything.
    pub(super) fn flush(&mut self, c: &mut Connection) -> Result<(), Error> {
        self.flush_rooms(c)?;
        insert_rows!(c, &self.events, |rows| diesel::insert_into(events::table).values(rows));
        insert_rows!(c, &self.state, |rows| diesel::insert_into(state::table).values(rows));
        insert_rows!(c, &self.members, |rows| diesel::insert_into(user_rooms::table)
            .values(rows));
        self.events.clear();
        self.state.clear();
        self.members.clear();
        Ok(())
    }
}

fn row(user_nid: i64, room_nid: i64, member: &Member) -> Result<UserRoomRow, Error> {
    let room: &UserRoom = &member.room;
    let bad = |_| Error::inconsistent("user_rooms", format!("{user_nid}/{room_nid}"));
    let stripped = |stripped: &Stripped| serde_json::to_vec(&stripped.events).map_err(bad);
    Ok(UserRoomRow {
        user_nid,
        room_nid,
        membership: room.membership.as_str().to_owned(),
        notification_count: room.unread.notification_count,
        highlight_count: room.unread.highlight_count,
        heroes: serde_json::to_string(&room.heroes).map_err(bad)?,
        tags: serde_json::to_string(&room.tags).map_err(bad)?,
        recency: room.recency,
        joined_ts: room.joined_ts,
        joined_pos: member.joined_pos,
        gap_pending: member.gap_pending,
        stripped: room.stripped.as_deref().map(stripped).transpose()?,
        changed_pos: room.changed.0,
        timeline: member.view.encode(),
    })
}
