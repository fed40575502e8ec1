//! What belongs to the device: to-device messages and encryption facts (msc3575.md 12.2, 12.3).

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use serde_json::value::RawValue;

use super::wire::{E2eeRequest, ToDeviceRequest};
use crate::ids::{DeviceKey, UserId};
use crate::model::change::DeviceFacts;
use crate::model::load::ToDevicePlan;

const DEFAULT_LIMIT: usize = 100;

/// Prints and reads `next_batch` tokens: `<epoch>.<check of the device>.<sequence number>`. Tokens of another database
/// or another device count as none, because their numbers mean other messages.
#[derive(Debug)]
pub struct Tokens {
    prefix: String,
}

impl Tokens {
    /// Returns the tokens of one device in one database.
    pub fn new(epoch: &str, device: &DeviceKey) -> Self {
        // FNV-1a: guards against mix-ups, not against attackers, who could only harm their own device.
        let text = format!("{}\0{}", device.user_id, device.device_id);
        let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self {
            prefix: format!("{epoch}.{hash:016x}."),
        }
    }

    /// Prints a token.
    pub fn print(&self, seq: i64) -> String {
        format!("{}{seq}", self.prefix)
    }

    /// Reads a token.
    pub fn read(&self, token: &str) -> Option<i64> {
        let seq: i64 = token.strip_prefix(&*self.prefix)?.parse().ok()?;
        (seq >= 0 && self.print(seq) == token).then_some(seq)
    }
}

/// The `to_device` arguments of a connection.
#[derive(Clone, Debug)]
pub struct ToDevice {
    /// Whether the extension runs.
    pub enabled: bool,
    after: i64,
    limit: usize,
    // Idle polls repeat their `since`, and must not cause writes.
    acknowledged: i64,
}

impl Default for ToDevice {
    fn default() -> Self {
        Self {
            enabled: false,
            after: 0,
            limit: DEFAULT_LIMIT,
            acknowledged: 0,
        }
    }
}

impl ToDevice {
    /// Replaces what the request mentions. Returns what it acknowledges beyond earlier requests.
    pub fn merge(&mut self, request: &ToDeviceRequest, tokens: &Tokens, max_limit: usize) -> Option<i64> {
        self.enabled = request.enabled.unwrap_or(self.enabled);
        if let Some(limit) = request.limit.filter(|limit| *limit > 0) {
            self.limit = limit.min(max_limit);
        }
        let since = request.since.as_deref()?;
        let seq = tokens.read(since);
        self.after = seq.unwrap_or(0);
        let acknowledged = seq.filter(|seq| self.enabled && *seq > self.acknowledged)?;
        self.acknowledged = acknowledged;
        Some(acknowledged)
    }
}

/// To-device messages of the answer being made.
#[derive(Debug, Default)]
pub struct ToDeviceOutput {
    /// Messages with their sequence numbers, oldest first.
    pub messages: Vec<(i64, Box<RawValue>)>,
    // The newest message known when the last load was planned.
    asked_seq: i64,
}

impl ToDeviceOutput {
    /// Returns what must be read: nothing unless there is something newer than `since` and than the last load.
    pub fn plan(&mut self, arguments: &ToDevice, facts: &DeviceFacts) -> Option<ToDevicePlan> {
        let known = arguments.after.max(self.asked_seq);
        let is_full = self.messages.len() >= arguments.limit;
        if !arguments.enabled || is_full || facts.to_device_seq <= known {
            return None;
        }
        self.asked_seq = facts.to_device_seq;
        Some(ToDevicePlan {
            after: arguments.after,
            limit: arguments.limit,
        })
    }

    /// Returns the `since` to continue from.
    pub fn next_batch(&self, arguments: &ToDevice) -> i64 {
        self.messages.last().map_or(arguments.after, |(seq, _)| *seq)
    }
}

/// The `e2ee` arguments of a connection, and what it was last sent.
#[derive(Clone, Debug, Default)]
pub struct E2ee {
    /// Whether the extension runs.
    pub enabled: bool,
    sent_keys: Option<Arc<BTreeMap<String, i64>>>,
    sent_types: Option<Arc<[String]>>,
    acknowledged: i64,
}

impl E2ee {
    /// Replaces what the request mentions.
    pub fn merge(&mut self, request: &E2eeRequest) {
        self.enabled = request.enabled.unwrap_or(self.enabled);
    }

    /// Notes up to which device-list change the client has everything. Returns it if that is news.
    pub fn acknowledge(&mut self, seq: i64) -> Option<i64> {
        let is_new = self.enabled && seq > self.acknowledged;
        if is_new {
            self.acknowledged = seq;
        }
        is_new.then_some(seq)
    }

    /// Returns the key counts if the client does not have them.
    pub fn new_keys<'a>(&self, facts: &'a DeviceFacts) -> Option<&'a Arc<BTreeMap<String, i64>>> {
        let keys = facts.one_time_keys.as_ref()?;
        (self.enabled && self.sent_keys.as_ref() != Some(keys)).then_some(keys)
    }

    /// Returns the fallback key types if the client does not have them.
    pub fn new_types<'a>(&self, facts: &'a DeviceFacts) -> Option<&'a Arc<[String]>> {
        let types = facts.fallback_types.as_ref()?;
        (self.enabled && self.sent_types.as_ref() != Some(types)).then_some(types)
    }

    /// Remembers that the facts were sent.
    pub fn sent(&mut self, facts: &DeviceFacts) {
        if self.enabled {
            self.sent_keys.clone_from(&facts.one_time_keys);
            self.sent_types.clone_from(&facts.fallback_types);
        }
    }
}

/// `device_lists` of the answer being made.
#[derive(Debug, Default, Serialize)]
pub struct DeviceListsOutput {
    changed: Vec<UserId>,
    left: Vec<UserId>,
    /// Newest change in it; what the client acknowledges by taking the answer.
    #[serde(skip)]
    pub seq: i64,
    #[serde(skip)]
    asked_seq: i64,
}

impl DeviceListsOutput {
    /// Returns whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.left.is_empty()
    }

    /// Returns the most changes to read: nothing unless there may be some that the client has not acknowledged.
    pub fn plan(&mut self, e2ee: &E2ee, acknowledged: i64, facts: &DeviceFacts, limit: usize) -> Option<usize> {
        if !e2ee.enabled || facts.device_list_seq <= acknowledged.max(self.asked_seq) {
            return None;
        }
        self.asked_seq = facts.device_list_seq;
        Some(limit)
    }

    /// Takes in what was read; it replaces what was read before, being everything unacknowledged.
    pub fn absorb(&mut self, changes: Vec<(UserId, bool)>, seq: i64, limit: usize) {
        // A load that was not cut short has brought everything there was when it was planned, even if that was nothing
        // because another connection has acknowledged it.
        let complete = if changes.len() < limit { self.asked_seq } else { 0 };
        self.seq = seq.max(complete);
        self.changed.clear();
        self.left.clear();
        for (user_id, left) in changes {
            let users = if left { &mut self.left } else { &mut self.changed };
            users.push(user_id);
        }
    }
}
