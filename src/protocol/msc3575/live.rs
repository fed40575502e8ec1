//! Live updates: what one committed change does to the lists and rooms of a connection (msc3575.md 8.5, 9.3, 10).

use std::sync::Arc;

use super::output::{Facts, Pending, Want, is_own_member};
use super::state::{State, membership};
use crate::ids::{DeviceId, RoomId};
use crate::model::change::{Changed, RoomChange, RoomUpdate};
use crate::model::position::Position;
use crate::model::room::Membership;
use crate::model::user_view::{RoomEntry, SharedMap};
use crate::protocol::sliding::filter;

type Rooms = SharedMap<RoomId, Arc<RoomEntry>>;

/// Takes in a change.
pub fn apply(state: &mut State, pending: &mut Pending, changed: &Changed, device_id: &DeviceId) {
    let old = std::mem::replace(&mut state.view, changed.view.clone());
    state.view.position = changed.position;
    let own_device = changed.device_id.as_ref() == Some(device_id);
    for update in &changed.rooms {
        apply_room(state, pending, update, &old.rooms, changed.position, own_device);
    }
    // Before everything was asked for, the changes are part of everything.
    if state.account_data.enabled && (state.has_global_account_data || pending.account_data.asked) {
        pending.account_data.change_global(&changed.account_data);
    }
}

fn apply_room(
    state: &mut State,
    pending: &mut Pending,
    update: &RoomUpdate,
    old: &Rooms,
    position: Position,
    own_device: bool,
) {
    let room_id = &update.room_id;
    let (before, after) = (old.get(room_id), state.entry(room_id).cloned());
    let (was, is) = (membership(before), membership(after.as_ref()));
    let in_room = |membership| matches!(membership, Some(Membership::Join | Membership::Invite));
    let was_subscribed = was == Some(Membership::Join) && state.subscriptions.contains_key(room_id);
    let was_shown = was_subscribed || state.shown_by(room_id).next().is_some();

    let related = filter::predecessor(before, after.as_ref());
    for (name, list) in &mut state.lists {
        list.follow(name, room_id, after.as_ref(), pending);
        if let Some(old_room) = &related {
            list.follow(name, old_room, state.view.rooms.get(old_room), pending);
        }
    }

    let change = update.change.as_deref();
    if !in_room(is) {
        if in_room(was) {
            revoke(state, pending, room_id);
            if was_shown {
                state.awaiting_leave.insert(room_id.clone());
            }
        }
        if let Some(change) = change {
            push_leave(state, pending, change, position, own_device);
        }
        return;
    }
    state.awaiting_leave.remove(room_id);
    let Some(after) = after else { return };
    let shown = state.shows(room_id);
    if is_new_stay(before, &after) {
        let output = pending.rooms.entry(room_id.clone()).or_default();
        output.ended = false;
        if !shown {
            // Whatever was pending belongs to the stay before.
            pending.rooms.remove(room_id);
        } else {
            for parameters in state.reasons(room_id) {
                output.want_again(&Want::from(parameters));
            }
        }
    }
    if shown {
        push_live(state, pending, before, &after, change, position, own_device);
    }
    if let Some(change) = change
        && !change.account_data.is_empty()
        && state.wants_account_data(room_id)
    {
        pending.account_data.change_room(room_id, &change.account_data);
    }
}

/// Returns whether the user came into the room anew, which the client is told by a snapshot: a join, or a fresh invite.
fn is_new_stay(before: Option<&Arc<RoomEntry>>, after: &RoomEntry) -> bool {
    let Some(before) = before.filter(|before| before.room.membership == after.room.membership) else {
        return true;
    };
    if after.room.membership == Membership::Join {
        // Left and joined again within one change.
        let (old, new) = (before.room.joined_ts, after.room.joined_ts);
        return old != new && old != 0 && new != 0;
    }
    let texts = |entry: &RoomEntry| -> Vec<String> {
        let events = entry.room.stripped.iter().flat_map(|stripped| &stripped.events);
        events.map(|raw| raw.get().to_owned()).collect()
    };
    let same = match (&before.room.stripped, &after.room.stripped) {
        (Some(old), Some(new)) => Arc::ptr_eq(old, new) || texts(before) == texts(after),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    };
    !same
}

fn push_live(
    state: &State,
    pending: &mut Pending,
    before: Option<&Arc<RoomEntry>>,
    after: &RoomEntry,
    change: Option<&RoomChange>,
    position: Position,
    own_device: bool,
) {
    let room_id = &after.room.room_id;
    if after.room.membership != Membership::Join {
        return;
    }
    let includes_heroes = state.reasons(room_id).any(|reason| reason.include_heroes);
    let facts = before.map_or_else(Facts::default, |before| changed_facts(before, after, includes_heroes));
    let has_events = change.is_some_and(|change| !change.events.is_empty());
    if facts == Facts::default() && !has_events {
        return;
    }
    let lazy = state.reasons(room_id).any(|reason| reason.is_lazy());
    let output = pending.rooms.entry(room_id.clone()).or_default();
    output.facts = output.facts.or(facts);
    output.lazy |= lazy;
    if let Some(change) = change {
        output.push_events(change, position, own_device);
    }
}

fn changed_facts(before: &RoomEntry, after: &RoomEntry, includes_heroes: bool) -> Facts {
    let name = before.name != after.name;
    let same_summary = Arc::ptr_eq(&before.room.summary, &after.room.summary);
    Facts {
        name,
        heroes: includes_heroes && after.name_from_heroes && (name || before.room.heroes != after.room.heroes),
        avatar: before.avatar != after.avatar,
        joined: !same_summary && before.room.summary.joined_count != after.room.summary.joined_count,
        invited: !same_summary && before.room.summary.invited_count != after.room.summary.invited_count,
        unread: before.room.unread != after.room.unread,
    }
}

/// Delivers the user's own leave event, once, if the client was shown the room (msc3575.md 10.3). It may come later than
/// the news that the user is out, which anybody's poller may bring.
fn push_leave(state: &mut State, pending: &mut Pending, change: &RoomChange, position: Position, own_device: bool) {
    let room_id = &change.room.room_id;
    let is_end = |event: &Arc<_>| is_own_member(event, &state.view.user_id);
    if !state.awaiting_leave.contains(room_id) || !change.events.iter().any(is_end) {
        return;
    }
    state.awaiting_leave.remove(room_id);
    let output = pending.rooms.entry(room_id.clone()).or_default();
    output.ended = true;
    output.push_events(change, position, own_device);
}

/// Drops what is pending of a room but the event by which the user left.
pub fn revoke(state: &mut State, pending: &mut Pending, room_id: &RoomId) {
    state.owed.remove(room_id);
    pending.account_data.revoke(room_id);
    if let Some(output) = pending.rooms.get_mut(room_id) {
        output.revoke(&state.view.user_id);
        if output.is_empty() {
            pending.rooms.remove(room_id);
        }
    }
}
