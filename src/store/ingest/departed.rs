//! Rooms that a user is not in: invites, knocks, leaves, and ends that somebody else's poller reported.

use std::sync::Arc;

use super::Ingest;
use super::events::Delivery;
use super::joined::Witnessed;
use super::state::{MEMBER, Times};
use crate::model::batch::{Batch, LeftRoom, StateKey, StrippedRoom};
use crate::model::change::{Ended, RoomChange};
use crate::model::event::Event;
use crate::model::position::Position;
use crate::model::room::{Membership, Stripped, UserRoom};
use crate::room::summary::{member_content, stripped_facts};
use crate::store::error::Error;
use crate::store::memory::{Member, Room};

impl Ingest<'_> {
    /// Stores an invite or a knock.
    pub(super) fn stripped(
        &mut self,
        batch: &Batch,
        user_nid: i64,
        stripped: &StrippedRoom,
        membership: Membership,
    ) -> Result<Option<RoomChange>, Error> {
        let room = self.room_or_new(&stripped.room_id)?;
        let mut member = match self.memory.take_member(self.c, user_nid, &room)? {
            Some(member) => member,
            None => Member::unknown(&room),
        };
        let overlaps_join = member.room.membership == Membership::Join
            && self
                .memory
                .moments
                .joined(user_nid, room.nid)
                .is_some_and(|(_, received)| batch.sent_at < received);
        let overlaps_leave = self
            .memory
            .moments
            .left(user_nid, &stripped.room_id)
            .is_some_and(|received| batch.sent_at < received);
        let same = |old: &Stripped| {
            old.events.len() == stripped.events.len()
                && old.events.iter().zip(&stripped.events).all(|(a, b)| a.get() == b.get())
        };
        let unchanged = member.room.membership == membership && member.room.stripped.as_deref().is_some_and(same);
        let nid = room.nid;
        if overlaps_join || overlaps_leave || unchanged {
            if member.stored {
                self.memory.members.put((user_nid, nid), member);
            }
            self.put_room(room);
            return Ok(None);
        }
        let facts = stripped_facts(&stripped.events, &batch.device.user_id);
        // msc3575.md 6.4: 0 if the homeserver stripped it.
        let ts = facts.own_member_ts;
        member.room = UserRoom {
            membership,
            heroes: facts.heroes.into(),
            recency: ts.min(self.now),
            stripped: Some(Arc::new(Stripped {
                events: stripped.events.clone(),
            })),
            summary: room.summary.clone(),
            changed: Position(self.position),
            ..member.room
        };
        let change = self.change_without_events(&member);
        self.put_room(room);
        self.save_member(user_nid, nid, member)?;
        Ok(Some(change))
    }

    /// Stores that the user is out of a room, with the timeline up to that.
    pub(super) fn left(&mut self, batch: &Batch, user_nid: i64, left: &LeftRoom) -> Result<Option<RoomChange>, Error> {
        self.memory
            .moments
            .confirm_leave(user_nid, &left.room_id, batch.received_at);
        // A room nobody of ours is in is not made known by somebody's leave or ban.
        let Some(mut room) = self.memory.take_room(self.c, &left.room_id)? else {
            return Ok(None);
        };
        if !self.touched.insert(left.room_id.clone()) {
            self.writes.flush(self.c)?;
        }
        let Some(mut member) = self.memory.take_member(self.c, user_nid, &room)? else {
            self.put_room(room);
            return Ok(None);
        };
        let before = (room.summary.clone(), room.has_create);
        let nid = room.nid;
        let own = |event: &Event| {
            let is_own =
                &*event.event_type == MEMBER && event.state_key.as_deref() == Some(batch.device.user_id.as_str());
            is_own
                .then(|| member_content(event))
                .flatten()
                .map(|member| member.membership)
        };
        let last = left
            .timeline
            .iter()
            .rev()
            .chain(left.state.iter().rev())
            .find(|received| own(&received.event).is_some());
        if let Some(leave) = last
            && self.is_before_join(batch, user_nid, &room, &member, &leave.event)?
        {
            self.memory.members.put((user_nid, nid), member);
            self.put_room(room);
            return Ok(None);
        }
        let was_joined = member.room.membership == Membership::Join;
        let was_out = matches!(member.room.membership, Membership::Leave | Membership::Ban);
        let membership = match last.and_then(|received| own(&received.event)) {
            Some(Membership::Ban) => Membership::Ban,
            Some(Membership::Leave | Membership::Join | Membership::Invite | Membership::Knock) | None => {
                Membership::Leave
            }
        };
        let timeline = self.own_events(&room, &left.timeline);
        let limited = left.limited || member.gap_pending;
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
            prev_batch: left.prev_batch.as_deref(),
        };
        let placed = self.store_events(&mut room, &[], &delivery)?;
        let redacted = self.apply_redactions(&mut room, &placed)?;
        drop(redacted);
        if !was_joined && !was_out {
            // An invite's end: what the user saw of an earlier stay is no part of it.
            member.view = crate::store::view::View::default();
        }
        let witnessed = self.witness(
            &mut member,
            &timeline,
            &placed,
            left.prev_batch.as_deref(),
            limited,
            None,
        );
        if was_out && witnessed.events.is_empty() && member.room.membership == membership {
            self.finish_room(room, &before)?;
            self.memory.members.put((user_nid, nid), member);
            return Ok(None);
        }
        member.room.membership = membership;
        member.room.stripped = None;
        member.room.summary = room.summary.clone();
        member.room.changed = Position(self.position);
        let Witnessed {
            events,
            transaction_ids,
            limited,
            prev_batch,
        } = witnessed;
        let change = RoomChange {
            events,
            transaction_ids,
            limited,
            prev_batch,
            ..self.change_without_events(&member)
        };
        self.ended.push(Ended {
            user_id: batch.device.user_id.clone(),
            room_id: left.room_id.clone(),
            membership,
        });
        self.finish_room(room, &before)?;
        self.save_member(user_nid, nid, member)?;
        Ok(Some(change))
    }

    /// Returns whether a leave that comes late, out of an overlapping response, is older than the join we know of.
    fn is_before_join(
        &mut self,
        batch: &Batch,
        user_nid: i64,
        room: &Room,
        member: &Member,
        leave: &Event,
    ) -> Result<bool, Error> {
        let overlaps = member.room.membership == Membership::Join
            && self
                .memory
                .moments
                .joined(user_nid, room.nid)
                .is_some_and(|(_, received)| batch.sent_at < received);
        if !overlaps {
            return Ok(false);
        }
        let Some(rank) = self.known.get(&leave.event_id).and_then(|known| known.rank) else {
            return Ok(false);
        };
        let key = StateKey {
            event_type: MEMBER.to_owned(),
            state_key: batch.device.user_id.as_str().to_owned(),
        };
        let Some(held) = self.current_entry(room.nid, &key)? else {
            return Ok(false);
        };
        let joined = self
            .event(held)?
            .and_then(|event| member_content(&event))
            .is_some_and(|content| content.membership == Membership::Join);
        Ok(joined && self.rank(held)?.is_some_and(|held| held > rank))
    }

    /// Ends the stay, invite or knock of users whose leave or ban somebody's poller brought.
    pub(super) fn end_members(
        &mut self,
        room: &Room,
        members: &[Arc<Event>],
        times: Times,
        own: Option<i64>,
    ) -> Result<(), Error> {
        for event in members {
            let Some(membership) = member_content(event).map(|content| content.membership) else {
                continue;
            };
            let Some(user_id) = event.state_key.as_deref() else {
                continue;
            };
            if !matches!(membership, Membership::Leave | Membership::Ban) {
                continue;
            }
            let Some(user_nid) = self.memory.user(self.c, user_id)? else {
                continue;
            };
            // The own poller has the user in the room; its word is the one that counts.
            let confirmed = self
                .memory
                .moments
                .joined(user_nid, room.nid)
                .is_some_and(|(sent, _)| sent > times.received_at);
            if own == Some(user_nid) || confirmed {
                continue;
            }
            self.writes.flush(self.c)?;
            let Some(mut member) = self.memory.take_member(self.c, user_nid, room)? else {
                continue;
            };
            if matches!(member.room.membership, Membership::Leave | Membership::Ban) {
                self.memory.members.put((user_nid, room.nid), member);
                continue;
            }
            member.room.membership = membership;
            member.room.stripped = None;
            member.room.changed = Position(self.position);
            self.ended.push(Ended {
                user_id: user_id.into(),
                room_id: room.summary.room_id.clone(),
                membership,
            });
            self.save_member(user_nid, room.nid, member)?;
        }
        Ok(())
    }

    fn change_without_events(&self, member: &Member) -> RoomChange {
        RoomChange {
            room: Arc::new(member.room.clone()),
            events: Vec::new(),
            transaction_ids: std::collections::BTreeMap::new(),
            limited: false,
            prev_batch: None,
            state: Vec::new(),
            account_data: Vec::new(),
            receipts: Vec::new(),
            typing: None,
            entry_changed: true,
        }
    }
}
