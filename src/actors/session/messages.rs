//! What a session is asked and told.

use std::sync::Arc;

use actix::Message;
use tokio::sync::oneshot;

use crate::actors::poller::messages::TokenProblem;
use crate::protocol::{Answer, Protocol, Refusal};

/// Serve a request. The answer goes to `reply`; when the receiving side of it is dropped, the client is gone and the
/// wait ends, but an answer under construction is still kept for the client's retry.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Serve<P: Protocol> {
    /// What the client asks.
    pub request: P::Request,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Result<Arc<Answer>, ServeError>>,
}

/// Why a request has no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ServeError {
    /// The protocol says no.
    #[error("{0}")]
    Refused(Refusal),
    /// The store is too busy to answer in time.
    #[error("store is busy")]
    Busy,
    /// The store failed.
    #[error("store failed: {0}")]
    Store(String),
    /// The homeserver ended the token while the request waited.
    #[error("token was refused by the homeserver")]
    Token(TokenProblem),
}

/// The session is over; open requests are answered.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct End(pub EndReason);

/// Why a session is ended from outside.
#[derive(Clone, Debug)]
pub enum EndReason {
    /// A new connection took its place, or it was the least recently used of too many.
    Replaced,
    /// Nobody used it.
    Idle,
    /// The homeserver ended the token.
    Token(TokenProblem),
    /// The server stops: open requests are answered as if their time were up.
    Shutdown,
}
