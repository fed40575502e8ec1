//! What a response brings for the device alone: to-device messages, device lists, key counts, and the position.

use std::sync::{Mutex, PoisonError};

use diesel::prelude::*;
use diesel::upsert::excluded;

use super::{Ingest, storable};
use crate::ids::{DeviceKey, UserId};
use crate::model::batch::Batch;
use crate::model::change::{DeviceFacts, RoomChange};
use crate::store::connection::{Connection, insert_rows, with_connection};
use crate::store::error::Error;
use crate::store::memory::{Memory, Sent};
use crate::store::rows::DeviceRow;
use crate::store::schema::{device_lists, devices, to_device, transaction_ids};

/// Writes a device's row and remembers it.
pub(in crate::store) fn store_facts(
    c: &mut Connection,
    memory: &mut Memory,
    key: &DeviceKey,
    row: DeviceRow,
) -> Result<(), Error> {
    let found = with_connection!(c, |c| diesel::update(devices::table.find(row.nid)).set(&row).execute(c))?;
    if found != 1 {
        return Err(Error::inconsistent("devices", row.nid));
    }
    memory.devices.put(key.clone(), row);
    Ok(())
}

impl Ingest<'_> {
    /// Stores the device's part and moves its position. Returns the device's facts if they changed.
    pub(super) fn device(
        &mut self,
        batch: &Batch,
        mut row: DeviceRow,
        sent: &Mutex<Sent>,
    ) -> Result<Option<DeviceFacts>, Error> {
        let before = row.facts()?;
        self.queue_messages(batch, &mut row, sent)?;
        self.note_device_lists(batch, &mut row)?;
        let bad = |_| Error::inconsistent("devices", batch.device.device_id.as_str());
        let counts = batch.one_time_keys.as_ref();
        if let Some(counts) = counts {
            row.one_time_keys = Some(serde_json::to_string(counts).map_err(bad)?);
        } else if batch.since_in.is_none() && batch.next_batch.is_some() {
            // Absent from a complete answer: unknown, which is not the same as zero (upstream.md 7.2).
            row.one_time_keys = None;
        }
        if let Some(types) = &batch.fallback_types {
            row.fallback_types = Some(serde_json::to_string(types).map_err(bad)?);
        }
        if let Some(next_batch) = &batch.next_batch {
            row.since = Some(next_batch.clone());
            row.has_synced = true;
        }
        let after = row.facts()?;
        store_facts(self.c, self.memory, &batch.device, row)?;
        Ok((before != after).then_some(after))
    }

    fn queue_messages(&mut self, batch: &Batch, row: &mut DeviceRow, sent: &Mutex<Sent>) -> Result<(), Error> {
        if batch.to_device.is_empty() {
            return Ok(());
        }
        let device_nid = row.nid;
        let mut rows: Vec<(i64, Option<&str>, &[u8])> = Vec::new();
        for message in &batch.to_device {
            let request = message
                .key_request
                .as_ref()
                .filter(|request| !request.key.contains('\0'));
            if let Some(request) = request
                && request.cancels
                && self.annihilate(batch, device_nid, &request.key, &mut rows, sent)?
            {
                continue;
            }
            let key = request
                .filter(|request| !request.cancels)
                .map(|request| request.key.as_str());
            rows.push((self.memory.next_seq(), key, message.raw.get().as_bytes()));
        }
        if let Some((seq, ..)) = rows.last() {
            row.to_device_seq = *seq;
        }
        let rows: Vec<_> = rows
            .into_iter()
            .map(|(seq, key, body)| {
                (
                    to_device::device_nid.eq(device_nid),
                    to_device::seq.eq(seq),
                    to_device::request_key.eq(key),
                    to_device::body.eq(body),
                )
            })
            .collect();
        insert_rows!(&mut *self.c, &rows, |values| diesel::insert_into(to_device::table)
            .values(values));
        Ok(())
    }

    /// Takes back the request that a cancellation is for, if no client has it yet. Then nobody needs either.
    fn annihilate(
        &mut self,
        batch: &Batch,
        device_nid: i64,
        key: &str,
        rows: &mut Vec<(i64, Option<&str>, &[u8])>,
        sent: &Mutex<Sent>,
    ) -> Result<bool, Error> {
        if let Some(at) = rows.iter().position(|(_, other, _)| *other == Some(key)) {
            rows.remove(at);
            return Ok(true);
        }
        let stored: Option<i64> = with_connection!(&mut *self.c, |c| to_device::table
            .filter(to_device::device_nid.eq(device_nid))
            .filter(to_device::request_key.eq(key))
            .order(to_device::seq.desc())
            .select(to_device::seq)
            .first(c)
            .optional())?;
        let Some(seq) = stored else {
            return Ok(false);
        };
        // A reader may hold an older moment of the database; it leaves out what is noted here.
        let unsent = sent
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take_back(&batch.device, seq);
        if unsent {
            with_connection!(&mut *self.c, |c| diesel::delete(
                to_device::table.find((device_nid, seq))
            )
            .execute(c))?;
        }
        Ok(unsent)
    }

    fn note_device_lists(&mut self, batch: &Batch, row: &mut DeviceRow) -> Result<(), Error> {
        // The last word on a user counts, and in one response `left` is it.
        let mut users: Vec<(&UserId, bool)> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        let left = batch.device_lists_left.iter().map(|user| (user, true));
        let changed = batch.device_lists_changed.iter().map(|user| (user, false));
        for (user, gone) in left.chain(changed) {
            if storable(user) && seen.insert(user) {
                users.push((user, gone));
            }
        }
        let device_nid = row.nid;
        let rows: Vec<_> = users
            .into_iter()
            .map(|(user, gone)| {
                let seq = self.memory.next_seq();
                row.device_list_seq = seq;
                (
                    device_lists::device_nid.eq(device_nid),
                    device_lists::user_id.eq(user.as_str()),
                    device_lists::gone.eq(gone),
                    device_lists::seq.eq(seq),
                )
            })
            .collect();
        insert_rows!(&mut *self.c, &rows, |values| diesel::insert_into(device_lists::table)
            .values(values)
            .on_conflict((device_lists::device_nid, device_lists::user_id))
            .do_update()
            .set((
                device_lists::gone.eq(excluded(device_lists::gone)),
                device_lists::seq.eq(excluded(device_lists::seq)),
            )));
        Ok(())
    }

    /// Keeps transaction IDs for as long as a session may have to repeat an answer.
    pub(super) fn transaction_ids(&mut self, device: &DeviceRow, rooms: &[RoomChange]) -> Result<(), Error> {
        let rows: Vec<_> = rooms
            .iter()
            .flat_map(|room| &room.transaction_ids)
            .filter(|(_, transaction_id)| !transaction_id.contains('\0'))
            .filter_map(|(event_id, transaction_id)| {
                let known = self.known.get(event_id)?;
                Some((
                    transaction_ids::device_nid.eq(device.nid),
                    transaction_ids::event_nid.eq(known.nid),
                    transaction_ids::transaction_id.eq(transaction_id.as_str()),
                    transaction_ids::created_ms.eq(self.now),
                ))
            })
            .collect();
        insert_rows!(&mut *self.c, &rows, |values| diesel::insert_into(
            transaction_ids::table
        )
        .values(values)
        .on_conflict_do_nothing());
        Ok(())
    }
}
