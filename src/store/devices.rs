//! Devices and their tokens, and what a client acknowledges.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use diesel::prelude::*;
use log::warn;
use secrecy::{ExposeSecret, SecretString};

use super::connection::{Connection, with_connection};
use super::error::Error;
use super::ingest::store_facts;
use super::memory::{Memory, Sent};
use super::rows::DeviceRow;
use super::schema::{device_lists, devices, to_device, tokens, user_rooms, users};
use super::secrets::Keys;
use crate::clock::UnixMillis;
use crate::ids::DeviceKey;

/// A device as the store knows it.
#[derive(Clone, Debug)]
pub struct DeviceRecord {
    /// Which device.
    pub device: DeviceKey,
    /// Where its poller goes on; `None` before the first sync is complete and after the position was lost.
    pub since: Option<String>,
    /// Its newest access token; `None` if there is none, or if it cannot be decrypted.
    pub token: Option<SecretString>,
    /// When a client last used it, ms.
    pub last_seen: UnixMillis,
    /// Whether a first sync was ever stored completely.
    pub has_synced: bool,
    /// Version of the filter that `since` was got with.
    pub filter_version: i32,
}

/// Returns all devices by key.
pub(super) fn device_keys(c: &mut Connection) -> Result<HashMap<i64, DeviceKey>, Error> {
    let rows: Vec<(i64, String, String)> = with_connection!(c, |c| devices::table
        .inner_join(users::table)
        .select((devices::nid, users::user_id, devices::device_id))
        .load(c))?;
    Ok(rows
        .into_iter()
        .map(|(nid, user, device)| (nid, DeviceKey::new(user, device)))
        .collect())
}

/// A device with the newest of its tokens.
type Joined = (DeviceRow, String, Option<(String, Vec<u8>)>);

fn record(keys: &Keys, (row, user_id, token): Joined) -> DeviceRecord {
    let device = DeviceKey::new(user_id, row.device_id);
    let token = token.and_then(|(key_id, sealed)| {
        let opened = (key_id == keys.id()).then(|| keys.open(&device, &sealed)).flatten();
        if opened.is_none() {
            warn!(user_id:% = device.user_id, device_id:% = device.device_id; "stored token does not decrypt, ignored");
        }
        opened
    });
    DeviceRecord {
        device,
        since: row.since,
        token,
        last_seen: row.last_seen,
        has_synced: row.has_synced,
        filter_version: i32::try_from(row.filter_version).unwrap_or(0),
    }
}

/// Reads all devices, those seen last first.
pub(super) fn all(c: &mut Connection, keys: &Keys) -> Result<Vec<DeviceRecord>, Error> {
    let rows: Vec<Joined> = with_connection!(c, |c| devices::table
        .inner_join(users::table)
        .left_join(tokens::table)
        .order(devices::last_seen.desc())
        .select((
            DeviceRow::as_select(),
            users::user_id,
            (tokens::key_id, tokens::sealed).nullable()
        ))
        .load(c))?;
    Ok(rows.into_iter().map(|row| record(keys, row)).collect())
}

/// Reads one device.
pub(super) fn one(c: &mut Connection, keys: &Keys, device: &DeviceKey) -> Result<Option<DeviceRecord>, Error> {
    let row: Option<Joined> = with_connection!(c, |c| devices::table
        .inner_join(users::table)
        .left_join(tokens::table)
        .filter(users::user_id.eq(device.user_id.as_str()))
        .filter(devices::device_id.eq(device.device_id.as_str()))
        .select((
            DeviceRow::as_select(),
            users::user_id,
            (tokens::key_id, tokens::sealed).nullable()
        ))
        .first(c)
        .optional())?;
    Ok(row.map(|row| record(keys, row)))
}

/// Finds the device of a token.
pub(super) fn owner(c: &mut Connection, hash: &str) -> Result<Option<DeviceKey>, Error> {
    let row: Option<(String, String)> = with_connection!(c, |c| tokens::table
        .inner_join(devices::table.inner_join(users::table))
        .filter(tokens::hash.eq(hash))
        .select((users::user_id, devices::device_id))
        .first(c)
        .optional())?;
    Ok(row.map(|(user, device)| DeviceKey::new(user, device)))
}

/// Stores a token as the only one of its device.
pub(super) fn remember_token(
    c: &mut Connection,
    memory: &mut Memory,
    keys: &Keys,
    device: &DeviceKey,
    token: &SecretString,
    now: UnixMillis,
) -> Result<(), Error> {
    let row = memory.device_or_new(c, device, now)?;
    let hash = keys.lookup_hash(token.expose_secret());
    let sealed = keys
        .seal(device, token)
        .ok_or_else(|| Error::inconsistent("tokens", row.nid))?;
    // A superseded token would go on opening our door after the homeserver has closed its own.
    with_connection!(c, |c| diesel::delete(tokens::table)
        .filter(tokens::device_nid.eq(row.nid).or(tokens::hash.eq(&hash)))
        .execute(c))?;
    with_connection!(c, |c| diesel::insert_into(tokens::table)
        .values((
            tokens::hash.eq(&hash),
            tokens::device_nid.eq(row.nid),
            tokens::key_id.eq(keys.id()),
            tokens::sealed.eq(&sealed),
            tokens::created_ms.eq(now),
        ))
        .execute(c))?;
    Ok(())
}

/// Forgets the tokens of a device; everything else of it stays.
pub(super) fn forget_token(c: &mut Connection, memory: &mut Memory, device: &DeviceKey) -> Result<(), Error> {
    if let Some(row) = memory.device(c, device)? {
        with_connection!(c, |c| diesel::delete(tokens::table)
            .filter(tokens::device_nid.eq(row.nid))
            .execute(c))?;
    }
    Ok(())
}

/// Changes a device's row, if there is one.
pub(super) fn change(
    c: &mut Connection,
    memory: &mut Memory,
    device: &DeviceKey,
    change: impl FnOnce(&mut DeviceRow),
) -> Result<(), Error> {
    if let Some(mut row) = memory.device(c, device)? {
        change(&mut row);
        store_facts(c, memory, device, row)?;
    }
    Ok(())
}

/// Forgets a position that the homeserver does not take any more: whatever comes next follows a gap.
pub(super) fn reset_position(c: &mut Connection, memory: &mut Memory, device: &DeviceKey) -> Result<(), Error> {
    let Some(mut row) = memory.device(c, device)? else {
        return Ok(());
    };
    row.since = None;
    with_connection!(c, |c| diesel::update(user_rooms::table)
        .filter(user_rooms::user_nid.eq(row.user_nid))
        .set(user_rooms::gap_pending.eq(true))
        .execute(c))?;
    store_facts(c, memory, device, row)?;
    memory.forget_members();
    Ok(())
}

/// Removes to-device messages that the client has.
pub(super) fn acknowledge_to_device(
    c: &mut Connection,
    memory: &mut Memory,
    sent: &Mutex<Sent>,
    device: &DeviceKey,
    up_to: i64,
) -> Result<(), Error> {
    let Some(row) = memory.device(c, device)? else {
        return Ok(());
    };
    with_connection!(c, |c| diesel::delete(to_device::table)
        .filter(to_device::device_nid.eq(row.nid))
        .filter(to_device::seq.le(up_to))
        .execute(c))?;
    sent.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .acknowledged(device, up_to);
    Ok(())
}

/// Removes device-list changes that the client has.
pub(super) fn acknowledge_device_lists(
    c: &mut Connection,
    memory: &mut Memory,
    device: &DeviceKey,
    up_to: i64,
) -> Result<(), Error> {
    if let Some(row) = memory.device(c, device)? {
        with_connection!(c, |c| diesel::delete(device_lists::table)
            .filter(device_lists::device_nid.eq(row.nid))
            .filter(device_lists::seq.le(up_to))
            .execute(c))?;
    }
    Ok(())
}

/// Reads the counters and key facts of all devices of a user.
pub(super) fn facts(c: &mut Connection, user_nid: i64) -> Result<Vec<crate::model::change::DeviceFacts>, Error> {
    let rows: Vec<DeviceRow> = with_connection!(c, |c| devices::table
        .filter(devices::user_nid.eq(user_nid))
        .order(devices::nid)
        .select(DeviceRow::as_select())
        .load(c))?;
    rows.iter().map(DeviceRow::facts).collect()
}
