//! What the registry is asked and told.

use actix::{Addr, Message};

use crate::actors::poller::messages::TokenProblem;
use crate::actors::session::Session;
use crate::ids::{ConnId, DeviceKey};
use crate::protocol::msc3575::conn::Connection;

/// Asks for the session of a connection. Replies when it is ready to serve.
#[derive(Debug, Message)]
#[rtype(result = "Result<Addr<Session<Connection>>, RegistryError>")]
pub struct FindSession {
    /// Of which device.
    pub device: DeviceKey,
    /// Which of its connections.
    pub conn_id: ConnId,
    /// Whether to begin anew (a request without `pos`), ending the one that was.
    pub fresh: bool,
}

/// Why there is no session.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RegistryError {
    /// There is none, and none was to be made.
    #[error("no such connection")]
    Unknown,
    /// The user's rooms could not be read.
    #[error("rooms cannot be read: {0}")]
    Unavailable(String),
    /// The server is stopping.
    #[error("server is stopping")]
    Stopping,
}

/// A session has stopped, for whatever reason.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct SessionEnded {
    /// Of which device.
    pub device: DeviceKey,
    /// Which.
    pub session: u64,
}

/// The homeserver ended a device's token: its open requests are told so. With a soft logout sessions stay, because the
/// device will be back with a new token.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct EndDevice {
    /// Which device.
    pub device: DeviceKey,
    /// What the homeserver said.
    pub problem: TokenProblem,
}

/// Answer all open requests and end all sessions. Replies at once.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct StopSessions;
