//! What the writer remembers between commits: counters, rows in use, and when responses were in. All of it can be read
//! again from the database, except the moments, which only matter while the process runs.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::Arc;

use diesel::prelude::*;

use super::connection::{Connection, with_connection};
use super::error::Error;
use super::rows::{DeviceRow, RoomRow, UserRoomFacts};
use super::schema::{counters, devices, events, pending_redactions, rooms, user_rooms, users};
use super::view::View;
use crate::clock::Moment;
use crate::ids::{DeviceKey, EventId, RoomId, UserId};
use crate::model::position::Position;
use crate::model::room::{Membership, RoomSummary, Unread, UserRoom};
use crate::room::order::Slot;

/// Rooms kept in memory by the writer.
const ROOMS: usize = 5_000;
/// Pairs of user and room kept in memory by the writer.
const MEMBERS: usize = 20_000;
/// Users and devices kept in memory by the writer.
const PEOPLE: usize = 50_000;
/// Moments kept; older ones only make a late response count as newer than it is.
const MOMENTS: usize = 200_000;
/// Timeline events of a room known to the merge.
pub(super) const SLOTS: usize = 300;

/// High-water marks of everything that is numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = counters)]
pub(super) struct Counters {
    pub(super) position: i64,
    pub(super) event: i64,
    pub(super) other: i64,
    pub(super) seq: i64,
}

impl Counters {
    /// Reads the counters.
    pub(super) fn read(c: &mut Connection) -> Result<Self, Error> {
        let row = with_connection!(c, |c| counters::table
            .find(1)
            .select(Counters::as_select())
            .first(c)
            .optional())?;
        row.ok_or_else(|| Error::inconsistent("counters", 1))
    }

    /// Writes the counters.
    pub(super) fn write(&self, c: &mut Connection) -> Result<(), Error> {
        let rows = with_connection!(c, |c| diesel::update(counters::table.find(1)).set(self).execute(c))?;
        if rows == 1 {
            Ok(())
        } else {
            Err(Error::inconsistent("counters", 1))
        }
    }
}

/// A room as the writer knows it.
#[derive(Clone, Debug)]
pub(super) struct Room {
    pub(super) nid: i64,
    pub(super) summary: Arc<RoomSummary>,
    /// Whether the room's create event is held; a room without one is shown to nobody.
    pub(super) has_create: bool,
    /// The newest timeline events, by rank.
    pub(super) slots: Vec<Slot>,
    /// Redactions that wait for their target: target and the redaction.
    pub(super) pending: HashMap<EventId, i64>,
    /// Whether there is a row (written, or about to be).
    pub(super) stored: bool,
}

/// A user in a room as the writer knows it.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) room: UserRoom,
    pub(super) joined_pos: i64,
    /// Whether the position was lost, so that the next event follows a gap.
    pub(super) gap_pending: bool,
    pub(super) view: View,
    /// Whether there is a row (written, or about to be).
    pub(super) stored: bool,
}

impl Member {
    /// Returns a user who has nothing to do with the room yet.
    pub(super) fn unknown(room: &Room) -> Self {
        Self {
            room: UserRoom {
                room_id: room.summary.room_id.clone(),
                membership: Membership::Leave,
                summary: room.summary.clone(),
                heroes: Arc::from([]),
                unread: Unread::default(),
                tags: Arc::from([]),
                recency: 0,
                joined_ts: 0,
                stripped: None,
                changed: Position::ZERO,
            },
            joined_pos: 0,
            gap_pending: false,
            view: View::default(),
            stored: false,
        }
    }
}

/// A map that forgets about half of its entries, the least recently used, when it gets too large.
#[derive(Debug)]
pub(super) struct Recent<K, V> {
    map: HashMap<K, (u64, V)>,
    tick: u64,
    bound: usize,
}

impl<K: Eq + Hash + Clone, V> Recent<K, V> {
    fn new(bound: usize) -> Self {
        Self {
            map: HashMap::new(),
            tick: 0,
            bound,
        }
    }

    pub(super) fn get(&mut self, key: &K) -> Option<&V> {
        self.tick += 1;
        let entry = self.map.get_mut(key)?;
        entry.0 = self.tick;
        Some(&entry.1)
    }

    pub(super) fn take(&mut self, key: &K) -> Option<V> {
        self.map.remove(key).map(|(_, value)| value)
    }

    pub(super) fn put(&mut self, key: K, value: V) {
        self.tick += 1;
        self.map.insert(key, (self.tick, value));
        if self.map.len() > self.bound {
            let mut ticks: Vec<u64> = self.map.values().map(|(tick, _)| *tick).collect();
            let middle = ticks.len() / 2;
            let (_, &mut oldest, _) = ticks.select_nth_unstable(middle);
            self.map.retain(|_, (tick, _)| *tick >= oldest);
        }
    }

    fn clear(&mut self) {
        self.map.clear();
    }
}

/// When responses were in, for the freshness guard (upstream.md 4.5). Survives a rollback by undoing what was noted.
#[derive(Debug, Default)]
pub(super) struct Moments {
    state: HashMap<i64, Moment>,
    /// Of the last response in which the user's own poller had the user joined: sent, received.
    joined: HashMap<(i64, i64), (Moment, Moment)>,
    /// Of the last response in which the user's own poller had the user out.
    left: HashMap<(i64, RoomId), Moment>,
    undo: Vec<Undo>,
}

#[derive(Debug)]
enum Undo {
    State(i64, Option<Moment>),
    Joined((i64, i64), Option<(Moment, Moment)>),
    Left((i64, RoomId), Option<Moment>),
}

fn restore<K: Eq + Hash, V>(map: &mut HashMap<K, V>, key: K, old: Option<V>) {
    match old {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
}

impl Moments {
    /// Returns whether a response sent at `sent_at` is newer than all that changed the room's state before.
    pub(super) fn is_newer(&self, room: i64, sent_at: Moment) -> bool {
        self.state.get(&room).is_none_or(|received| sent_at >= *received)
    }

    /// Notes that a response changed the room's state.
    pub(super) fn state_changed(&mut self, room: i64, received_at: Moment) {
        let old = self.state.get(&room).copied();
        if old.is_none_or(|old| old < received_at) {
            self.state.insert(room, received_at);
            self.undo.push(Undo::State(room, old));
        }
    }

    /// Returns when the last response that confirmed the user's join was sent and received.
    pub(super) fn joined(&self, user: i64, room: i64) -> Option<(Moment, Moment)> {
        self.joined.get(&(user, room)).copied()
    }

    /// Notes that the user's own poller has the user joined.
    pub(super) fn confirm_join(&mut self, user: i64, room: i64, sent_at: Moment, received_at: Moment) {
        let old = self.joined.get(&(user, room)).copied();
        if old.is_none_or(|(sent, _)| sent <= sent_at) {
            self.joined.insert((user, room), (sent_at, received_at));
            self.undo.push(Undo::Joined((user, room), old));
        }
    }

    /// Returns when the last response that had the user out of the room was received.
    pub(super) fn left(&self, user: i64, room: &RoomId) -> Option<Moment> {
        self.left.get(&(user, room.clone())).copied()
    }

    /// Notes that the user's own poller has the user out.
    pub(super) fn confirm_leave(&mut self, user: i64, room: &RoomId, received_at: Moment) {
        let old = self.left.insert((user, room.clone()), received_at);
        self.undo.push(Undo::Left((user, room.clone()), old));
    }

    /// Returns a mark to come back to.
    pub(super) fn mark(&self) -> usize {
        self.undo.len()
    }

    /// Undoes everything noted after the mark.
    pub(super) fn undo_to(&mut self, mark: usize) {
        while self.undo.len() > mark {
            match self.undo.pop() {
                Some(Undo::State(key, old)) => restore(&mut self.state, key, old),
                Some(Undo::Joined(key, old)) => restore(&mut self.joined, key, old),
                Some(Undo::Left(key, old)) => restore(&mut self.left, key, old),
                None => return,
            }
        }
    }

    /// Forgets how to undo, and what would make the memory grow for ever.
    fn settle(&mut self) {
        self.undo.clear();
        if self.state.len() + self.joined.len() + self.left.len() > MOMENTS {
            let newest = self.state.values().max().copied().unwrap_or_default();
            let old = Moment(newest.0.saturating_sub(3_600_000));
            self.state.retain(|_, received| *received >= old);
            self.joined.retain(|_, (_, received)| *received >= old);
            self.left.retain(|_, received| *received >= old);
            if self.state.len() + self.joined.len() + self.left.len() > MOMENTS {
                self.joined.clear();
                self.left.clear();
            }
        }
    }
}

/// Which to-device messages have left the store, and which were taken back before that.
#[derive(Debug, Default)]
pub(super) struct Sent {
    highest: HashMap<DeviceKey, i64>,
    /// Everything up to here was queued before the process started and counts as sent.
    floor: i64,
    gone: HashSet<i64>,
    gone_order: VecDeque<i64>,
}

impl Sent {
    /// Messages taken back that readers of an older moment of the database still have to leave out.
    const GONE: usize = 10_000;

    /// Makes the memory of a process that starts when `floor` is the newest number.
    pub(super) fn new(floor: i64) -> Self {
        Self {
            floor,
            ..Self::default()
        }
    }

    /// Takes a message back if it has not been sent.
    pub(super) fn take_back(&mut self, device: &DeviceKey, seq: i64) -> bool {
        if seq <= self.floor || self.highest.get(device).is_some_and(|highest| seq <= *highest) {
            return false;
        }
        self.gone.insert(seq);
        self.gone_order.push_back(seq);
        if self.gone_order.len() > Self::GONE
            && let Some(oldest) = self.gone_order.pop_front()
        {
            self.gone.remove(&oldest);
        }
        true
    }

    /// Leaves out messages taken back and notes the rest as sent.
    pub(super) fn send<T>(&mut self, device: &DeviceKey, messages: &mut Vec<(i64, T)>) {
        messages.retain(|(seq, _)| !self.gone.contains(seq));
        if let Some((seq, _)) = messages.last() {
            let highest = self.highest.entry(device.clone()).or_default();
            *highest = (*highest).max(*seq);
        }
    }

    /// Forgets a device whose queue is empty up to `seq`.
    pub(super) fn acknowledged(&mut self, device: &DeviceKey, seq: i64) {
        if self.highest.get(device).is_some_and(|highest| *highest <= seq) {
            self.highest.remove(device);
        }
    }
}

/// All of it.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) counters: Counters,
    pub(super) users: Recent<UserId, Option<i64>>,
    pub(super) devices: Recent<DeviceKey, DeviceRow>,
    pub(super) rooms: Recent<RoomId, Room>,
    pub(super) members: Recent<(i64, i64), Member>,
    pub(super) moments: Moments,
}

impl Memory {
    /// Makes an empty memory.
    pub(super) fn new(counters: Counters) -> Self {
        Self {
            counters,
            users: Recent::new(PEOPLE),
            devices: Recent::new(PEOPLE),
            rooms: Recent::new(ROOMS),
            members: Recent::new(MEMBERS),
            moments: Moments::default(),
        }
    }

    /// Forgets rows, which may hold what was rolled back.
    pub(super) fn forget_rows(&mut self) {
        self.users.clear();
        self.devices.clear();
        self.rooms.clear();
        self.members.clear();
    }

    /// Forgets users' rows of rooms.
    pub(super) fn forget_members(&mut self) {
        self.members.clear();
    }

    /// Called after a commit.
    pub(super) fn settle(&mut self) {
        self.moments.settle();
    }

    /// Returns a new key for an event.
    pub(super) fn next_event(&mut self) -> i64 {
        self.counters.event += 1;
        self.counters.event
    }

    /// Returns a new key for anything else.
    pub(super) fn next_other(&mut self) -> i64 {
        self.counters.other += 1;
        self.counters.other
    }

    /// Returns a new sequence number for a queue.
    pub(super) fn next_seq(&mut self) -> i64 {
        self.counters.seq += 1;
        self.counters.seq
    }

    /// Returns the key of a user of this server, if it is one.
    pub(super) fn user(&mut self, c: &mut Connection, user_id: &str) -> Result<Option<i64>, Error> {
        let key = UserId::from(user_id);
        if let Some(nid) = self.users.get(&key) {
            return Ok(*nid);
        }
        let nid: Option<i64> = with_connection!(c, |c| users::table
            .filter(users::user_id.eq(user_id))
            .select(users::nid)
            .first(c)
            .optional())?;
        self.users.put(key, nid);
        Ok(nid)
    }

    /// Returns the key of a user, who is made known if need be.
    pub(super) fn user_or_new(&mut self, c: &mut Connection, user_id: &UserId) -> Result<i64, Error> {
        if let Some(nid) = self.user(c, user_id.as_str())? {
            return Ok(nid);
        }
        let nid = self.next_other();
        with_connection!(c, |c| diesel::insert_into(users::table)
            .values((users::nid.eq(nid), users::user_id.eq(user_id.as_str())))
            .execute(c))?;
        self.users.put(user_id.clone(), Some(nid));
        Ok(nid)
    }

    /// Returns a device's row, if there is one.
    pub(super) fn device(&mut self, c: &mut Connection, key: &DeviceKey) -> Result<Option<DeviceRow>, Error> {
        if let Some(row) = self.devices.get(key) {
            return Ok(Some(row.clone()));
        }
        let Some(user_nid) = self.user(c, key.user_id.as_str())? else {
            return Ok(None);
        };
        let row: Option<DeviceRow> = with_connection!(c, |c| devices::table
            .filter(devices::user_nid.eq(user_nid))
            .filter(devices::device_id.eq(key.device_id.as_str()))
            .select(DeviceRow::as_select())
            .first(c)
            .optional())?;
        if let Some(row) = &row {
            self.devices.put(key.clone(), row.clone());
        }
        Ok(row)
    }

    /// Returns a device's row, which is made if need be.
    pub(super) fn device_or_new(&mut self, c: &mut Connection, key: &DeviceKey, now: i64) -> Result<DeviceRow, Error> {
        if let Some(row) = self.device(c, key)? {
            return Ok(row);
        }
        let user_nid = self.user_or_new(c, &key.user_id)?;
        let row = DeviceRow::unknown(self.next_other(), user_nid, &key.device_id, now);
        with_connection!(c, |c| diesel::insert_into(devices::table).values(&row).execute(c))?;
        self.devices.put(key.clone(), row.clone());
        Ok(row)
    }

    /// Takes a room out of the memory, or reads it. To be put back when it is done with.
    pub(super) fn take_room(&mut self, c: &mut Connection, room_id: &RoomId) -> Result<Option<Room>, Error> {
        if let Some(room) = self.rooms.take(room_id) {
            return Ok(Some(room));
        }
        let row: Option<RoomRow> = with_connection!(c, |c| rooms::table
            .filter(rooms::room_id.eq(room_id.as_str()))
            .select(RoomRow::as_select())
            .first(c)
            .optional())?;
        let Some(row) = row else {
            return Ok(None);
        };
        let nid = row.nid;
        let mut slots: Vec<Slot> = with_connection!(c, |c| events::table
            .filter(events::room_nid.eq(nid))
            .filter(events::ranking.is_not_null())
            .order(events::ranking.desc())
            .limit(SLOTS as i64)
            .select((events::nid, events::ranking.assume_not_null(), events::gap_before))
            .load::<(i64, i64, bool)>(c))?
        .into_iter()
        .map(|(nid, rank, gap_before)| Slot { nid, rank, gap_before })
        .collect();
        slots.reverse();
        let pending: Vec<(String, i64)> = with_connection!(c, |c| pending_redactions::table
            .filter(pending_redactions::room_nid.eq(nid))
            .select((pending_redactions::target, pending_redactions::redaction_nid))
            .load(c))?;
        Ok(Some(Room {
            nid,
            has_create: row.has_create,
            summary: Arc::new(row.summary()),
            slots,
            pending: pending.into_iter().map(|(id, nid)| (EventId::from(id), nid)).collect(),
            stored: true,
        }))
    }

    /// Takes a user's row of a room out of the memory, or reads it. To be put back when it is done with.
    pub(super) fn take_member(
        &mut self,
        c: &mut Connection,
        user_nid: i64,
        room: &Room,
    ) -> Result<Option<Member>, Error> {
        if let Some(member) = self.members.take(&(user_nid, room.nid)) {
            return Ok(Some(member));
        }
        if !room.stored {
            return Ok(None);
        }
        let row: Option<(UserRoomFacts, Vec<u8>)> = with_connection!(c, |c| user_rooms::table
            .find((user_nid, room.nid))
            .select((UserRoomFacts::as_select(), user_rooms::timeline))
            .first(c)
            .optional())?;
        let Some((facts, timeline)) = row else {
            return Ok(None);
        };
        let view = View::decode(&timeline)
            .ok_or_else(|| Error::inconsistent("user_rooms", format!("{user_nid}/{}", room.nid)))?;
        Ok(Some(Member {
            joined_pos: facts.joined_pos,
            gap_pending: facts.gap_pending,
            room: facts.room(room.summary.clone())?,
            view,
            stored: true,
        }))
    }
}
