//! Whether the database holds together: its own opinion, and what must be true of ours.

use diesel::dsl::{exists, not};
use diesel::prelude::*;
use diesel::sql_types::Text;

use super::connection::{Connection, with_connection};
use super::error::Error;
use super::memory::Counters;
use super::rows::CURRENT;
use super::schema::{device_lists, devices, events, state, to_device, user_rooms};
use super::view::View;

#[derive(QueryableByName)]
struct Verdict {
    #[diesel(sql_type = Text)]
    integrity_check: String,
}

/// Fails with what is wrong first.
pub(super) fn check(c: &mut Connection) -> Result<(), Error> {
    if let Connection::Sqlite(c) = c {
        // Postgres has no such statement; it checks pages as it reads them.
        let verdicts: Vec<Verdict> = diesel::sql_query("PRAGMA integrity_check").load(&mut **c)?;
        for verdict in verdicts {
            if verdict.integrity_check != "ok" {
                return Err(Error::inconsistent("sqlite", verdict.integrity_check));
            }
        }
    }
    let counters = Counters::read(c)?;
    let newest: Option<i64> = with_connection!(c, |c| events::table.select(diesel::dsl::max(events::nid)).first(c))?;
    if newest.is_some_and(|nid| nid > counters.event) {
        return Err(Error::inconsistent("counters", "event"));
    }
    let queued: Option<i64> = with_connection!(c, |c| to_device::table
        .select(diesel::dsl::max(to_device::seq))
        .first(c))?;
    let listed: Option<i64> = with_connection!(c, |c| device_lists::table
        .select(diesel::dsl::max(device_lists::seq))
        .first(c))?;
    if queued.max(listed).is_some_and(|seq| seq > counters.seq) {
        return Err(Error::inconsistent("counters", "seq"));
    }
    let late: Option<i64> = with_connection!(c, |c| state::table.select(diesel::dsl::max(state::from_pos)).first(c))?;
    let changed: Option<i64> = with_connection!(c, |c| user_rooms::table
        .select(diesel::dsl::max(user_rooms::changed_pos))
        .first(c))?;
    if late.max(changed).is_some_and(|position| position > counters.position) {
        return Err(Error::inconsistent("counters", "position"));
    }
    let ahead: Option<i64> = with_connection!(c, |c| to_device::table
        .inner_join(devices::table.on(devices::nid.eq(to_device::device_nid)))
        .filter(to_device::seq.gt(devices::to_device_seq))
        .select(devices::nid)
        .first(c)
        .optional())?;
    if let Some(nid) = ahead {
        return Err(Error::inconsistent("devices", nid));
    }
    let orphan: Option<i64> = with_connection!(c, |c| state::table
        .filter(state::until_pos.eq(CURRENT))
        .filter(not(exists(events::table.filter(events::nid.eq(state::event_nid)))))
        .select(state::room_nid)
        .first(c)
        .optional())?;
    if let Some(nid) = orphan {
        return Err(Error::inconsistent("state", nid));
    }
    let views: Vec<(i64, i64, Vec<u8>)> = with_connection!(c, |c| user_rooms::table
        .select((user_rooms::user_nid, user_rooms::room_nid, user_rooms::timeline))
        .load(c))?;
    for (user_nid, room_nid, timeline) in views {
        let fits = View::decode(&timeline).is_some_and(|view| {
            let entries = &view.entries;
            entries
                .iter()
                .all(|entry| entry.nid <= counters.event && entry.position <= counters.position)
                && entries.windows(2).all(|pair| pair[0].position <= pair[1].position)
        });
        if !fits {
            return Err(Error::inconsistent("user_rooms", format!("{user_nid}/{room_nid}")));
        }
    }
    Ok(())
}
