//! One v2 response into rows and into what it means for its user, inside the writer's transaction.

mod departed;
mod device;
mod events;
mod joined;
mod state;
mod writes;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use diesel::prelude::*;

pub(super) use self::device::store_facts;
use self::events::Known;
use self::writes::Writes;
use super::connection::{Connection, insert_rows, with_connection};
use super::error::Error;
use super::memory::{Member, Memory, Room, Sent};
use super::schema::account_data;
use crate::ids::{EventId, RoomId, UserId};
use crate::model::batch::{AccountData, Batch, MemberList, StateKey, StateRepair};
use crate::model::change::{Committed, Ended, RoomChange, UserChange};
use crate::model::position::Position;
use crate::model::room::RoomSummary;

/// What storing a batch came to.
#[derive(Debug)]
pub struct Ingested {
    /// Position of the commit; the newest one if the batch was superseded.
    pub position: Position,
    /// Whether the batch was stored.
    pub outcome: Outcome,
    /// State entries on which overlapping responses disagree (upstream.md 4.5, the doubt list).
    pub doubts: Vec<(RoomId, StateKey)>,
    /// Rooms that cannot be shown because their create event is not known; their whole state is wanted.
    pub rooms_without_create: Vec<RoomId>,
}

/// Whether a batch was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything of it is in the store.
    Stored,
    /// The device has moved on from the batch's `since`; nothing of it is in the store.
    Superseded,
}

/// What every job needs to know.
pub(super) struct Context<'a> {
    pub(super) memory: &'a mut Memory,
    pub(super) sent: &'a std::sync::Mutex<Sent>,
    /// Wall-clock time, ms.
    pub(super) now: i64,
    /// Events kept per user's view.
    pub(super) keep: usize,
    /// Rooms that received timeline events, with how many.
    pub(super) grown: &'a mut HashMap<i64, (RoomId, usize)>,
}

/// A job under way.
struct Ingest<'a> {
    c: &'a mut Connection,
    memory: &'a mut Memory,
    writes: Writes,
    known: HashMap<EventId, Known>,
    now: i64,
    keep: usize,
    position: i64,
    touched: HashSet<RoomId>,
    /// Rooms made by this job.
    created: HashSet<i64>,
    grown: &'a mut HashMap<i64, (RoomId, usize)>,
    doubts: Vec<(RoomId, StateKey)>,
    rooms_without_create: Vec<RoomId>,
    ended: Vec<Ended>,
    summaries: Vec<Arc<RoomSummary>>,
}

impl<'a> Ingest<'a> {
    fn new(c: &'a mut Connection, context: Context<'a>) -> Self {
        context.memory.counters.position += 1;
        Self {
            c,
            position: context.memory.counters.position,
            memory: context.memory,
            writes: Writes::default(),
            known: HashMap::new(),
            now: context.now,
            keep: context.keep,
            touched: HashSet::new(),
            created: HashSet::new(),
            grown: context.grown,
            doubts: Vec::new(),
            rooms_without_create: Vec::new(),
            ended: Vec::new(),
            summaries: Vec::new(),
        }
    }

    /// Takes a room, which is made if need be.
    fn room_or_new(&mut self, room_id: &RoomId) -> Result<Room, Error> {
        if !self.touched.insert(room_id.clone()) {
            // Twice in one response: what the first time wrote is to be read now.
            self.writes.flush(self.c)?;
            self.created.clear();
        }
        if let Some(room) = self.memory.take_room(self.c, room_id)? {
            return Ok(room);
        }
        let mut room = Room {
            nid: self.memory.next_other(),
            summary: Arc::new(RoomSummary::unknown(room_id.clone())),
            has_create: false,
            slots: Vec::new(),
            pending: HashMap::new(),
            stored: false,
        };
        self.created.insert(room.nid);
        self.writes.room(self.c, &mut room)?;
        Ok(room)
    }

    fn put_room(&mut self, room: Room) {
        self.memory.rooms.put(room.summary.room_id.clone(), room);
    }

    /// Writes a member's row as changed now and puts it back.
    fn save_member(&mut self, user_nid: i64, room_nid: i64, mut member: Member) -> Result<(), Error> {
        self.writes.member(self.c, user_nid, room_nid, &mut member)?;
        self.memory.members.put((user_nid, room_nid), member);
        Ok(())
    }

    /// Stores account data and returns what is not as it was.
    fn account_data(&mut self, user_nid: i64, room_nid: i64, items: &[AccountData]) -> Result<Vec<AccountData>, Error> {
        // The last of several of a kind counts; U+0000 cannot be stored as text.
        let mut latest: Vec<&AccountData> = Vec::new();
        for item in items.iter().filter(|item| !item.kind.contains('\0')) {
            latest.retain(|other| other.kind != item.kind);
            latest.push(item);
        }
        if latest.is_empty() {
            return Ok(Vec::new());
        }
        let stored: Vec<(String, Vec<u8>)> = match latest.as_slice() {
            [one] => with_connection!(&mut *self.c, |c| account_data::table
                .find((user_nid, room_nid, one.kind.as_str()))
                .select((account_data::kind, account_data::body))
                .load(c))?,
            _ => with_connection!(&mut *self.c, |c| account_data::table
                .filter(account_data::user_nid.eq(user_nid))
                .filter(account_data::room_nid.eq(room_nid))
                .select((account_data::kind, account_data::body))
                .load(c))?,
        };
        let stored: HashMap<String, Vec<u8>> = stored.into_iter().collect();
        latest.retain(|item| {
            stored
                .get(&item.kind)
                .is_none_or(|body| body != item.raw.get().as_bytes())
        });
        let rows: Vec<_> = latest
            .iter()
            .map(|item| {
                (
                    account_data::user_nid.eq(user_nid),
                    account_data::room_nid.eq(room_nid),
                    account_data::kind.eq(item.kind.as_str()),
                    account_data::body.eq(item.raw.get().as_bytes()),
                )
            })
            .collect();
        insert_rows!(&mut *self.c, &rows, |values| diesel::insert_into(account_data::table)
            .values(values)
            .on_conflict((account_data::user_nid, account_data::room_nid, account_data::kind))
            .do_update()
            .set(account_data::body.eq(diesel::upsert::excluded(account_data::body))));
        Ok(latest.into_iter().cloned().collect())
    }

    fn committed(&mut self, user: Option<UserChange>) -> Committed {
        Committed {
            position: Position(self.position),
            user,
            ended: std::mem::take(&mut self.ended),
            summaries: std::mem::take(&mut self.summaries),
        }
    }
}

/// Stores a batch.
pub(super) fn batch(
    c: &mut Connection,
    context: Context<'_>,
    batch: &Batch,
) -> Result<(Ingested, Option<Committed>), Error> {
    let sent = context.sent;
    let now = context.now;
    let since = context.memory.device(c, &batch.device)?.and_then(|row| row.since);
    if since != batch.since_in {
        return Ok((
            Ingested {
                position: Position(context.memory.counters.position),
                outcome: Outcome::Superseded,
                doubts: Vec::new(),
                rooms_without_create: Vec::new(),
            },
            None,
        ));
    }
    let device = context.memory.device_or_new(c, &batch.device, now)?;
    let user_nid = device.user_nid;
    let mut ingest = Ingest::new(c, context);
    ingest.look_up(batch)?;
    let account_data = ingest.account_data(user_nid, 0, &batch.account_data)?;
    let mut rooms: Vec<RoomChange> = Vec::new();
    for room in &batch.joined {
        rooms.extend(ingest.joined(batch, user_nid, room)?);
        ingest.writes.relieve(ingest.c)?;
    }
    ingest.writes.flush(ingest.c)?;
    for room in &batch.invited {
        rooms.extend(ingest.stripped(batch, user_nid, room, crate::model::room::Membership::Invite)?);
    }
    for room in &batch.knocked {
        rooms.extend(ingest.stripped(batch, user_nid, room, crate::model::room::Membership::Knock)?);
    }
    for room in &batch.left {
        rooms.extend(ingest.left(batch, user_nid, room)?);
    }
    ingest.writes.flush(ingest.c)?;
    ingest.transaction_ids(&device, &rooms)?;
    let device_change = ingest.device(batch, device, sent)?;
    let committed = ingest.committed(Some(UserChange {
        device: batch.device.clone(),
        rooms: rooms.into_iter().map(Arc::new).collect(),
        account_data,
        device_change,
    }));
    Ok((
        Ingested {
            position: committed.position,
            outcome: Outcome::Stored,
            doubts: ingest.doubts,
            rooms_without_create: ingest.rooms_without_create,
        },
        Some(committed),
    ))
}

/// Stores a room's whole member list.
pub(super) fn members(c: &mut Connection, context: Context<'_>, list: &MemberList) -> Result<Committed, Error> {
    let mut ingest = Ingest::new(c, context);
    ingest.look_up_events(list.members.iter().map(|event| &event.event.event_id))?;
    ingest.member_list(list)?;
    ingest.writes.flush(ingest.c)?;
    Ok(ingest.committed(None))
}

/// Stores one state entry as the homeserver has it.
pub(super) fn repair(c: &mut Connection, context: Context<'_>, repair: &StateRepair) -> Result<Committed, Error> {
    let mut ingest = Ingest::new(c, context);
    ingest.look_up_events(repair.event.iter().map(|event| &event.event.event_id))?;
    ingest.state_repair(repair)?;
    ingest.writes.flush(ingest.c)?;
    Ok(ingest.committed(None))
}

/// Returns whether an identifier can be stored as text on both databases.
fn storable(user_id: &UserId) -> bool {
    !user_id.as_str().contains('\0')
}
