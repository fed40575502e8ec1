//! A room under `join`: events into the shared order and the user's view, state, counts, and the user's own facts.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use diesel::prelude::*;
use diesel::upsert::excluded;

use super::Ingest;
use super::events::{Delivery, Placed};
use super::state::{MEMBER, Times};
use crate::ids::UserId;
use crate::model::batch::{AccountData, Batch, JoinedRoom, Receipt};
use crate::model::change::RoomChange;
use crate::model::event::{Event, ReceivedEvent};
use crate::model::position::Position;
use crate::model::room::{Membership, RoomSummary, UserRoom};
use crate::room::summary::member_content;
use crate::store::connection::{insert_rows, with_connection};
use crate::store::error::Error;
use crate::store::memory::{Member, Room};
use crate::store::schema::receipts;
use crate::store::view::{Entry, View};

/// What a timeline added to a user's view.
pub(super) struct Witnessed {
    pub(super) events: Vec<Arc<Event>>,
    pub(super) transaction_ids: BTreeMap<crate::ids::EventId, String>,
    pub(super) limited: bool,
    pub(super) prev_batch: Option<String>,
}

/// Where the user's stay begins, as far as a response says.
struct Stay {
    /// Index of the join in the timeline.
    join: Option<usize>,
    /// `origin_server_ts` of the join, if the user was not joined before.
    joined_ts: Option<i64>,
}

impl Ingest<'_> {
    /// Stores a joined room. Returns what changed for the user; nothing while the room cannot be shown.
    pub(super) fn joined(
        &mut self,
        batch: &Batch,
        user_nid: i64,
        joined: &JoinedRoom,
    ) -> Result<Option<RoomChange>, Error> {
        let user_id = &batch.device.user_id;
        let mut room = self.room_or_new(&joined.room_id)?;
        let before = (room.summary.clone(), room.has_create);
        let is_new = self.created.contains(&room.nid);
        let mut member = match self.memory.take_member(self.c, user_nid, &room)? {
            Some(member) => member,
            None => Member::unknown(&room),
        };
        let was_joined = member.room.membership == Membership::Join;
        let state = self.own_events(&room, &joined.state);
        let timeline = self.own_events(&room, &joined.timeline);
        let stay = own_stay(user_id, was_joined, &state, &timeline);
        let limited = joined.limited || member.gap_pending;
        let in_order = was_joined && batch.since_in.is_some();
        let delivery = Delivery {
            timeline: &timeline,
            cursor: member
                .view
                .entries
                .last()
                .filter(|_| in_order && !limited)
                .map(|entry| entry.nid),
            limited: limited || !was_joined,
            stream_order: in_order,
            prev_batch: joined.prev_batch.as_deref(),
        };
        let placed = self.store_events(&mut room, &state, &delivery)?;
        let times = Times {
            sent_at: batch.sent_at,
            received_at: batch.received_at,
        };
        // MSC4222: then the timeline never changes the state.
        let effective: &[&ReceivedEvent] = if joined.state_after { &[] } else { &timeline };
        let candidates = self.candidates(&state, effective);
        let counted = joined.summary.joined_count.is_some()
            || (!is_new && !joined.state.is_empty() && joined.timeline.is_empty());
        if !was_joined && !is_new {
            self.doubt_members(user_nid, &mut room)?;
        }
        let applied = self.apply_state(&mut room, &candidates, times, &placed, counted)?;
        let mut changed_state = applied.current.clone();
        changed_state.extend(self.apply_redactions(&mut room, &placed)?);
        self.take_counts(&mut room, joined, applied.newer || is_new);
        self.memory
            .moments
            .confirm_join(user_nid, room.nid, batch.sent_at, batch.received_at);
        self.end_members(&room, &applied.members, times, Some(user_nid))?;

        if !was_joined {
            // An earlier stay is the homeserver's business (`/messages`).
            member.view = View::default();
            member.joined_pos = self.position;
            member.room.joined_ts = 0;
        }
        if let Some(ts) = stay.joined_ts {
            member.room.joined_ts = ts;
            member.joined_pos = self.position;
        }
        let witnessed = self.witness(
            &mut member,
            &timeline,
            &placed,
            joined.prev_batch.as_deref(),
            limited,
            stay.join,
        );
        let account_data = self.account_data(user_nid, room.nid, &joined.account_data)?;
        let receipts = self.receipts(user_id, &room, &joined.receipts)?;
        let mut changed = self.own_facts(&mut member.room, joined, &account_data);
        changed |= self.heroes(
            &room,
            user_id,
            &mut member.room,
            joined.summary.heroes.as_deref(),
            &applied.current,
        )?;
        changed |= !was_joined
            || !witnessed.events.is_empty()
            || !changed_state.is_empty()
            || !account_data.is_empty()
            || room.summary != before.0
            || room.has_create != before.1;
        member.room.membership = Membership::Join;
        member.room.stripped = None;
        member.room.summary = room.summary.clone();
        let touched_view = !timeline.is_empty();
        if changed {
            member.room.changed = Position(self.position);
        }
        let shown = room.has_create;
        if !shown {
            self.rooms_without_create.push(joined.room_id.clone());
        }
        let change = RoomChange {
            room: Arc::new(member.room.clone()),
            events: witnessed.events,
            transaction_ids: witnessed.transaction_ids,
            limited: witnessed.limited,
            prev_batch: witnessed.prev_batch,
            state: changed_state,
            account_data,
            receipts,
            typing: joined.typing.as_ref().map(|users| Arc::from(users.as_slice())),
            entry_changed: changed,
        };
        let nid = room.nid;
        self.finish_room(room, &before)?;
        if changed || touched_view || !member.stored {
            self.save_member(user_nid, nid, member)?;
        } else {
            self.memory.members.put((user_nid, nid), member);
        }
        let something =
            changed || !change.receipts.is_empty() || change.typing.is_some() || !change.transaction_ids.is_empty();
        Ok((shown && something).then_some(change))
    }

    /// Adds a timeline to the user's view; returns what the user had not been given before.
    pub(super) fn witness(
        &mut self,
        member: &mut Member,
        timeline: &[&ReceivedEvent],
        placed: &Placed,
        prev_batch: Option<&str>,
        limited: bool,
        join: Option<usize>,
    ) -> Witnessed {
        let mut out = Witnessed {
            events: Vec::new(),
            transaction_ids: BTreeMap::new(),
            limited: false,
            prev_batch: None,
        };
        if timeline.is_empty() {
            return out;
        }
        member.gap_pending = false;
        if join.is_some() {
            member.view = View::default();
        }
        let start = join.unwrap_or(0);
        for (index, received) in timeline.iter().enumerate().skip(start) {
            let event = &received.event;
            let Some(known) = self.known.get(&event.event_id) else {
                continue;
            };
            if let Some(entry) = member.view.get_mut(known.nid) {
                // Another device's poller was first; only this one is told the transaction ID.
                if let Some(transaction_id) = &received.transaction_id {
                    out.transaction_ids
                        .insert(event.event_id.clone(), transaction_id.clone());
                }
                // Its predecessor is in the same response: whatever was missing before it is not missing any more.
                if index > start {
                    entry.gap_before = false;
                }
                continue;
            }
            let gap_before = index == 0 && limited && &*event.event_type != "m.room.create";
            member.view.entries.push(Entry {
                nid: known.nid,
                position: self.position,
                gap_before,
            });
            if out.events.is_empty() {
                out.limited = gap_before;
                out.prev_batch = prev_batch.filter(|_| index == 0).map(str::to_owned);
            }
            if let Some(transaction_id) = &received.transaction_id {
                out.transaction_ids
                    .insert(event.event_id.clone(), transaction_id.clone());
            }
            out.events.push(placed.current(event));
            if index + 1 == timeline.len() {
                // The sender chooses the timestamp; one in the future would pin the room on top.
                member.room.recency = event.origin_server_ts.min(self.now);
            }
        }
        member.view.trim(self.keep);
        out
    }

    /// Takes over counts that the homeserver sent, if they are not older than what is known.
    fn take_counts(&mut self, room: &mut Room, joined: &JoinedRoom, newer: bool) {
        if !newer {
            return;
        }
        let mut summary: RoomSummary = (*room.summary).clone();
        if let Some(count) = joined.summary.joined_count {
            summary.joined_count = count.max(0);
        }
        if let Some(count) = joined.summary.invited_count {
            summary.invited_count = count.max(0);
        }
        self.set_summary(room, summary);
    }

    /// A room that none of our users was in for a while may have other members now than when its list was complete.
    fn doubt_members(&mut self, user_nid: i64, room: &mut Room) -> Result<(), Error> {
        if !room.summary.members_complete {
            return Ok(());
        }
        use crate::store::schema::user_rooms;
        self.writes.flush(self.c)?;
        let others: i64 = with_connection!(&mut *self.c, |c| user_rooms::table
            .filter(user_rooms::room_nid.eq(room.nid))
            .filter(user_rooms::user_nid.ne(user_nid))
            .filter(user_rooms::membership.eq(Membership::Join.as_str()))
            .count()
            .get_result(c))?;
        if others == 0 {
            let mut summary = (*room.summary).clone();
            summary.members_complete = false;
            self.set_summary(room, summary);
        }
        Ok(())
    }

    /// Takes over what is the user's own. Returns whether anything changed.
    fn own_facts(&mut self, entry: &mut UserRoom, joined: &JoinedRoom, account_data: &[AccountData]) -> bool {
        let mut changed = false;
        if let Some(unread) = joined.unread
            && unread != entry.unread
        {
            entry.unread = unread;
            changed = true;
        }
        if let Some(tag) = account_data.iter().rev().find(|item| item.kind == "m.tag") {
            let tags = tags(tag);
            if *entry.tags != *tags {
                entry.tags = tags.into();
                changed = true;
            }
        }
        changed
    }

    /// Stores receipts and returns those that are news.
    fn receipts(&mut self, user_id: &UserId, room: &Room, received: &[Receipt]) -> Result<Vec<Receipt>, Error> {
        let storable = |receipt: &&Receipt| {
            let texts = [
                receipt.user_id.as_str(),
                &receipt.kind,
                receipt.thread_id.as_deref().unwrap_or_default(),
                receipt.event_id.as_str(),
            ];
            // A private receipt is its owner's, whatever a homeserver may send.
            texts.iter().all(|text| !text.contains('\0'))
                && (receipt.kind != "m.read.private" || receipt.user_id == *user_id)
        };
        type Key<'r> = (&'r str, &'r str, &'r str);
        fn key(receipt: &Receipt) -> Key<'_> {
            let thread = receipt.thread_id.as_deref().unwrap_or_default();
            (receipt.user_id.as_str(), &receipt.kind, thread)
        }
        let mut latest: HashMap<Key<'_>, &Receipt> = HashMap::new();
        for receipt in received.iter().filter(storable) {
            let slot = latest.entry(key(receipt)).or_insert(receipt);
            if receipt.ts >= slot.ts {
                *slot = receipt;
            }
        }
        if latest.is_empty() {
            return Ok(Vec::new());
        }
        let stored = self.stored_receipts(room, latest.values().copied())?;
        let mut news: Vec<&Receipt> = latest
            .into_values()
            .filter(|receipt| {
                let (user, kind, thread) = key(receipt);
                let old = stored.get(&(user.to_owned(), kind.to_owned(), thread.to_owned()));
                old.is_none_or(|(event_id, ts)| receipt.ts >= *ts && event_id != receipt.event_id.as_str())
            })
            .collect();
        news.sort_by_key(|receipt| (receipt.ts, key(receipt)));
        let rows: Vec<_> = news
            .iter()
            .map(|receipt| {
                let (user, kind, thread) = key(receipt);
                (
                    receipts::room_nid.eq(room.nid),
                    receipts::user_id.eq(user),
                    receipts::kind.eq(kind),
                    receipts::thread.eq(thread),
                    receipts::event_id.eq(receipt.event_id.as_str()),
                    receipts::ts.eq(receipt.ts),
                )
            })
            .collect();
        if !rows.is_empty() {
            self.writes.flush_rooms(self.c)?;
        }
        insert_rows!(&mut *self.c, &rows, |values| diesel::insert_into(receipts::table)
            .values(values)
            .on_conflict((receipts::room_nid, receipts::user_id, receipts::kind, receipts::thread))
            .do_update()
            .set((
                receipts::event_id.eq(excluded(receipts::event_id)),
                receipts::ts.eq(excluded(receipts::ts)),
            )));
        Ok(news.into_iter().cloned().collect())
    }

    #[expect(clippy::type_complexity, reason = "the key and value of one receipt")]
    fn stored_receipts<'r>(
        &mut self,
        room: &Room,
        wanted: impl ExactSizeIterator<Item = &'r Receipt>,
    ) -> Result<HashMap<(String, String, String), (String, i64)>, Error> {
        if self.created.contains(&room.nid) {
            return Ok(HashMap::new());
        }
        type Row = (String, String, String, String, i64);
        let columns = (
            receipts::user_id,
            receipts::kind,
            receipts::thread,
            receipts::event_id,
            receipts::ts,
        );
        let mut rows: Vec<Row> = Vec::new();
        if wanted.len() > 20 {
            rows = with_connection!(&mut *self.c, |c| receipts::table
                .filter(receipts::room_nid.eq(room.nid))
                .select(columns)
                .load(c))?;
        } else {
            for receipt in wanted {
                let thread = receipt.thread_id.as_deref().unwrap_or_default();
                let key = (room.nid, receipt.user_id.as_str(), receipt.kind.as_str(), thread);
                let row: Option<Row> = with_connection!(&mut *self.c, |c| receipts::table
                    .find(key)
                    .select(columns)
                    .first(c)
                    .optional())?;
                rows.extend(row);
            }
        }
        Ok(rows
            .into_iter()
            .map(|(user, kind, thread, event_id, ts)| ((user, kind, thread), (event_id, ts)))
            .collect())
    }
}

/// Finds out where the user's stay begins: after the last own leave that the response shows, or at the first own join
/// if the user was not in the room before.
fn own_stay(user_id: &UserId, was_joined: bool, state: &[&ReceivedEvent], timeline: &[&ReceivedEvent]) -> Stay {
    let mut inside = was_joined;
    let mut stay = Stay {
        join: None,
        joined_ts: None,
    };
    let own = |event: &Event| {
        let is_own = &*event.event_type == MEMBER && event.state_key.as_deref() == Some(user_id.as_str());
        is_own
            .then(|| member_content(event))
            .flatten()
            .map(|member| member.membership)
    };
    for received in state {
        match own(&received.event) {
            Some(Membership::Join) if !inside => {
                inside = true;
                stay.joined_ts = Some(received.event.origin_server_ts);
            }
            // State before the timeline still has the old membership of somebody who comes back.
            Some(Membership::Leave | Membership::Ban | Membership::Invite | Membership::Knock) => inside = false,
            Some(Membership::Join) | None => {}
        }
    }
    for (index, received) in timeline.iter().enumerate() {
        match own(&received.event) {
            Some(Membership::Join) if !inside => {
                inside = true;
                stay.join = Some(index);
                stay.joined_ts = Some(received.event.origin_server_ts);
            }
            Some(Membership::Leave | Membership::Ban) => inside = false,
            Some(Membership::Join | Membership::Invite | Membership::Knock) | None => {}
        }
    }
    stay
}

/// The names in a room's `m.tag`.
fn tags(item: &AccountData) -> Vec<String> {
    #[derive(serde::Deserialize)]
    struct Outer {
        content: Content,
    }
    #[derive(serde::Deserialize)]
    struct Content {
        #[serde(default)]
        tags: BTreeMap<String, serde::de::IgnoredAny>,
    }
    serde_json::from_str::<Outer>(item.raw.get())
        .map(|outer| outer.content.tags.into_keys().collect())
        .unwrap_or_default()
}
