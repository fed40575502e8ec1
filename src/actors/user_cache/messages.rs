//! What a user's cache is asked and told.

use std::sync::Arc;

use actix::{Message, Recipient};

use crate::actors::mail::Mail;
use crate::actors::room_cache::messages::SummaryChanged;
use crate::model::change::{Changed, Committed, Ended};
use crate::model::position::Position;
use crate::model::user_view::UserView;
use crate::protocol::sliding::list::{ListIndexes, ListSpec, SortedList};

/// What one commit means for one user. To be applied in this order: ends, then the user's own changes, then summaries.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Notice {
    /// Of the commit.
    pub position: Position,
    /// Rooms that the user is out of.
    pub ended: Vec<Ended>,
    /// The whole commit, if the user's own poller brought it.
    pub committed: Option<Arc<Committed>>,
    /// Summaries that changed by other means.
    pub summaries: Vec<SummaryChanged>,
}

impl Notice {
    /// Returns a notice that says nothing.
    pub fn new(position: Position) -> Self {
        Self {
            position,
            ended: Vec::new(),
            committed: None,
            summaries: Vec::new(),
        }
    }
}

/// Notices were missed; read everything anew.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Lagged;

/// From now on offer changes to this session. Replies when the cache is loaded; every change after the view in the
/// reply reaches the session.
#[derive(Message)]
#[rtype(result = "Result<Attached, CacheError>")]
pub struct Attach {
    /// Names the session within this process.
    pub session: u64,
    /// Where changes go.
    pub recipient: Recipient<Mail<SessionNotice>>,
}

/// The reply to [`Attach`].
pub struct Attached {
    /// The user's view now.
    pub view: UserView,
    /// Sorted lists that other sessions of the user built.
    pub indexes: ListIndexes,
}

/// The session is over.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Detach(pub u64);

/// A session had to sort a list itself; keep it for the next one.
#[derive(Message)]
#[rtype(result = "()")]
pub struct KeepIndexes(pub Vec<(ListSpec, SortedList, Position)>);

/// Stop; nobody is attached any more.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct StopCache;

/// What a session hears.
#[derive(Clone, Message)]
#[rtype(result = "()")]
pub enum SessionNotice {
    /// Something changed.
    Changed(Arc<Changed>),
    /// Changes were missed: the connection cannot go on.
    Missed,
}

/// Why a user's rooms cannot be had.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CacheError {
    /// The store failed.
    #[error("rooms cannot be read: {0}")]
    Store(String),
}
