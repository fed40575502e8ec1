//! A plan into what it asks for, in one read transaction. Whoever has no right to see something does not find it here:
//! every read starts from the user's own row of the room.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

use diesel::prelude::*;

use super::connection::{Connection, KEYS_PER_SELECT, with_connection};
use super::error::Error;
use super::memory::Sent;
use super::rows::{CURRENT, StoredEvent, raw};
use super::schema::{
    account_data, device_lists, devices, events, receipts, rooms, state, to_device, transaction_ids, user_rooms, users,
};
use super::view::View;
use crate::ids::{EventId, UserId};
use crate::model::batch::{AccountData, Receipt};
use crate::model::load::{LoadPlan, Loaded, LoadedRoom, RoomPlan, StateSelector};
use crate::model::room::Membership;

/// `m.room.member`.
const MEMBER: &str = "m.room.member";

/// Reads everything a plan asks for.
pub(super) fn load(c: &mut Connection, plan: &LoadPlan, sent: &Mutex<Sent>) -> Result<Loaded, Error> {
    let mut out = Loaded::default();
    let Some(user_nid) = user(c, &plan.device.user_id)? else {
        return Ok(out);
    };
    let device_nid: Option<i64> = with_connection!(c, |c| devices::table
        .filter(devices::user_nid.eq(user_nid))
        .filter(devices::device_id.eq(plan.device.device_id.as_str()))
        .select(devices::nid)
        .first(c)
        .optional())?;
    for room in &plan.rooms {
        if let Some(loaded) = load_room(c, plan, room, user_nid, device_nid)? {
            out.rooms.insert(room.room_id.clone(), loaded);
        }
    }
    if plan.account_data {
        out.account_data = account_data_of(c, user_nid, 0)?;
    }
    let Some(device_nid) = device_nid else {
        return Ok(out);
    };
    if let Some(wanted) = plan.to_device {
        let rows: Vec<(i64, Vec<u8>)> = with_connection!(c, |c| to_device::table
            .filter(to_device::device_nid.eq(device_nid))
            .filter(to_device::seq.gt(wanted.after))
            .order(to_device::seq)
            .limit(limit(wanted.limit))
            .select((to_device::seq, to_device::body))
            .load(c))?;
        let mut messages = Vec::with_capacity(rows.len());
        for (seq, body) in rows {
            messages.push((seq, raw(body).ok_or_else(|| Error::inconsistent("to_device", seq))?));
        }
        sent.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .send(&plan.device, &mut messages);
        out.to_device = messages;
    }
    if let Some(most) = plan.device_lists {
        let rows: Vec<(String, bool, i64)> = with_connection!(c, |c| device_lists::table
            .filter(device_lists::device_nid.eq(device_nid))
            .order(device_lists::seq)
            .limit(limit(most))
            .select((device_lists::user_id, device_lists::gone, device_lists::seq))
            .load(c))?;
        out.device_lists_seq = rows.last().map_or(0, |(.., seq)| *seq);
        out.device_lists = rows
            .into_iter()
            .map(|(user, gone, _)| (UserId::from(user), gone))
            .collect();
    }
    Ok(out)
}

fn limit(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Returns the key of a user.
pub(super) fn user(c: &mut Connection, user_id: &UserId) -> Result<Option<i64>, Error> {
    Ok(with_connection!(c, |c| users::table
        .filter(users::user_id.eq(user_id.as_str()))
        .select(users::nid)
        .first(c)
        .optional())?)
}

/// Reads account data of a user, global with `room_nid` 0.
pub(super) fn account_data_of(c: &mut Connection, user_nid: i64, room_nid: i64) -> Result<Vec<AccountData>, Error> {
    let rows: Vec<(String, Vec<u8>)> = with_connection!(c, |c| account_data::table
        .filter(account_data::user_nid.eq(user_nid))
        .filter(account_data::room_nid.eq(room_nid))
        .order(account_data::kind)
        .select((account_data::kind, account_data::body))
        .load(c))?;
    rows.into_iter()
        .map(|(kind, body)| match raw(body) {
            Some(raw) => Ok(AccountData { kind, raw }),
            None => Err(Error::inconsistent("account_data", kind)),
        })
        .collect()
}

fn load_room(
    c: &mut Connection,
    plan: &LoadPlan,
    wanted: &RoomPlan,
    user_nid: i64,
    device_nid: Option<i64>,
) -> Result<Option<LoadedRoom>, Error> {
    let row: Option<(i64, bool, String, Vec<u8>)> = with_connection!(c, |c| user_rooms::table
        .inner_join(rooms::table)
        .filter(user_rooms::user_nid.eq(user_nid))
        .filter(rooms::room_id.eq(wanted.room_id.as_str()))
        .select((
            user_rooms::room_nid,
            rooms::has_create,
            user_rooms::membership,
            user_rooms::timeline
        ))
        .first(c)
        .optional())?;
    let Some((room_nid, has_create, membership, timeline)) = row else {
        return Ok(None);
    };
    let bad = || Error::inconsistent("user_rooms", format!("{user_nid}/{room_nid}"));
    let mut out = LoadedRoom::default();
    match Membership::parse(&membership).ok_or_else(bad)? {
        // Only what was given with the invite, which is not read here.
        Membership::Invite | Membership::Knock => return Ok(Some(out)),
        Membership::Join | Membership::Leave | Membership::Ban if !has_create => return Ok(None),
        Membership::Leave | Membership::Ban => {
            let view = View::decode(&timeline).ok_or_else(bad)?;
            load_timeline(c, plan, wanted, &view, device_nid, &mut out)?;
        }
        Membership::Join => {
            let view = View::decode(&timeline).ok_or_else(bad)?;
            load_timeline(c, plan, wanted, &view, device_nid, &mut out)?;
            load_state(c, room_nid, &wanted.state, &mut out)?;
            if wanted.account_data {
                out.account_data = account_data_of(c, user_nid, room_nid)?;
            }
            if wanted.receipts {
                load_receipts(c, room_nid, &plan.device.user_id, &mut out)?;
            }
        }
    }
    Ok(Some(out))
}

fn load_timeline(
    c: &mut Connection,
    plan: &LoadPlan,
    wanted: &RoomPlan,
    view: &View,
    device_nid: Option<i64>,
    out: &mut LoadedRoom,
) -> Result<(), Error> {
    if wanted.timeline_limit == 0 {
        return Ok(());
    }
    let nids: Vec<i64> = view.entries.iter().map(|entry| entry.nid).collect();
    let mut found: HashMap<i64, (i64, Option<String>, String)> = HashMap::new();
    for nids in nids.chunks(KEYS_PER_SELECT) {
        let rows: Vec<(i64, i64, Option<String>, String)> = with_connection!(c, |c| events::table
            .filter(events::nid.eq_any(nids))
            .filter(events::ranking.is_not_null())
            .select((
                events::nid,
                events::ranking.assume_not_null(),
                events::prev_batch,
                events::event_type
            ))
            .load(c))?;
        found.extend(
            rows.into_iter()
                .map(|(nid, rank, token, kind)| (nid, (rank, token, kind))),
        );
    }
    // An event that is no longer kept leaves a hole; only what was delivered after it is without one.
    let whole = view
        .entries
        .iter()
        .rposition(|entry| !found.contains_key(&entry.nid))
        .map_or(0, |at| at + 1);
    let mut short = view.trimmed || whole > 0;
    let mut entries: Vec<(i64, i64, bool)> = view.entries[whole..]
        .iter()
        .filter(|entry| entry.position <= plan.at.0)
        .filter_map(|entry| Some((found.get(&entry.nid)?.0, entry.nid, entry.gap_before)))
        .collect();
    entries.sort_unstable();
    if let Some(gap) = entries.iter().rposition(|(.., gap_before)| *gap_before) {
        entries.drain(..gap);
        short = true;
    }
    let token = |nid: &i64| found.get(nid).and_then(|(_, token, _)| token.clone());
    if entries.len() > wanted.timeline_limit {
        entries.drain(..entries.len() - wanted.timeline_limit);
        short = false;
    }
    let from_create = entries
        .first()
        .and_then(|(_, nid, _)| found.get(nid))
        .is_some_and(|(.., kind)| kind == "m.room.create");
    out.limited = short && !from_create && !entries.is_empty();
    if !from_create {
        // A token further on only repeats events; one further back would skip some.
        out.prev_batch = entries.iter().find_map(|(_, nid, _)| token(nid));
    }
    let nids: Vec<i64> = entries.into_iter().map(|(_, nid, _)| nid).collect();
    let mut stored = events_by_key(c, &nids)?;
    for nid in &nids {
        let event = stored.remove(nid).ok_or_else(|| Error::inconsistent("events", nid))?;
        out.timeline.push(event.event()?);
    }
    if let Some(device_nid) = device_nid {
        for part in nids.chunks(KEYS_PER_SELECT) {
            let rows: Vec<(String, String)> = with_connection!(c, |c| transaction_ids::table
                .inner_join(events::table.on(events::nid.eq(transaction_ids::event_nid)))
                .filter(transaction_ids::device_nid.eq(device_nid))
                .filter(transaction_ids::event_nid.eq_any(part))
                .select((events::event_id, transaction_ids::transaction_id))
                .load(c))?;
            out.transaction_ids.extend(
                rows.into_iter()
                    .map(|(id, transaction_id)| (EventId::from(id), transaction_id)),
            );
        }
    }
    Ok(())
}

fn events_by_key(c: &mut Connection, nids: &[i64]) -> Result<HashMap<i64, StoredEvent>, Error> {
    let mut out = HashMap::with_capacity(nids.len());
    for part in nids.chunks(KEYS_PER_SELECT) {
        let rows: Vec<StoredEvent> = with_connection!(c, |c| events::table
            .filter(events::nid.eq_any(part))
            .select(StoredEvent::as_select())
            .load(c))?;
        out.extend(rows.into_iter().map(|row| (row.nid, row)));
    }
    Ok(out)
}

/// A state entry: type, state key, event.
type Entry = (String, String, i64);

fn load_state(c: &mut Connection, room_nid: i64, selector: &StateSelector, out: &mut LoadedRoom) -> Result<(), Error> {
    if selector.is_empty() {
        return Ok(());
    }
    let mut chosen: BTreeMap<(String, String), i64> = BTreeMap::new();
    let mut take = |rows: Vec<Entry>, always: bool| {
        for (event_type, state_key, nid) in rows {
            if always || selector.wants(&event_type, &state_key) {
                chosen.insert((event_type, state_key), nid);
            }
        }
    };
    if selector.everything {
        // Members can be tens of thousands; leave them out if only some are wanted.
        let some_members = selector.only.get(MEMBER);
        take(whole_state(c, room_nid, some_members.is_none())?, false);
        if let Some(keys) = some_members {
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            take(by_key(c, room_nid, MEMBER, &keys)?, false);
        }
    } else {
        if !selector.types.is_empty() {
            let types: Vec<&String> = selector.types.iter().collect();
            take(by_type(c, room_nid, &types)?, false);
        }
        if !selector.keys.is_empty() {
            let keys: Vec<&String> = selector.keys.iter().collect();
            take(by_any_type(c, room_nid, &keys)?, false);
        }
        let mut exact: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (event_type, state_key) in &selector.exact {
            exact.entry(event_type).or_default().push(state_key);
        }
        for (event_type, keys) in exact {
            take(by_key(c, room_nid, event_type, &keys)?, false);
        }
    }
    let mut members: BTreeSet<&str> = selector.members.iter().map(UserId::as_str).collect();
    if selector.lazy_members {
        members.extend(out.timeline.iter().map(|event| event.sender.as_str()));
    }
    if !members.is_empty() {
        let keys: Vec<&str> = members.into_iter().collect();
        take(by_key(c, room_nid, MEMBER, &keys)?, true);
    }
    let nids: Vec<i64> = chosen.into_values().collect();
    let mut stored = events_by_key(c, &nids)?;
    for nid in nids {
        let event = stored.remove(&nid).ok_or_else(|| Error::inconsistent("events", nid))?;
        out.state.push(event.event()?);
    }
    Ok(())
}

fn whole_state(c: &mut Connection, room_nid: i64, members: bool) -> Result<Vec<Entry>, Error> {
    let columns = (state::event_type, state::state_key, state::event_nid);
    Ok(if members {
        with_connection!(c, |c| state::table
            .filter(state::room_nid.eq(room_nid))
            .filter(state::until_pos.eq(CURRENT))
            .select(columns)
            .load(c))?
    } else {
        with_connection!(c, |c| state::table
            .filter(state::room_nid.eq(room_nid))
            .filter(state::event_type.ne(MEMBER))
            .filter(state::until_pos.eq(CURRENT))
            .select(columns)
            .load(c))?
    })
}

fn by_key(c: &mut Connection, room_nid: i64, event_type: &str, keys: &[&str]) -> Result<Vec<Entry>, Error> {
    let columns = (state::event_type, state::state_key, state::event_nid);
    let mut out = Vec::new();
    for part in usable(keys).chunks(KEYS_PER_SELECT) {
        let rows: Vec<Entry> = with_connection!(c, |c| state::table
            .filter(state::room_nid.eq(room_nid))
            .filter(state::event_type.eq(event_type))
            .filter(state::state_key.eq_any(part))
            .filter(state::until_pos.eq(CURRENT))
            .select(columns)
            .load(c))?;
        out.extend(rows);
    }
    Ok(out)
}

fn by_type(c: &mut Connection, room_nid: i64, types: &[&String]) -> Result<Vec<Entry>, Error> {
    let columns = (state::event_type, state::state_key, state::event_nid);
    let mut out = Vec::new();
    for part in usable(types).chunks(KEYS_PER_SELECT) {
        let rows: Vec<Entry> = with_connection!(c, |c| state::table
            .filter(state::room_nid.eq(room_nid))
            .filter(state::event_type.eq_any(part))
            .filter(state::until_pos.eq(CURRENT))
            .select(columns)
            .load(c))?;
        out.extend(rows);
    }
    Ok(out)
}

fn by_any_type(c: &mut Connection, room_nid: i64, keys: &[&String]) -> Result<Vec<Entry>, Error> {
    let columns = (state::event_type, state::state_key, state::event_nid);
    let mut out = Vec::new();
    for part in usable(keys).chunks(KEYS_PER_SELECT) {
        let rows: Vec<Entry> = with_connection!(c, |c| state::table
            .filter(state::room_nid.eq(room_nid))
            .filter(state::state_key.eq_any(part))
            .filter(state::until_pos.eq(CURRENT))
            .select(columns)
            .load(c))?;
        out.extend(rows);
    }
    Ok(out)
}

/// Leaves out what no stored text can equal, and what Postgres would not even compare.
fn usable<'a>(keys: &[impl AsRef<str> + 'a]) -> Vec<&str> {
    keys.iter()
        .map(AsRef::as_ref)
        .filter(|key| !key.contains('\0'))
        .collect()
}

fn load_receipts(c: &mut Connection, room_nid: i64, user_id: &UserId, out: &mut LoadedRoom) -> Result<(), Error> {
    type Row = (String, String, String, String, i64);
    let columns = (
        receipts::user_id,
        receipts::kind,
        receipts::thread,
        receipts::event_id,
        receipts::ts,
    );
    let mut rows: Vec<Row> = with_connection!(c, |c| receipts::table
        .filter(receipts::room_nid.eq(room_nid))
        .filter(receipts::user_id.eq(user_id.as_str()))
        .select(columns)
        .load(c))?;
    let ids: Vec<&str> = out.timeline.iter().map(|event| event.event_id.as_str()).collect();
    for part in ids.chunks(KEYS_PER_SELECT) {
        let others: Vec<Row> = with_connection!(c, |c| receipts::table
            .filter(receipts::room_nid.eq(room_nid))
            .filter(receipts::event_id.eq_any(part))
            .filter(receipts::user_id.ne(user_id.as_str()))
            .filter(receipts::kind.ne("m.read.private"))
            .select(columns)
            .load(c))?;
        rows.extend(others);
    }
    rows.sort_unstable();
    out.receipts = rows
        .into_iter()
        .map(|(user, kind, thread, event_id, ts)| Receipt {
            user_id: UserId::from(user),
            kind,
            thread_id: (!thread.is_empty()).then_some(thread),
            event_id: EventId::from(event_id),
            ts,
        })
        .collect();
    Ok(())
}
