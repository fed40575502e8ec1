//! What the fleet is asked and told.

use actix::Message;
use secrecy::SecretString;
use tokio::sync::watch;

use crate::actors::exit::Exit;
use crate::actors::poller::messages::{Progress, TokenProblem};
use crate::ids::{DeviceKey, RoomId};

/// Asks for a running poller that uses this token. Replies at once with where to follow its progress.
#[derive(Message)]
#[rtype(result = "Result<watch::Receiver<Progress>, FleetError>")]
pub struct EnsurePoller {
    /// For which device.
    pub device: DeviceKey,
    /// The token of the request that wants it.
    pub token: SecretString,
    /// Whether it is the device's newest; an older one that still works is not swapped in.
    pub current: bool,
}

/// Says that a client of the device was here. Replies at once.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Touch(pub DeviceKey);

/// A poller has stopped.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct PollerEnded {
    /// Of which device.
    pub device: DeviceKey,
    /// Which life of it.
    pub generation: u64,
    /// Why; `None` is a panic.
    pub exit: Option<Exit>,
}

/// The homeserver does not take a device's token.
#[derive(Message)]
#[rtype(result = "()")]
pub struct TokenRefused {
    /// Whose.
    pub device: DeviceKey,
    /// Which.
    pub token: SecretString,
    /// What the homeserver said.
    pub problem: TokenProblem,
}

/// Fetch a room's whole member list through the device's poller, once for all who ask meanwhile. Replies when it is
/// stored (true) or could not be had.
#[derive(Debug, Message)]
#[rtype(result = "bool")]
pub struct EnsureMembers {
    /// Whose token to use.
    pub device: DeviceKey,
    /// Which room.
    pub room_id: RoomId,
}

/// Start pollers for all known devices; requests of clients go before them. Replies at once.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Resume;

/// Stop every poller. Replies when all have stopped.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct StopAll;

/// Why there is no poller.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FleetError {
    /// The server is stopping.
    #[error("server is stopping")]
    Stopping,
    /// The store could not say where the device stands.
    #[error("store does not answer: {0}")]
    Store(String),
}
