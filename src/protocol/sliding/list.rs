//! Sorted lists of a user's rooms: built once, then kept in order, one room at a time, in logarithmic time.

use std::sync::Arc;

use imbl::Vector;

use super::filter::{self, Filters};
use super::sort::{self, Sort};
use crate::ids::RoomId;
use crate::model::position::Position;
use crate::model::user_view::{RoomEntry, SharedMap, UserView};

/// What defines a list: equal specs mean equal lists.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ListSpec {
    /// Which rooms.
    pub filters: Filters,
    /// In which order.
    pub sort: Vec<Sort>,
}

/// How one room moved in a list: `None` stands for "not in the list".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// Index before.
    pub from: Option<usize>,
    /// Index after.
    pub to: Option<usize>,
}

/// The rooms of one user that pass a filter, in order. Clones share their insides.
#[derive(Clone, Debug)]
pub struct SortedList {
    spec: Arc<ListSpec>,
    // What the order was made from: the old entry of a room is needed to find its place again, and other rooms'
    // entries to tell whether a room is replaced.
    rooms: SharedMap<RoomId, Arc<RoomEntry>>,
    order: Vector<Arc<RoomEntry>>,
}

impl SortedList {
    /// Builds the list from scratch.
    pub fn build(view: &UserView, spec: Arc<ListSpec>) -> Self {
        let rooms = view.rooms.clone();
        let mut order: Vec<&Arc<RoomEntry>> = rooms
            .values()
            .filter(|entry| spec.filters.pass(entry, &rooms))
            .collect();
        order.sort_unstable_by(|a, b| sort::compare(&spec.sort, a, b));
        let order = order.into_iter().cloned().collect();
        Self { spec, rooms, order }
    }

    /// Returns what defines the list.
    pub fn spec(&self) -> &Arc<ListSpec> {
        &self.spec
    }

    /// Takes in the new state of one room (`None`: unknown from now on). Returns how it moved, `None` if it neither was
    /// nor is in the list.
    pub fn update(&mut self, room_id: &RoomId, entry: Option<&Arc<RoomEntry>>) -> Option<Move> {
        let from = self.position(room_id);
        if let Some(index) = from {
            self.order.remove(index);
        }
        match entry {
            Some(entry) => self.rooms.insert(room_id.clone(), Arc::clone(entry)),
            None => self.rooms.remove(room_id),
        };
        let to = entry
            .filter(|entry| self.spec.filters.pass(entry, &self.rooms))
            .map(|entry| {
                let index = self.search(entry).unwrap_or_else(|index| index);
                self.order.insert(index, Arc::clone(entry));
                index
            });
        (from.is_some() || to.is_some()).then_some(Move { from, to })
    }

    fn search(&self, entry: &RoomEntry) -> Result<usize, usize> {
        self.order
            .binary_search_by(|other| sort::compare(&self.spec.sort, other, entry))
    }

    /// Returns the index of the room.
    pub fn position(&self, room_id: &RoomId) -> Option<usize> {
        self.search(self.rooms.get(room_id)?).ok()
    }

    /// Returns the entry of the room as the list knows it, listed or not.
    pub fn entry(&self, room_id: &RoomId) -> Option<&Arc<RoomEntry>> {
        self.rooms.get(room_id)
    }

    /// Returns the room at the index.
    pub fn get(&self, index: usize) -> Option<&RoomId> {
        self.order.get(index).map(|entry| &entry.room.room_id)
    }

    /// Returns the number of rooms.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Returns whether there is no room.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Returns the rooms from index `start` up to, not including, `end`; indices past the end are skipped.
    pub fn range(&self, start: usize, end: usize) -> impl Iterator<Item = &RoomId> {
        let end = end.min(self.len());
        let focus = self.order.focus().narrow(start.min(end)..end);
        focus.into_iter().map(|entry| &entry.room.room_id)
    }
}

/// Most lists kept per user.
pub const MAX_INDEXES: usize = 16;

/// Lists that a user's connections asked for lately, kept up to date, so that a new connection need not sort again.
/// All of them stand at one position. Clones share their insides.
#[derive(Clone, Debug, Default)]
pub struct ListIndexes {
    position: Position,
    // The most recently used is the last.
    lists: Vec<SortedList>,
}

impl ListIndexes {
    /// Returns no lists, as of `position`.
    pub fn new(position: Position) -> Self {
        Self {
            position,
            lists: Vec::new(),
        }
    }

    /// Returns the position that the lists stand at.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Declares that all changes up to `position` have been given to [`ListIndexes::update`].
    pub fn advance(&mut self, position: Position) {
        self.position = self.position.max(position);
    }

    /// Returns the list if it is here.
    pub fn find(&mut self, spec: &ListSpec) -> Option<SortedList> {
        let index = self.lists.iter().position(|list| **list.spec() == *spec)?;
        let list = self.lists.remove(index);
        self.lists.push(list.clone());
        Some(list)
    }

    /// Returns the list, building it if need be. `view` must be the one that the lists stand at.
    pub fn get_or_build(&mut self, view: &UserView, spec: &Arc<ListSpec>) -> SortedList {
        if let Some(list) = self.find(spec) {
            return list;
        }
        let list = SortedList::build(view, Arc::clone(spec));
        self.insert(list.clone());
        list
    }

    /// Adds a list that stands at the same position; the least recently used one goes if there are too many.
    pub fn insert(&mut self, list: SortedList) {
        self.lists.retain(|other| other.spec() != list.spec());
        if self.lists.len() >= MAX_INDEXES {
            self.lists.remove(0);
        }
        self.lists.push(list);
    }

    /// Takes in the new state of one room, and what follows from it for the room it replaced.
    pub fn update(&mut self, room_id: &RoomId, entry: Option<&Arc<RoomEntry>>) {
        for list in &mut self.lists {
            let predecessor = filter::predecessor(list.entry(room_id), entry);
            list.update(room_id, entry);
            if let Some(old) = predecessor {
                let entry = list.entry(&old).cloned();
                list.update(&old, entry.as_ref());
            }
        }
    }
}

#[cfg(test)]
#[path = "list_tests.rs"]
mod tests;
