//! The front ends: what a client asks, what is remembered of it, and the bytes it gets. Pure: no clock, no log, no
//! waiting, no database. A session actor drives a [`Protocol`] and does all of that.

pub mod msc3575;
pub mod sliding;

use std::sync::Arc;

use bytes::Bytes;

use crate::ids::RoomId;
use crate::model::change::Changed;
use crate::model::load::{LoadPlan, Loaded};
use crate::model::position::Position;
use crate::model::user_view::UserView;
use crate::protocol::sliding::list::{ListIndexes, ListSpec, SortedList};

/// An answer, serialized once, so that every retry gets the same bytes.
#[derive(Debug)]
pub struct Answer {
    /// JSON text.
    pub body: Bytes,
}

/// Why a request is not processed. Displays as the message for the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The body is no JSON (`M_NOT_JSON`).
    #[error("{0}")]
    NotJson(String),
    /// A field has the wrong JSON type (`M_BAD_JSON`).
    #[error("{0}")]
    BadJson(String),
    /// A value is out of bounds (`M_INVALID_PARAM`).
    #[error("{0}")]
    InvalidParam(String),
    /// The position is not one this connection could continue from (`M_UNKNOWN_POS`).
    #[error("session expired")]
    UnknownPos,
}

/// What to do with a request.
#[derive(Debug)]
pub enum Accepted {
    /// A stored answer.
    Replay {
        /// The answer.
        answer: Arc<Answer>,
        /// Whether the client repeats itself: wait 10 ms first, in case it does so in a loop.
        pause: bool,
    },
    /// To be processed.
    Process {
        /// How long the client is willing to wait, clamped.
        timeout_ms: u64,
        /// Whether the updates queued at this moment are to be applied before answering.
        drain: bool,
        /// Whether to answer without waiting.
        answer_at_once: bool,
    },
}

/// What the client has proven to have received. To be carried out before the plan of the same request is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledgement {
    /// To-device messages up to this sequence number may be deleted.
    ToDevice {
        /// Inclusive.
        up_to: i64,
    },
    /// Device-list changes up to this sequence number may be deleted.
    DeviceLists {
        /// Inclusive.
        up_to: i64,
    },
}

/// One dialect of sync for one connection. The session drives it in this order: `accept`; `apply` for each queued change
/// if asked to drain; then in a loop `plan`, store load, `absorb`, and `render` if there are news or the time is up,
/// else wait and `apply`.
pub trait Protocol: Sized + Unpin + 'static {
    /// A parsed request.
    type Request: Send + 'static;

    /// The protocol's name in metrics.
    const NAME: &'static str;

    /// Gives the connection lists of the user that are already sorted, for use by the next request. They are used if
    /// they stand at the position the connection is at.
    fn with_indexes(&mut self, indexes: ListIndexes);

    /// Returns the lists that had to be built, and as of which position, each once.
    fn built_indexes(&mut self) -> Vec<(ListSpec, SortedList, Position)>;

    /// Judges the request and starts to process it. `view` is what the user knows now; it is used by a connection's first
    /// request, while later ones go on from the view of the last change applied. A request that was still being
    /// processed is rolled back.
    fn accept(&mut self, request: Self::Request, view: &UserView) -> Result<Accepted, Refusal>;

    /// Takes in one committed change, in position order, only while a request is being processed. Changes at or before
    /// the connection's own position are ignored.
    fn apply(&mut self, changed: &Changed);

    /// Returns what must be read before answering; empty when nothing. Called again after further `apply`s.
    fn plan(&mut self) -> LoadPlan;

    /// Takes in what the last plan brought. A planned room that is missing is not visible to the user.
    fn absorb(&mut self, loaded: Loaded);

    /// Returns whether there is anything to tell the client before its time is up.
    fn has_news(&self) -> bool;

    /// Returns the acknowledgements that the request being processed implies; each once.
    fn acknowledgements(&mut self) -> Vec<Acknowledgement>;

    /// Builds and stores the answer to the request being processed, and returns the one to send now, which may be an
    /// older one that the client has not seen.
    fn render(&mut self) -> Arc<Answer>;

    /// Undoes everything the request being processed changed. Changes applied meanwhile are applied again with the next
    /// request.
    fn roll_back(&mut self);

    /// Drops what is pending of a room that the user is out of, but the event by which they left.
    fn revoke(&mut self, room_id: &RoomId);
}

#[cfg(test)]
mod fixtures;
