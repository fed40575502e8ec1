//! What a poller is told and tells.

use actix::Message;
use secrecy::SecretString;
use serde::Serialize;

use crate::ids::RoomId;

/// Use this token from the next request on; the position stays. A paused poller resumes. Replies at once.
#[derive(Message)]
#[rtype(result = "()")]
pub struct UseToken(pub SecretString);

/// Fetch a room's whole member list and store it. Replies when it is stored or has failed.
#[derive(Debug, Message)]
#[rtype(result = "bool")]
pub struct FetchMembers(pub RoomId);

/// End because nobody needs this poller. Replies at once; the end is reported to the fleet.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Retire;

/// End because the server stops. Replies at once.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Stop;

/// How far a poller is with making its device's data readable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing stored yet.
    Starting,
    /// The first part of the first response is visible to readers.
    Visible,
    /// A whole response is stored since the poller started, or the device was in sync before.
    Synced,
    /// The homeserver does not take the token (now): nothing can be said before a new one comes.
    NoToken(TokenProblem),
}

/// What the homeserver said about a token, to be passed on to the client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TokenProblem {
    /// HTTP status.
    pub status: u16,
    /// The homeserver's error code.
    pub errcode: String,
    /// The homeserver's text.
    pub error: String,
    /// Whether the device still exists and only needs a new token.
    pub soft_logout: bool,
}
