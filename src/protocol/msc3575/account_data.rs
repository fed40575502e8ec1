//! Account data of the answer being made (msc3575.md 12.4): each type once, the newest wins.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::ids::RoomId;
use crate::model::batch::AccountData;

type ByKind = BTreeMap<String, Box<RawValue>>;

/// Account data to send.
#[derive(Debug, Default)]
pub struct AccountDataOutput {
    global: ByKind,
    rooms: BTreeMap<RoomId, ByKind>,
    /// Whether all global account data was asked of the store.
    pub asked: bool,
}

/// The extension's part of a response.
#[derive(Debug, Serialize)]
pub struct AccountDataBody<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    global: Vec<&'a RawValue>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    rooms: BTreeMap<&'a RoomId, Vec<&'a RawValue>>,
}

impl AccountDataOutput {
    /// Returns whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.global.is_empty() && self.rooms.is_empty()
    }

    /// Adds changed global account data.
    pub fn change_global(&mut self, changed: &[AccountData]) {
        let changed = changed.iter().map(|data| (data.kind.clone(), data.raw.clone()));
        self.global.extend(changed);
    }

    /// Adds changed account data of a room.
    pub fn change_room(&mut self, room_id: &RoomId, changed: &[AccountData]) {
        if !changed.is_empty() {
            let room = self.rooms.entry(room_id.clone()).or_default();
            room.extend(changed.iter().map(|data| (data.kind.clone(), data.raw.clone())));
        }
    }

    /// Takes in all global account data. Changes taken in since it was asked for win: should one be older than what was
    /// loaded, then the newer one is on its way, too.
    pub fn load_global(&mut self, loaded: Vec<AccountData>) {
        for data in loaded {
            self.global.entry(data.kind).or_insert(data.raw);
        }
    }

    /// Takes in all account data of a room; it includes every change so far.
    pub fn load_room(&mut self, room_id: &RoomId, loaded: Vec<AccountData>) {
        if !loaded.is_empty() {
            let loaded = loaded.into_iter().map(|data| (data.kind, data.raw));
            self.rooms.insert(room_id.clone(), loaded.collect());
        }
    }

    /// Drops what is pending of a room.
    pub fn revoke(&mut self, room_id: &RoomId) {
        self.rooms.remove(room_id);
    }

    /// Returns what to serialize; `None` if there is nothing to say.
    pub fn body(&self) -> Option<AccountDataBody<'_>> {
        fn values(kinds: &ByKind) -> Vec<&RawValue> {
            kinds.values().map(|raw| &**raw).collect()
        }
        (!self.is_empty()).then(|| AccountDataBody {
            global: values(&self.global),
            rooms: self
                .rooms
                .iter()
                .map(|(room_id, kinds)| (room_id, values(kinds)))
                .collect(),
        })
    }
}
