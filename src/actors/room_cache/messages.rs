//! What the room cache is asked and told.

use std::sync::Arc;

use actix::{Addr, Message};

use crate::actors::user_cache::UserCache;
use crate::ids::{RoomId, UserId};
use crate::model::change::Committed;
use crate::model::room::RoomSummary;

/// A commit, in position order. Sent by the store's writer; bounded, because every poller waits for a [`Barrier`] after
/// each commit of its own.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Commit(pub Arc<Committed>);

/// Replies when every commit sent before it has been passed on.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Barrier;

/// From now on pass on what concerns this user. Replies at once; commits after the reply reach the address.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Subscribe {
    /// Whose cache it is.
    pub user_id: UserId,
    /// The cache.
    pub cache: Addr<UserCache>,
}

/// The user's cache ends.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Unsubscribe {
    /// Whose cache it was.
    pub user_id: UserId,
    /// The cache; a later one of the same user stays subscribed.
    pub cache: Addr<UserCache>,
}

/// Gives the rooms that a user is joined to, as read from the store; the reply holds the one shared copy of each
/// summary, in the same order.
#[derive(Message)]
#[rtype(result = "Vec<Arc<RoomSummary>>")]
pub struct Enlist {
    /// Who.
    pub user_id: UserId,
    /// Their joined rooms.
    pub rooms: Vec<Arc<RoomSummary>>,
}

/// A room's summary changed although the user's own pollers brought nothing (a repair, a member list).
#[derive(Clone, Debug)]
pub struct SummaryChanged {
    /// Which room.
    pub room_id: RoomId,
    /// The new summary.
    pub summary: Arc<RoomSummary>,
}
