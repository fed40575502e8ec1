//! What a connection remembers of its requests (msc3575.md 3.5).

use std::sync::Arc;

use super::wire::{ListRequest, RoomRequest, ScopedRequest};
use crate::ids::RoomId;
use crate::protocol::sliding::filter::Filters;
use crate::protocol::sliding::list::{ListSpec, SortedList};
use crate::protocol::sliding::range::{self, Range};
use crate::protocol::sliding::required_state::{self, Entry};
use crate::protocol::sliding::sort::Sort;

/// In which shape lists are spoken of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// No list has been mentioned; answers have a map.
    Open,
    /// Lists by name.
    Map,
    /// So many lists by index.
    Array(usize),
}

/// Merged room parameters of a list, or those of a subscription.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RoomParameters {
    /// Wanted state.
    pub required_state: Vec<Entry>,
    /// Events of a snapshot's timeline.
    pub timeline_limit: usize,
    /// Whether to name the members a name was made of.
    pub include_heroes: bool,
}

impl RoomParameters {
    /// Returns the parameters of a new list or subscription.
    pub fn new(request: &RoomRequest) -> Self {
        let mut parameters = Self::default();
        parameters.merge(request);
        parameters
    }

    /// Replaces what the request mentions.
    pub fn merge(&mut self, request: &RoomRequest) {
        if let Some(required_state) = &request.required_state {
            self.required_state.clone_from(required_state);
        }
        self.timeline_limit = request.timeline_limit.unwrap_or(self.timeline_limit);
        self.include_heroes = request.include_heroes.unwrap_or(self.include_heroes);
    }

    /// Returns whether senders' member events are wanted.
    pub fn is_lazy(&self) -> bool {
        required_state::is_lazy(&self.required_state)
    }
}

/// Merged parameters of one list.
#[derive(Clone, Debug)]
pub struct ListParameters {
    /// Windows in request order; `None` if never mentioned.
    pub ranges: Option<Vec<Range>>,
    /// Filter and order.
    pub spec: Arc<ListSpec>,
    /// Whether all rooms are visible, whatever the windows.
    pub slow_get_all_rooms: bool,
    /// Event types that count as activity; empty for all.
    pub bump_event_types: Vec<String>,
    /// What to send of its rooms.
    pub room: RoomParameters,
}

impl ListParameters {
    /// Returns the parameters of a new list.
    pub fn new(request: &ListRequest) -> Self {
        let spec = ListSpec {
            filters: Filters::default(),
            sort: Sort::parse_all([]),
        };
        let blank = Self {
            ranges: None,
            spec: Arc::new(spec),
            slow_get_all_rooms: false,
            bump_event_types: Vec::new(),
            room: RoomParameters::default(),
        };
        blank.merged(request)
    }

    /// Returns the parameters with what the request mentions replaced.
    pub fn merged(&self, request: &ListRequest) -> Self {
        let mut merged = self.clone();
        if let Some(ranges) = &request.ranges {
            merged.ranges = Some(ranges.clone());
        }
        let sort = request.sort.as_ref().filter(|names| !names.is_empty());
        if request.filters.is_some() || sort.is_some() {
            let spec = ListSpec {
                filters: request.filters.clone().unwrap_or_else(|| self.spec.filters.clone()),
                sort: sort.map_or_else(
                    || self.spec.sort.clone(),
                    |names| Sort::parse_all(names.iter().map(String::as_str)),
                ),
            };
            if spec != *self.spec {
                merged.spec = Arc::new(spec);
            }
        }
        merged.slow_get_all_rooms = request.slow_get_all_rooms.unwrap_or(self.slow_get_all_rooms);
        if let Some(types) = &request.bump_event_types {
            merged.bump_event_types.clone_from(types);
        }
        merged.room.merge(&request.room);
        merged
    }

    /// Returns the windows in effect.
    pub fn windows(&self) -> &[Range] {
        if self.slow_get_all_rooms {
            &[Range::ALL]
        } else {
            self.ranges.as_deref().unwrap_or_default()
        }
    }
}

/// A list of a connection. Cheap to clone.
#[derive(Clone, Debug)]
pub struct List {
    /// What the client asked for.
    pub parameters: Arc<ListParameters>,
    /// The rooms.
    pub sorted: SortedList,
}

impl List {
    /// Returns whether the room is in one of the windows.
    pub fn shows(&self, room_id: &RoomId) -> bool {
        let windows = self.parameters.windows();
        !windows.is_empty()
            && self
                .sorted
                .position(room_id)
                .is_some_and(|index| range::any_contains(windows, index))
    }
}

/// Arguments of an extension that speaks of rooms.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// Whether the extension runs.
    pub enabled: bool,
    // `None` until first mentioned.
    lists: Option<Vec<String>>,
    rooms: Option<Vec<RoomId>>,
}

impl Scope {
    /// Replaces what the request mentions.
    pub fn merge(&mut self, request: &ScopedRequest) {
        self.enabled = request.enabled.unwrap_or(self.enabled);
        if request.lists.is_some() {
            self.lists.clone_from(&request.lists);
        }
        if request.rooms.is_some() {
            self.rooms.clone_from(&request.rooms);
        }
    }

    /// Returns whether the room is in scope, given whether it is subscribed and which lists show it. Only a first
    /// element `*` means all (msc3575.md 12.1).
    pub fn covers<'a>(&self, room_id: &RoomId, subscribed: bool, mut shown_by: impl Iterator<Item = &'a str>) -> bool {
        if !self.enabled {
            return false;
        }
        let is_all = |first: Option<&str>| first == Some("*");
        let by_room = match &self.rooms {
            None => subscribed,
            Some(rooms) => rooms.contains(room_id) || (is_all(rooms.first().map(RoomId::as_str)) && subscribed),
        };
        by_room
            || match &self.lists {
                None => shown_by.next().is_some(),
                Some(lists) if is_all(lists.first().map(String::as_str)) => shown_by.next().is_some(),
                Some(lists) => shown_by.any(|name| lists.iter().any(|wanted| wanted == name)),
            }
    }
}
