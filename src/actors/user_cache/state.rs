//! The pure part of a user's cache: from commits to views.

use std::collections::HashSet;
use std::sync::Arc;

use serde::Deserialize;

use crate::actors::room_cache::messages::SummaryChanged;
use crate::actors::user_cache::messages::Notice;
use crate::ids::{RoomId, UserId};
use crate::model::batch::AccountData;
use crate::model::change::{Changed, Ended, RoomUpdate};
use crate::model::room::{Unread, UserRoom};
use crate::model::user_view::{IdHasher, UserView};
use crate::protocol::sliding::list::ListIndexes;
use crate::room::name;
use crate::store::UserSnapshot;

/// One user's view and what is needed to keep it current.
pub struct CacheState {
    /// The view.
    pub view: UserView,
    /// Rooms named in `m.direct`.
    direct: HashSet<RoomId, IdHasher>,
    /// Sorted lists kept current for new connections.
    pub indexes: ListIndexes,
}

impl CacheState {
    /// Builds the state out of what the store holds.
    pub fn new(user_id: UserId, snapshot: UserSnapshot) -> Self {
        let direct = snapshot
            .account_data
            .iter()
            .find(|data| data.kind == "m.direct")
            .map(direct_rooms)
            .unwrap_or_default();
        let mut view = UserView::empty(user_id);
        view.position = snapshot.position;
        for room in snapshot.rooms {
            let is_dm = direct.contains(&room.room_id);
            let room_id = room.room_id.clone();
            view.rooms.insert(room_id, Arc::new(name::entry(Arc::new(room), is_dm)));
        }
        for facts in snapshot.devices {
            view.devices.insert(facts.device_id.clone(), Arc::new(facts));
        }
        Self {
            view,
            direct,
            indexes: ListIndexes::new(snapshot.position),
        }
    }

    /// Applies a commit. Returns what sessions must hear; `None` if the commit is part of the view already or says
    /// nothing.
    pub fn apply(&mut self, notice: &Notice) -> Option<Changed> {
        if notice.position <= self.view.position {
            return None;
        }
        self.view.position = notice.position;
        self.indexes.advance(notice.position);
        let mut updates = Vec::new();
        let own = notice.committed.as_ref().and_then(|committed| committed.user.as_ref());
        for ended in &notice.ended {
            let told_below = own.is_some_and(|own| own.rooms.iter().any(|room| room.room.room_id == ended.room_id));
            if !told_below && self.end(ended) {
                updates.push(RoomUpdate {
                    room_id: ended.room_id.clone(),
                    change: None,
                });
            }
        }
        let mut account_data = Vec::new();
        let mut device_id = None;
        if let Some(own) = own {
            device_id = Some(own.device.device_id.clone());
            if let Some(facts) = &own.device_change {
                self.view
                    .devices
                    .insert(facts.device_id.clone(), Arc::new(facts.clone()));
            }
            account_data = own.account_data.clone();
            let direct = own
                .account_data
                .iter()
                .rev()
                .find(|data| data.kind == "m.direct")
                .map(direct_rooms);
            let remarked = direct.map(|direct| self.replace_direct(direct)).unwrap_or_default();
            for change in &own.rooms {
                if change.entry_changed {
                    self.put(Arc::clone(&change.room));
                }
                updates.push(RoomUpdate {
                    room_id: change.room.room_id.clone(),
                    change: Some(Arc::clone(change)),
                });
            }
            for room_id in remarked {
                if own.rooms.iter().all(|change| change.room.room_id != room_id) {
                    if let Some(entry) = self.view.rooms.get(&room_id) {
                        let room = Arc::clone(&entry.room);
                        self.put(room);
                    }
                    updates.push(RoomUpdate { room_id, change: None });
                }
            }
        }
        for SummaryChanged { room_id, summary } in &notice.summaries {
            let Some(entry) = self.view.rooms.get(room_id) else {
                continue;
            };
            let mut room = UserRoom::clone(&entry.room);
            room.summary = Arc::clone(summary);
            self.put(Arc::new(room));
            updates.push(RoomUpdate {
                room_id: room_id.clone(),
                change: None,
            });
        }
        let device_changed = own.is_some_and(|own| own.device_change.is_some());
        if updates.is_empty() && account_data.is_empty() && !device_changed {
            return None;
        }
        Some(Changed {
            position: notice.position,
            view: self.view.clone(),
            rooms: updates,
            account_data,
            device_id,
        })
    }

    /// Replaces every shared summary by the one copy that all users share, newest first.
    pub fn share(&mut self, summaries: Vec<Arc<crate::model::room::RoomSummary>>) {
        for summary in summaries {
            let Some(entry) = self.view.rooms.get(&summary.room_id) else {
                continue;
            };
            if Arc::ptr_eq(&entry.room.summary, &summary) {
                continue;
            }
            let mut room = UserRoom::clone(&entry.room);
            room.summary = summary;
            self.put(Arc::new(room));
        }
    }

    fn put(&mut self, room: Arc<UserRoom>) {
        let is_dm = self.direct.contains(&room.room_id);
        let room_id = room.room_id.clone();
        let entry = Arc::new(name::entry(room, is_dm));
        self.indexes.update(&room_id, Some(&entry));
        self.view.rooms.insert(room_id, entry);
    }

    fn end(&mut self, ended: &Ended) -> bool {
        let Some(entry) = self.view.rooms.get(&ended.room_id) else {
            return false;
        };
        let mut room = UserRoom::clone(&entry.room);
        room.membership = ended.membership;
        room.unread = Unread::default();
        room.stripped = None;
        self.put(Arc::new(room));
        true
    }

    /// Takes a new `m.direct`. Returns the rooms whose mark changed.
    fn replace_direct(&mut self, direct: HashSet<RoomId, IdHasher>) -> Vec<RoomId> {
        let changed: Vec<_> = self.direct.symmetric_difference(&direct).cloned().collect();
        self.direct = direct;
        changed
            .into_iter()
            .filter(|room_id| self.view.rooms.contains_key(room_id))
            .collect()
    }
}

/// Reads `m.direct` leniently: a map of users to rooms, of which only the rooms matter here.
fn direct_rooms(data: &AccountData) -> HashSet<RoomId, IdHasher> {
    #[derive(Deserialize)]
    struct Outer {
        content: serde_json::Map<String, serde_json::Value>,
    }
    let Ok(outer) = serde_json::from_str::<Outer>(data.raw.get()) else {
        return HashSet::default();
    };
    outer
        .content
        .values()
        .filter_map(serde_json::Value::as_array)
        .flatten()
        .filter_map(serde_json::Value::as_str)
        .map(RoomId::from)
        .collect()
}
