//! Everything a request may change and a failed one must not: cheap to clone, so that it can be put back.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use super::device::{E2ee, ToDevice};
use super::ops::{self, Op};
use super::output::{Pending, Want};
use super::sticky::{Dialect, List, ListParameters, RoomParameters, Scope};
use crate::ids::{DeviceId, RoomId, UserId};
use crate::model::change::DeviceFacts;
use crate::model::room::Membership;
use crate::model::user_view::{RoomEntry, UserView};
use crate::protocol::sliding::range::{self, Range};

/// Sticky parameters, lists, and what the client is known to have.
#[derive(Clone, Debug)]
pub struct State {
    /// What the user knows, as far as this connection has got.
    pub view: UserView,
    /// Shape of lists.
    pub dialect: Dialect,
    /// Lists by name.
    pub lists: BTreeMap<String, List>,
    /// Subscriptions, whether or not the user is in those rooms.
    pub subscriptions: OrdMap<RoomId, Arc<RoomParameters>>,
    /// `to_device` arguments.
    pub to_device: ToDevice,
    /// `e2ee` arguments.
    pub e2ee: E2ee,
    /// `account_data` arguments.
    pub account_data: Scope,
    /// Whether the client has been given all global account data.
    pub has_global_account_data: bool,
    /// Whose member events were sent, by room.
    pub members: OrdMap<RoomId, OrdSet<UserId>>,
    /// Rooms the client was shown and the user is out of, without the client having been given the leave event.
    pub awaiting_leave: OrdSet<RoomId>,
    /// Snapshots that an earlier answer should have had.
    pub owed: BTreeMap<RoomId, Want>,
}

impl State {
    /// Returns the state of a connection that was never used.
    pub fn new(view: UserView) -> Self {
        Self {
            view,
            dialect: Dialect::Open,
            lists: BTreeMap::new(),
            subscriptions: OrdMap::new(),
            to_device: ToDevice::default(),
            e2ee: E2ee::default(),
            account_data: Scope::default(),
            has_global_account_data: false,
            members: OrdMap::new(),
            awaiting_leave: OrdSet::new(),
            owed: BTreeMap::new(),
        }
    }

    /// Returns the room as the user sees it.
    pub fn entry(&self, room_id: &RoomId) -> Option<&Arc<RoomEntry>> {
        self.view.rooms.get(room_id)
    }

    /// Returns whether the user is joined.
    pub fn is_joined(&self, room_id: &RoomId) -> bool {
        membership(self.entry(room_id)) == Some(Membership::Join)
    }

    /// Returns the facts of the device.
    pub fn device(&self, device_id: &DeviceId) -> Arc<DeviceFacts> {
        let known = self.view.devices.get(device_id).cloned();
        known.unwrap_or_else(|| Arc::new(DeviceFacts::unknown(device_id.clone())))
    }

    /// Returns the names of the lists that have the room in a window.
    pub fn shown_by(&self, room_id: &RoomId) -> impl Iterator<Item = &str> {
        let lists = self.lists.iter().filter(|(_, list)| list.shows(room_id));
        lists.map(|(name, _)| name.as_str())
    }

    /// Returns the parameters by which a room is shown: those of lists with it in a window, and its subscription's.
    pub fn reasons(&self, room_id: &RoomId) -> impl Iterator<Item = &RoomParameters> {
        let lists = self.lists.values().filter(|list| list.shows(room_id));
        let subscription = self.subscriptions.get(room_id).filter(|_| self.is_joined(room_id));
        lists
            .map(|list| &list.parameters.room)
            .chain(subscription.map(|parameters| &**parameters))
    }

    /// Returns whether the client is to be told of the room.
    pub fn shows(&self, room_id: &RoomId) -> bool {
        self.reasons(room_id).next().is_some()
    }

    /// Returns whether the room's account data is to be sent.
    pub fn wants_account_data(&self, room_id: &RoomId) -> bool {
        let subscribed = self.subscriptions.contains_key(room_id);
        self.is_joined(room_id) && self.account_data.covers(room_id, subscribed, self.shown_by(room_id))
    }

    /// Remembers whose member events the client was given.
    pub fn sent_members<'a>(&mut self, room_id: &RoomId, user_ids: impl Iterator<Item = &'a UserId>) {
        let mut sent = self.members.get(room_id).cloned().unwrap_or_default();
        sent.extend(user_ids.cloned());
        if !sent.is_empty() {
            self.members.insert(room_id.clone(), sent);
        }
    }

    /// Returns whether the user's member event was sent.
    pub fn has_member(&self, room_id: &RoomId, user_id: &UserId) -> bool {
        self.members.get(room_id).is_some_and(|sent| sent.contains(user_id))
    }
}

/// Returns how the user stands to a room.
pub fn membership(entry: Option<&Arc<RoomEntry>>) -> Option<Membership> {
    entry.map(|entry| entry.room.membership)
}

impl List {
    /// Sends all windows.
    pub fn sync_windows(&self, name: &str, pending: &mut Pending) {
        for window in self.parameters.windows() {
            self.sync(name, *window, pending);
        }
    }

    fn sync(&self, name: &str, window: Range, pending: &mut Pending) {
        let Some(window) = window.cut_to(self.sorted.len()) else {
            return;
        };
        let room_ids: Vec<RoomId> = self.sorted.range(window.start, window.end + 1).cloned().collect();
        let want = Want::from(&self.parameters.room);
        for room_id in &room_ids {
            pending.want(room_id, &want);
        }
        let range = [window.start, window.end];
        pending.op(name, Op::Sync { range, room_ids });
    }

    fn invalidate(&self, name: &str, window: Range, pending: &mut Pending) {
        if let Some(window) = window.cut_to(self.sorted.len()) {
            let range = [window.start, window.end];
            pending.op(name, Op::Invalidate { range });
        }
    }

    /// Sends what follows from the change of parameters to `new` (msc3575.md 3.6). `new` differs from `self` in its
    /// rooms only if it differs in its spec.
    pub fn change_to(&self, new: &List, name: &str, pending: &mut Pending) {
        let (old_parameters, parameters) = (&*self.parameters, &*new.parameters);
        let was_slow = old_parameters.slow_get_all_rooms;
        if old_parameters.spec != parameters.spec || was_slow != parameters.slow_get_all_rooms {
            if !(was_slow && parameters.slow_get_all_rooms) {
                for window in old_parameters.windows() {
                    self.invalidate(name, *window, pending);
                }
            }
            new.sync_windows(name, pending);
            return;
        }
        self.refresh(parameters, pending);
        if old_parameters.windows() == parameters.windows() {
            return;
        }
        let (removed, added) = range::difference(old_parameters.windows(), parameters.windows());
        for window in removed {
            self.invalidate(name, window, pending);
        }
        for window in added {
            new.sync(name, window, pending);
        }
    }

    /// Sends changed parts of the rooms that stay in a window, when room parameters change.
    fn refresh(&self, parameters: &ListParameters, pending: &mut Pending) {
        let (old, new) = (&self.parameters.room, &parameters.room);
        let mut want = Want::default();
        if old.timeline_limit != new.timeline_limit {
            want.timeline_limit = new.timeline_limit;
        }
        if old.required_state != new.required_state {
            want.required_state.clone_from(&new.required_state);
        }
        if old.timeline_limit == new.timeline_limit && old.required_state == new.required_state {
            return;
        }
        for window in parameters.windows() {
            let Some(window) = window.cut_to(self.sorted.len()) else {
                continue;
            };
            for room_id in self.sorted.range(window.start, window.end + 1) {
                if membership(self.sorted.entry(room_id)) == Some(Membership::Join) {
                    pending.want(room_id, &want);
                }
            }
        }
    }

    /// Takes in the new state of one room and sends how the windows move.
    pub fn follow(&mut self, name: &str, room_id: &RoomId, entry: Option<&Arc<RoomEntry>>, pending: &mut Pending) {
        let Some(moved) = self.sorted.update(room_id, entry) else {
            return;
        };
        let want = || Want::from(&self.parameters.room);
        if self.parameters.slow_get_all_rooms {
            if moved.from.is_none() {
                pending.want(room_id, &want());
            }
            return;
        }
        for step in ops::steps(self.parameters.windows(), moved, self.sorted.len()) {
            pending.op(name, Op::Delete { index: step.delete });
            let Some(index) = step.insert else { continue };
            let Some(room_id) = self.sorted.get(index).cloned() else {
                continue;
            };
            if step.is_new {
                pending.want(&room_id, &want());
            }
            pending.op(name, Op::Insert { index, room_id });
        }
    }
}
