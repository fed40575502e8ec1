//! Timelines into the shared order: finding what is known, placing what is not, and redacting.

use std::collections::HashMap;
use std::sync::Arc;

use diesel::prelude::*;

use super::Ingest;
use crate::ids::EventId;
use crate::model::batch::Batch;
use crate::model::event::{Event, ReceivedEvent};
use crate::room::order::{Arrival, Item, Slot, place};
use crate::room::redact;
use crate::store::connection::{KEYS_PER_SELECT, with_connection};
use crate::store::error::Error;
use crate::store::memory::{Room, SLOTS};
use crate::store::rows::{EventRow, StoredEvent};
use crate::store::schema::{events, pending_redactions};

/// Redactions of a room that wait for their target at most.
const PENDING: usize = 100;

/// A stored event, as far as merging is concerned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) nid: i64,
    pub(super) room_nid: i64,
    pub(super) rank: Option<i64>,
    /// Whether it was stored before this job.
    pub(super) old: bool,
}

/// How a timeline came to a user.
pub(super) struct Delivery<'a> {
    pub(super) timeline: &'a [&'a ReceivedEvent],
    pub(super) cursor: Option<i64>,
    pub(super) limited: bool,
    pub(super) stream_order: bool,
    pub(super) prev_batch: Option<&'a str>,
}

/// What placing a timeline and storing its events came to.
#[derive(Default)]
pub(super) struct Placed {
    /// Events of this response or of the store that were redacted, in their new form.
    pub(super) redacted: HashMap<EventId, Arc<Event>>,
    /// The same for events already stored, by key.
    pub(super) redacted_stored: Vec<(i64, Arc<Event>)>,
    /// Rank of the newest event before this response.
    pub(super) head: Option<i64>,
}

impl Placed {
    /// Returns an event in the form it has now.
    pub(super) fn current(&self, event: &Arc<Event>) -> Arc<Event> {
        self.redacted.get(&event.event_id).unwrap_or(event).clone()
    }
}

impl Ingest<'_> {
    /// Finds out which events of a batch are known.
    pub(super) fn look_up(&mut self, batch: &Batch) -> Result<(), Error> {
        let joined = batch
            .joined
            .iter()
            .flat_map(|room| room.state.iter().chain(&room.timeline));
        let left = batch.left.iter().flat_map(|room| &room.timeline);
        self.look_up_events(joined.chain(left).map(|event| &event.event.event_id))
    }

    /// Finds out which events are known.
    pub(super) fn look_up_events<'e>(&mut self, ids: impl Iterator<Item = &'e EventId>) -> Result<(), Error> {
        let ids: Vec<&str> = ids.map(EventId::as_str).collect();
        type Row = (String, i64, i64, Option<i64>);
        let columns = (events::event_id, events::nid, events::room_nid, events::ranking);
        let rows: Vec<Row> = if let [one] = ids.as_slice() {
            // The live case: one cached statement.
            with_connection!(&mut *self.c, |c| events::table
                .filter(events::event_id.eq(one))
                .select(columns)
                .load(c))?
        } else {
            let mut rows = Vec::new();
            for ids in ids.chunks(KEYS_PER_SELECT) {
                let part: Vec<Row> = with_connection!(&mut *self.c, |c| events::table
                    .filter(events::event_id.eq_any(ids))
                    .select(columns)
                    .load(c))?;
                rows.extend(part);
            }
            rows
        };
        for (id, nid, room_nid, rank) in rows {
            let known = Known {
                nid,
                room_nid,
                rank,
                old: true,
            };
            self.known.insert(EventId::from(id), known);
        }
        Ok(())
    }

    /// Returns the events that belong to the room, each once. The same ID in another room is somebody's lie.
    pub(super) fn own_events<'e>(&self, room: &Room, events: &'e [ReceivedEvent]) -> Vec<&'e ReceivedEvent> {
        let mut seen = std::collections::HashSet::new();
        events
            .iter()
            .filter(|received| {
                let id = &received.event.event_id;
                let foreign = self.known.get(id).is_some_and(|known| known.room_nid != room.nid);
                if foreign {
                    log::warn!(room_id:% = room.summary.room_id; "event is already known in another room, ignored");
                }
                !foreign && seen.insert(id)
            })
            .collect()
    }

    /// Stores a timeline and state events that are not part of it. Places the former.
    pub(super) fn store_events(
        &mut self,
        room: &mut Room,
        state: &[&ReceivedEvent],
        delivery: &Delivery<'_>,
    ) -> Result<Placed, Error> {
        let mut placed = Placed {
            head: room.slots.last().map(|slot| slot.rank),
            ..Placed::default()
        };
        let mut rows: Vec<EventRow> = Vec::new();
        let timeline = delivery.timeline;
        let items: Vec<Item> = timeline
            .iter()
            .enumerate()
            .map(|(index, received)| match self.known.get(&received.event.event_id) {
                Some(Known { nid, rank: Some(_), .. }) => Item::Known(*nid),
                _ => Item::New(index),
            })
            .collect();
        if !items.is_empty() {
            let placement = place(
                &room.slots,
                &Arrival {
                    items: &items,
                    cursor: delivery.cursor,
                    limited: delivery.limited,
                    stream_order: delivery.stream_order,
                    starts_with_create: &*timeline[0].event.event_type == "m.room.create",
                },
            );
            if !placement.new.is_empty() {
                let grown = self
                    .grown
                    .entry(room.nid)
                    .or_insert_with(|| (room.summary.room_id.clone(), 0));
                grown.1 += placement.new.len();
            }
            // Moves before inserts: an inserted row may take the place of a moved one only in rank, never in key.
            self.move_events(room, &placement.moved, &placement.gaps)?;
            for (index, rank, gap_before) in placement.new {
                let Some(received) = timeline.get(index) else {
                    continue;
                };
                let id = &received.event.event_id;
                let nid = match self.known.get(id) {
                    // Known as state only until now.
                    Some(known) => {
                        let nid = known.nid;
                        self.writes.flush(self.c)?;
                        with_connection!(&mut *self.c, |c| diesel::update(events::table.find(nid))
                            .set((events::ranking.eq(rank), events::gap_before.eq(gap_before)))
                            .execute(c))?;
                        nid
                    }
                    None => {
                        let nid = self.memory.next_event();
                        rows.push(row(nid, room.nid, &received.event, Some(rank), gap_before));
                        nid
                    }
                };
                let old = self.known.get(id).is_some_and(|known| known.old);
                let known = Known {
                    nid,
                    room_nid: room.nid,
                    rank: Some(rank),
                    old,
                };
                self.known.insert(id.clone(), known);
                room.slots.push(Slot { nid, rank, gap_before });
            }
            room.slots.sort_by_key(|slot| slot.rank);
            if room.slots.len() > SLOTS {
                room.slots.drain(..room.slots.len() - SLOTS);
            }
            self.set_prev_batch(&timeline[0].event, delivery.prev_batch, &mut rows)?;
        }
        for received in state {
            let id = &received.event.event_id;
            if self.known.contains_key(id) {
                continue;
            }
            let nid = self.memory.next_event();
            rows.push(row(nid, room.nid, &received.event, None, false));
            let known = Known {
                nid,
                room_nid: room.nid,
                rank: None,
                old: false,
            };
            self.known.insert(id.clone(), known);
        }
        self.redact(room, timeline, &mut rows, &mut placed)?;
        self.writes.events(rows);
        Ok(placed)
    }

    /// Returns where an event stands in its room's order.
    pub(super) fn rank(&mut self, nid: i64) -> Result<Option<i64>, Error> {
        let rank: Option<Option<i64>> = with_connection!(&mut *self.c, |c| events::table
            .find(nid)
            .select(events::ranking)
            .first(c)
            .optional())?;
        Ok(rank.flatten())
    }

    fn move_events(&mut self, room: &mut Room, moved: &[(i64, i64)], gaps: &[(i64, bool)]) -> Result<(), Error> {
        if moved.is_empty() && gaps.is_empty() {
            return Ok(());
        }
        self.writes.flush(self.c)?;
        for (nid, rank) in moved {
            with_connection!(&mut *self.c, |c| diesel::update(events::table.find(nid))
                .set(events::ranking.eq(rank))
                .execute(c))?;
            if let Some(slot) = room.slots.iter_mut().find(|slot| slot.nid == *nid) {
                slot.rank = *rank;
            }
        }
        for (nid, gap_before) in gaps {
            with_connection!(&mut *self.c, |c| diesel::update(events::table.find(nid))
                .set(events::gap_before.eq(gap_before))
                .execute(c))?;
            if let Some(slot) = room.slots.iter_mut().find(|slot| slot.nid == *nid) {
                slot.gap_before = *gap_before;
            }
        }
        let moved: HashMap<i64, i64> = moved.iter().copied().collect();
        for known in self.known.values_mut() {
            if let Some(rank) = moved.get(&known.nid) {
                known.rank = Some(*rank);
            }
        }
        Ok(())
    }

    /// Keeps the token for what precedes a timeline with its first event. The first token of an event stays: any will do.
    fn set_prev_batch(&mut self, first: &Event, token: Option<&str>, rows: &mut [EventRow]) -> Result<(), Error> {
        let Some(token) = token.filter(|token| !token.contains('\0')) else {
            return Ok(());
        };
        let Some(known) = self.known.get(&first.event_id).copied() else {
            return Ok(());
        };
        if let Some(row) = rows.iter_mut().find(|row| row.nid == known.nid) {
            row.prev_batch = Some(token.to_owned());
            return Ok(());
        }
        self.writes.flush(self.c)?;
        with_connection!(&mut *self.c, |c| diesel::update(events::table.find(known.nid))
            .filter(events::prev_batch.is_null())
            .set(events::prev_batch.eq(token))
            .execute(c))?;
        Ok(())
    }

    /// Applies the redactions of a timeline to events of this response, of the store, and to those yet to come.
    fn redact(
        &mut self,
        room: &mut Room,
        timeline: &[&ReceivedEvent],
        rows: &mut [EventRow],
        placed: &mut Placed,
    ) -> Result<(), Error> {
        let version = timeline
            .iter()
            .find(|received| &*received.event.event_type == "m.room.create")
            .map(|received| create_version(&received.event))
            .unwrap_or_else(|| room.summary.room_version.clone());
        for received in timeline {
            let redaction = &received.event;
            if &*redaction.event_type != "m.room.redaction" {
                continue;
            }
            let Some(target) = redact::target(redaction, &version) else {
                continue;
            };
            let Some(redaction_nid) = self.known.get(&redaction.event_id).map(|known| known.nid) else {
                continue;
            };
            if let Some(row) = rows.iter_mut().find(|row| row.event_id == target.as_str()) {
                redact_row(row, redaction, &version, placed)?;
                continue;
            }
            if target.as_str().contains('\0') {
                continue;
            }
            self.writes.flush(self.c)?;
            let stored: Option<StoredEvent> = with_connection!(&mut *self.c, |c| events::table
                .filter(events::event_id.eq(target.as_str()))
                .filter(events::room_nid.eq(room.nid))
                .select(StoredEvent::as_select())
                .first(c)
                .optional())?;
            match stored {
                Some(stored) if stored.redacted => {}
                Some(stored) => {
                    let nid = stored.nid;
                    let event = Arc::new(redact::redacted(&*stored.event()?, redaction, &version));
                    let body = event.raw.get().as_bytes();
                    with_connection!(&mut *self.c, |c| diesel::update(events::table.find(nid))
                        .set((events::body.eq(body), events::redacted.eq(true)))
                        .execute(c))?;
                    placed.redacted_stored.push((nid, event.clone()));
                    placed.redacted.insert(event.event_id.clone(), event);
                }
                None => self.remember_redaction(room, target, redaction_nid)?,
            }
        }
        if room.pending.is_empty() {
            return Ok(());
        }
        for row in rows.iter_mut().filter(|row| !row.redacted) {
            let Some(redaction_nid) = room.pending.remove(row.event_id.as_str()) else {
                continue;
            };
            let redaction: Option<StoredEvent> = with_connection!(&mut *self.c, |c| events::table
                .find(redaction_nid)
                .select(StoredEvent::as_select())
                .first(c)
                .optional())?;
            if let Some(redaction) = redaction {
                redact_row(row, &*redaction.event()?, &version, placed)?;
            }
            let key = (room.nid, row.event_id.as_str());
            with_connection!(&mut *self.c, |c| diesel::delete(pending_redactions::table.find(key))
                .execute(c))?;
        }
        Ok(())
    }

    fn remember_redaction(&mut self, room: &mut Room, target: EventId, redaction_nid: i64) -> Result<(), Error> {
        if room.pending.contains_key(&target) {
            return Ok(());
        }
        if room.pending.len() >= PENDING
            && let Some((oldest, _)) = room.pending.iter().min_by_key(|(_, nid)| **nid)
        {
            let oldest = oldest.clone();
            let key = (room.nid, oldest.as_str());
            with_connection!(&mut *self.c, |c| diesel::delete(pending_redactions::table.find(key))
                .execute(c))?;
            room.pending.remove(&oldest);
        }
        with_connection!(&mut *self.c, |c| diesel::insert_into(pending_redactions::table)
            .values((
                pending_redactions::room_nid.eq(room.nid),
                pending_redactions::target.eq(target.as_str()),
                pending_redactions::redaction_nid.eq(redaction_nid),
            ))
            .execute(c))?;
        room.pending.insert(target, redaction_nid);
        Ok(())
    }
}

fn row(nid: i64, room_nid: i64, event: &Event, ranking: Option<i64>, gap_before: bool) -> EventRow {
    EventRow {
        nid,
        event_id: event.event_id.as_str().to_owned(),
        room_nid,
        ranking,
        gap_before,
        prev_batch: None,
        event_type: event.event_type.to_string(),
        state_key: event.state_key.as_deref().map(str::to_owned),
        sender: event.sender.as_str().to_owned(),
        origin_server_ts: event.origin_server_ts,
        redacted: false,
        body: event.raw.get().as_bytes().to_vec(),
    }
}

fn redact_row(row: &mut EventRow, redaction: &Event, version: &str, placed: &mut Placed) -> Result<(), Error> {
    let stored = StoredEvent {
        nid: row.nid,
        event_id: row.event_id.clone(),
        event_type: row.event_type.clone(),
        state_key: row.state_key.clone(),
        sender: row.sender.clone(),
        origin_server_ts: row.origin_server_ts,
        redacted: false,
        body: std::mem::take(&mut row.body),
    };
    let event = Arc::new(redact::redacted(&*stored.event()?, redaction, version));
    row.body = event.raw.get().as_bytes().to_vec();
    row.redacted = true;
    placed.redacted.insert(event.event_id.clone(), event);
    Ok(())
}

fn create_version(create: &Event) -> String {
    #[derive(serde::Deserialize)]
    struct Content {
        room_version: Option<String>,
    }
    create
        .content::<Content>()
        .and_then(|content| content.room_version)
        .unwrap_or_else(|| "1".to_owned())
}
