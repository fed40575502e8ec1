//! State: which of several answers about an entry counts (upstream.md 4.5), and what follows from it.

use std::collections::HashMap;
use std::sync::Arc;

use diesel::prelude::*;

use super::Ingest;
use super::events::Placed;
use crate::clock::Moment;
use crate::ids::UserId;
use crate::model::batch::{MemberList, StateKey, StateRepair};
use crate::model::event::{Event, ReceivedEvent};
use crate::model::room::{Hero, Membership, RoomSummary, UserRoom};
use crate::room::summary::{apply, member_content};
use crate::store::connection::{KEYS_PER_SELECT, with_connection};
use crate::store::error::Error;
use crate::store::memory::Room;
use crate::store::rows::{CURRENT, StateRow, StoredEvent};
use crate::store::schema::{events, state};

/// `m.room.member`.
pub(super) const MEMBER: &str = "m.room.member";
/// Members that a room without a name is called by.
const HEROES: usize = 5;
/// Keys looked up one by one with a cached statement; more go into one statement.
const FEW: usize = 4;

/// A state entry as a response has it.
pub(super) struct Candidate {
    pub(super) event: Arc<Event>,
    pub(super) key: StateKey,
    pub(super) nid: i64,
    pub(super) rank: Option<i64>,
    pub(super) in_timeline: bool,
}

/// A response as far as the freshness guard is concerned.
#[derive(Clone, Copy)]
pub(super) struct Times {
    pub(super) sent_at: Moment,
    pub(super) received_at: Moment,
}

/// What applying state came to.
#[derive(Default)]
pub(super) struct Applied {
    /// Entries of the response that are current now, changed or not.
    pub(super) current: Vec<Arc<Event>>,
    /// Member entries that changed.
    pub(super) members: Vec<Arc<Event>>,
    /// Whether the response is newer than what was known of the room.
    pub(super) newer: bool,
}

impl Ingest<'_> {
    /// Returns the last word of a response on each state entry.
    pub(super) fn candidates(&self, state: &[&ReceivedEvent], timeline: &[&ReceivedEvent]) -> Vec<Candidate> {
        let mut at: HashMap<StateKey, usize> = HashMap::new();
        let mut out: Vec<Candidate> = Vec::new();
        let all = state
            .iter()
            .map(|event| (event, false))
            .chain(timeline.iter().map(|event| (event, true)));
        for (received, in_timeline) in all {
            let event = &received.event;
            let (Some(state_key), Some(known)) = (&event.state_key, self.known.get(&event.event_id)) else {
                continue;
            };
            let key = StateKey {
                event_type: event.event_type.to_string(),
                state_key: state_key.to_string(),
            };
            let candidate = Candidate {
                event: event.clone(),
                key: key.clone(),
                nid: known.nid,
                rank: known.rank,
                in_timeline: in_timeline || known.rank.is_some(),
            };
            match at.get(&key) {
                Some(index) => out[*index] = candidate,
                None => {
                    at.insert(key, out.len());
                    out.push(candidate);
                }
            }
        }
        out
    }

    /// Applies what a response says about a room's state.
    pub(super) fn apply_state(
        &mut self,
        room: &mut Room,
        candidates: &[Candidate],
        times: Times,
        placed: &Placed,
        counted: bool,
    ) -> Result<Applied, Error> {
        let mut applied = Applied {
            newer: self.memory.moments.is_newer(room.nid, times.sent_at),
            ..Applied::default()
        };
        if candidates.is_empty() {
            return Ok(applied);
        }
        let current = self.current(room, candidates)?;
        let mut summary = (*room.summary).clone();
        let mut changed = false;
        for candidate in candidates {
            let held = current.get(&candidate.key).copied();
            let event = placed.current(&candidate.event);
            if held == Some(candidate.nid) {
                applied.current.push(event);
                continue;
            }
            if let Some(held) = held
                && !applied.newer
                && !self.overrides(room, candidate, held, placed)?
            {
                continue;
            }
            if !counted && candidate.key.event_type == MEMBER {
                self.count(&mut summary, held, &event)?;
            }
            self.set_state(room.nid, &candidate.key, held, Some(candidate.nid))?;
            changed = true;
            room.has_create |= candidate.key.event_type == "m.room.create" && candidate.key.state_key.is_empty();
            apply(
                &mut summary,
                &candidate.key.event_type,
                &candidate.key.state_key,
                Some(&*event),
            );
            if candidate.key.event_type == MEMBER {
                applied.members.push(event.clone());
            }
            applied.current.push(event);
        }
        if changed {
            self.memory.moments.state_changed(room.nid, times.received_at);
        }
        self.set_summary(room, summary);
        Ok(applied)
    }

    /// Replaces the room's summary if it changed.
    pub(super) fn set_summary(&mut self, room: &mut Room, summary: RoomSummary) {
        if *room.summary != summary {
            room.summary = Arc::new(summary);
        }
    }

    /// Decides whether an entry of an overlapping response counts; notes a doubt if that cannot be told.
    fn overrides(&mut self, room: &Room, candidate: &Candidate, held: i64, placed: &Placed) -> Result<bool, Error> {
        if candidate.key.event_type == MEMBER && !room.summary.members_complete && !candidate.in_timeline {
            return Ok(false);
        }
        self.writes.flush(self.c)?;
        let was_current: i64 = with_connection!(&mut *self.c, |c| state::table
            .filter(state::event_nid.eq(candidate.nid))
            .count()
            .get_result(c))?;
        if was_current > 0 {
            // Superseded by something that we have seen since.
            return Ok(false);
        }
        let held_rank = self.rank(held)?;
        if let Some(rank) = candidate.rank {
            if let Some(held_rank) = held_rank {
                return Ok(rank > held_rank);
            }
            if placed.head.is_none_or(|head| rank > head) {
                return Ok(true);
            }
        }
        if candidate.key.event_type != MEMBER || room.summary.members_complete {
            self.doubts.push((room.summary.room_id.clone(), candidate.key.clone()));
        }
        Ok(false)
    }

    /// Returns which events are the current entries for the keys of `candidates`.
    fn current(&mut self, room: &Room, candidates: &[Candidate]) -> Result<HashMap<StateKey, i64>, Error> {
        let mut out = HashMap::new();
        if self.created.contains(&room.nid) {
            return Ok(out);
        }
        if candidates.len() <= FEW {
            for candidate in candidates {
                if let Some(nid) = self.current_entry(room.nid, &candidate.key)? {
                    out.insert(candidate.key.clone(), nid);
                }
            }
            return Ok(out);
        }
        let mut types: Vec<&str> = candidates
            .iter()
            .map(|candidate| candidate.key.event_type.as_str())
            .collect();
        types.retain(|event_type| *event_type != MEMBER);
        types.sort_unstable();
        types.dedup();
        let members: Vec<&str> = candidates
            .iter()
            .filter(|candidate| candidate.key.event_type == MEMBER)
            .map(|candidate| candidate.key.state_key.as_str())
            .collect();
        let columns = (state::event_type, state::state_key, state::event_nid);
        let mut rows: Vec<(String, String, i64)> = Vec::new();
        for types in types.chunks(KEYS_PER_SELECT) {
            let part: Vec<(String, String, i64)> = with_connection!(&mut *self.c, |c| state::table
                .filter(state::room_nid.eq(room.nid))
                .filter(state::event_type.eq_any(types))
                .filter(state::until_pos.eq(CURRENT))
                .select(columns)
                .load(c))?;
            rows.extend(part);
        }
        for members in members.chunks(KEYS_PER_SELECT) {
            let part: Vec<(String, String, i64)> = with_connection!(&mut *self.c, |c| state::table
                .filter(state::room_nid.eq(room.nid))
                .filter(state::event_type.eq(MEMBER))
                .filter(state::state_key.eq_any(members))
                .filter(state::until_pos.eq(CURRENT))
                .select(columns)
                .load(c))?;
            rows.extend(part);
        }
        for (event_type, state_key, nid) in rows {
            out.insert(StateKey { event_type, state_key }, nid);
        }
        Ok(out)
    }

    /// Returns which event is the current entry for a key.
    pub(super) fn current_entry(&mut self, room_nid: i64, key: &StateKey) -> Result<Option<i64>, Error> {
        let key = (room_nid, key.event_type.as_str(), key.state_key.as_str(), CURRENT);
        Ok(with_connection!(&mut *self.c, |c| state::table
            .find(key)
            .select(state::event_nid)
            .first(c)
            .optional())?)
    }

    /// Ends the current entry, if there is one, and makes another.
    fn set_state(
        &mut self,
        room_nid: i64,
        key: &StateKey,
        held: Option<i64>,
        event_nid: Option<i64>,
    ) -> Result<(), Error> {
        if held.is_some() {
            let found = with_connection!(&mut *self.c, |c| diesel::update(state::table.find((
                room_nid,
                key.event_type.as_str(),
                key.state_key.as_str(),
                CURRENT
            )))
            .set((state::until_pos.eq(self.position), state::ended_ms.eq(self.now)))
            .execute(c))?;
            if found != 1 {
                return Err(Error::inconsistent("state", format!("{room_nid}/{}", key.event_type)));
            }
        }
        if let Some(event_nid) = event_nid {
            self.writes.state(StateRow {
                room_nid,
                event_type: key.event_type.clone(),
                state_key: key.state_key.clone(),
                until_pos: CURRENT,
                from_pos: self.position,
                event_nid,
                ended_ms: 0,
            });
        }
        Ok(())
    }

    /// Adjusts member counts by a membership change, for homeservers that send none.
    fn count(&mut self, summary: &mut RoomSummary, held: Option<i64>, event: &Event) -> Result<(), Error> {
        let old = match held {
            Some(nid) => self
                .event(nid)?
                .and_then(|event| member_content(&event))
                .map(|member| member.membership),
            None => previous_membership(event),
        };
        let new = member_content(event).map(|member| member.membership);
        let step = |count: i64, which: Membership| {
            let count = count + i64::from(new == Some(which)) - i64::from(old == Some(which));
            count.max(0)
        };
        summary.joined_count = step(summary.joined_count, Membership::Join);
        summary.invited_count = step(summary.invited_count, Membership::Invite);
        Ok(())
    }

    /// Reads an event.
    pub(super) fn event(&mut self, nid: i64) -> Result<Option<Arc<Event>>, Error> {
        self.writes.flush(self.c)?;
        let stored: Option<StoredEvent> = with_connection!(&mut *self.c, |c| events::table
            .find(nid)
            .select(StoredEvent::as_select())
            .first(c)
            .optional())?;
        stored.map(StoredEvent::event).transpose()
    }

    /// Recomputes what depends on stored state events that were redacted. Returns those that are current.
    pub(super) fn apply_redactions(&mut self, room: &mut Room, placed: &Placed) -> Result<Vec<Arc<Event>>, Error> {
        let mut out = Vec::new();
        for (nid, event) in &placed.redacted_stored {
            let Some(state_key) = &event.state_key else {
                continue;
            };
            let key = StateKey {
                event_type: event.event_type.to_string(),
                state_key: state_key.to_string(),
            };
            if self.current_entry(room.nid, &key)? == Some(*nid) {
                let mut summary = (*room.summary).clone();
                apply(&mut summary, &key.event_type, &key.state_key, Some(&**event));
                self.set_summary(room, summary);
                out.push(event.clone());
            }
        }
        Ok(out)
    }

    /// Refreshes the members that a user's room is called by. Returns whether they changed.
    pub(super) fn heroes(
        &mut self,
        room: &Room,
        user_id: &UserId,
        entry: &mut UserRoom,
        given: Option<&[UserId]>,
        members: &[Arc<Event>],
    ) -> Result<bool, Error> {
        let ids: Vec<UserId> = match given {
            Some(ids) => ids
                .iter()
                .filter(|id| super::storable(id))
                .take(HEROES)
                .cloned()
                .collect(),
            None if !entry.heroes.is_empty() => {
                let touched = |hero: &Hero| members.iter().any(|event| is_member(event, &hero.user_id));
                if !entry.heroes.iter().any(touched) {
                    return Ok(false);
                }
                entry.heroes.iter().map(|hero| hero.user_id.clone()).collect()
            }
            None if !members.iter().any(|event| &*event.event_type == MEMBER)
                || room.summary.name.is_some()
                || room.summary.canonical_alias.is_some() =>
            {
                return Ok(false);
            }
            None => self.known_members(room, user_id)?,
        };
        let mut heroes = Vec::with_capacity(ids.len());
        for id in ids {
            let event = match members.iter().rev().find(|event| is_member(event, &id)) {
                Some(event) => Some(event.clone()),
                None => self.member_event(room, &id)?,
            };
            let content = event.and_then(|event| member_content(&event));
            let text = |value: Option<String>| value.filter(|value| !value.is_empty());
            heroes.push(Hero {
                displayname: content.as_ref().and_then(|content| text(content.displayname.clone())),
                avatar_url: content.and_then(|content| text(content.avatar_url)),
                user_id: id,
            });
        }
        if *entry.heroes == *heroes {
            return Ok(false);
        }
        entry.heroes = heroes.into();
        Ok(true)
    }

    fn member_event(&mut self, room: &Room, user_id: &UserId) -> Result<Option<Arc<Event>>, Error> {
        // What this response brought has been looked at already, and a new room has nothing else.
        if self.created.contains(&room.nid) {
            return Ok(None);
        }
        let key = StateKey {
            event_type: MEMBER.to_owned(),
            state_key: user_id.as_str().to_owned(),
        };
        match self.current_entry(room.nid, &key)? {
            Some(nid) => self.event(nid),
            None => Ok(None),
        }
    }

    /// Returns a few members, without the user.
    fn known_members(&mut self, room: &Room, user_id: &UserId) -> Result<Vec<UserId>, Error> {
        self.writes.flush(self.c)?;
        let rows: Vec<StoredEvent> = with_connection!(&mut *self.c, |c| state::table
            .inner_join(events::table)
            .filter(state::room_nid.eq(room.nid))
            .filter(state::event_type.eq(MEMBER))
            .filter(state::until_pos.eq(CURRENT))
            .filter(state::state_key.ne(user_id.as_str()))
            .order(state::state_key)
            .limit(50)
            .select(StoredEvent::as_select())
            .load(c))?;
        let mut out = Vec::new();
        for row in rows {
            let event = row.event()?;
            let inside = member_content(&event)
                .is_some_and(|member| matches!(member.membership, Membership::Join | Membership::Invite));
            if let (true, Some(id)) = (inside, &event.state_key) {
                out.push(UserId::from(&**id));
            }
        }
        out.truncate(HEROES);
        Ok(out)
    }

    /// Stores a room's whole member list.
    pub(super) fn member_list(&mut self, list: &MemberList) -> Result<(), Error> {
        let Some(mut room) = self.memory.take_room(self.c, &list.room_id)? else {
            return Ok(());
        };
        let before = (room.summary.clone(), room.has_create);
        let members: Vec<&ReceivedEvent> = self
            .own_events(&room, &list.members)
            .into_iter()
            .filter(|received| &*received.event.event_type == MEMBER)
            .collect();
        let placed = self.store_state_only(&mut room, &members)?;
        let candidates = self.candidates(&members, &[]);
        let times = Times {
            sent_at: list.sent_at,
            received_at: list.received_at,
        };
        let applied = self.apply_state(&mut room, &candidates, times, &placed, true)?;
        let mut summary = (*room.summary).clone();
        summary.members_complete = true;
        if applied.newer {
            let count = |which| {
                let of = |event: &&&ReceivedEvent| {
                    member_content(&event.event).is_some_and(|member| member.membership == which)
                };
                i64::try_from(members.iter().filter(of).count()).unwrap_or(i64::MAX)
            };
            summary.joined_count = count(Membership::Join);
            summary.invited_count = count(Membership::Invite);
        }
        self.set_summary(&mut room, summary);
        self.end_members(&room, &applied.members, times, None)?;
        self.finish_room(room, &before)
    }

    /// Stores one entry as the homeserver has it now.
    pub(super) fn state_repair(&mut self, repair: &StateRepair) -> Result<(), Error> {
        let Some(mut room) = self.memory.take_room(self.c, &repair.room_id)? else {
            return Ok(());
        };
        let before = (room.summary.clone(), room.has_create);
        let times = Times {
            sent_at: repair.sent_at,
            received_at: repair.received_at,
        };
        match &repair.event {
            Some(event) => {
                let events = self.own_events(&room, std::slice::from_ref(event));
                let placed = self.store_state_only(&mut room, &events)?;
                let mut candidates = self.candidates(&events, &[]);
                candidates.retain(|candidate| candidate.key == repair.key);
                let applied = self.apply_state(&mut room, &candidates, times, &placed, false)?;
                self.end_members(&room, &applied.members, times, None)?;
            }
            None if self.memory.moments.is_newer(room.nid, times.sent_at) => {
                if let Some(held) = self.current_entry(room.nid, &repair.key)? {
                    self.set_state(room.nid, &repair.key, Some(held), None)?;
                    let mut summary = (*room.summary).clone();
                    apply(&mut summary, &repair.key.event_type, &repair.key.state_key, None);
                    self.set_summary(&mut room, summary);
                    self.memory.moments.state_changed(room.nid, times.received_at);
                }
            }
            None => {}
        }
        self.finish_room(room, &before)
    }

    fn store_state_only(&mut self, room: &mut Room, state: &[&ReceivedEvent]) -> Result<Placed, Error> {
        let delivery = super::events::Delivery {
            timeline: &[],
            cursor: None,
            limited: false,
            stream_order: false,
            prev_batch: None,
        };
        self.store_events(room, state, &delivery)
    }

    /// Writes a room's row if it differs from `before`, and puts the room back.
    pub(super) fn finish_room(&mut self, mut room: Room, before: &(Arc<RoomSummary>, bool)) -> Result<(), Error> {
        let (summary, has_create) = before;
        if room.summary != *summary {
            self.summaries.push(room.summary.clone());
        }
        if room.summary != *summary || room.has_create != *has_create {
            self.writes.room(self.c, &mut room)?;
        }
        self.put_room(room);
        Ok(())
    }
}

fn is_member(event: &Event, user_id: &UserId) -> bool {
    &*event.event_type == MEMBER && event.state_key.as_deref() == Some(user_id.as_str())
}

/// The membership before an event, by the event's own word.
fn previous_membership(event: &Event) -> Option<Membership> {
    #[derive(serde::Deserialize)]
    struct Outer {
        unsigned: Option<Unsigned>,
        prev_content: Option<Previous>,
    }
    #[derive(serde::Deserialize)]
    struct Unsigned {
        prev_content: Option<Previous>,
    }
    #[derive(serde::Deserialize)]
    struct Previous {
        membership: Option<String>,
    }
    let outer: Outer = serde_json::from_str(event.raw.get()).ok()?;
    let previous = outer
        .unsigned
        .and_then(|unsigned| unsigned.prev_content)
        .or(outer.prev_content)?;
    Membership::parse(&previous.membership?)
}
