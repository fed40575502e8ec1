//! Forgetting what nobody can be served any more.

use diesel::prelude::*;

use super::connection::{Connection, with_connection};
use super::error::Error;
use super::rows::CURRENT;
use super::schema::{events, state, transaction_ids};

/// Time between two removals of what ages, ms.
pub(super) const SWEEP_MS: i64 = 3_600_000;
/// How long superseded state and transaction IDs are kept, ms.
const HISTORY_MS: i64 = 24 * 3_600_000;
/// Rows removed in one step.
const STEP: i64 = 400;

/// Removes transaction IDs that no session can need any more.
pub(super) fn sweep(c: &mut Connection, now: i64) -> Result<(), Error> {
    with_connection!(c, |c| diesel::delete(transaction_ids::table)
        .filter(transaction_ids::created_ms.lt(now.saturating_sub(HISTORY_MS)))
        .execute(c))?;
    Ok(())
}

/// Removes one step's worth of a room's old timeline and old state. Returns whether that was all.
///
/// Events that are state stay, but leave the timeline: with holes around them they would look like one that has none.
pub(super) fn prune(c: &mut Connection, room_nid: i64, keep: usize, now: i64) -> Result<bool, Error> {
    let old_state: Vec<(String, String, i64, i64)> = with_connection!(c, |c| state::table
        .filter(state::room_nid.eq(room_nid))
        .filter(state::until_pos.lt(CURRENT))
        .filter(state::ended_ms.lt(now.saturating_sub(HISTORY_MS)))
        .select((state::event_type, state::state_key, state::until_pos, state::event_nid))
        .limit(STEP)
        .load(c))?;
    for (event_type, state_key, until_pos, _) in &old_state {
        with_connection!(c, |c| diesel::delete(
            state::table.find((room_nid, event_type, state_key, until_pos))
        )
        .execute(c))?;
    }
    let cutoff: Option<i64> = with_connection!(c, |c| events::table
        .filter(events::room_nid.eq(room_nid))
        .filter(events::ranking.is_not_null())
        .order(events::ranking.desc())
        .offset(i64::try_from(keep).unwrap_or(i64::MAX))
        .select(events::ranking.assume_not_null())
        .first(c)
        .optional())?;
    let mut old_events: Vec<i64> = match cutoff {
        Some(cutoff) => with_connection!(c, |c| events::table
            .filter(events::room_nid.eq(room_nid))
            .filter(events::ranking.le(cutoff))
            .select(events::nid)
            .limit(STEP)
            .load(c))?,
        None => Vec::new(),
    };
    let done = old_events.len() < STEP as usize && old_state.len() < STEP as usize;
    let freed: Vec<i64> = old_state.iter().map(|(.., nid)| *nid).collect();
    if !freed.is_empty() {
        let unranked: Vec<i64> = with_connection!(c, |c| events::table
            .filter(events::nid.eq_any(&freed))
            .filter(events::ranking.is_null())
            .select(events::nid)
            .load(c))?;
        old_events.extend(unranked);
    }
    if old_events.is_empty() {
        return Ok(done);
    }
    let held: Vec<i64> = with_connection!(c, |c| state::table
        .filter(state::event_nid.eq_any(&old_events))
        .select(state::event_nid)
        .distinct()
        .load(c))?;
    with_connection!(c, |c| diesel::update(events::table)
        .filter(events::nid.eq_any(&held))
        .set(events::ranking.eq(None::<i64>))
        .execute(c))?;
    let held: std::collections::HashSet<i64> = held.into_iter().collect();
    old_events.retain(|nid| !held.contains(nid));
    with_connection!(c, |c| diesel::delete(events::table)
        .filter(events::nid.eq_any(&old_events))
        .execute(c))?;
    Ok(done)
}
