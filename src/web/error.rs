//! Every layer's errors as Matrix errors: the only place that decides on status and errcode.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, ResponseError};
use serde_json::json;

use crate::actors::mail::AskError;
use crate::actors::poller::messages::TokenProblem;
use crate::actors::registry::messages::RegistryError;
use crate::actors::session::messages::ServeError;
use crate::protocol::Refusal;
use crate::upstream::error::ErrorKind;

/// What a client is told when something goes wrong.
#[derive(Debug, thiserror::Error)]
pub enum MatrixError {
    /// No access token in the request.
    #[error("Missing access token")]
    MissingToken,
    /// The homeserver does not take the token.
    #[error("{}", .0.error)]
    Token(TokenProblem),
    /// The protocol says no.
    #[error("{0}")]
    Refused(Refusal),
    /// A query parameter cannot be used.
    #[error("{0}")]
    InvalidParam(String),
    /// The body is too large.
    #[error("Request body is larger than {0} bytes")]
    TooLarge(usize),
    /// Too much is going on; come back.
    #[error("Too many requests, try again in a moment")]
    Busy,
    /// The homeserver cannot be reached, or fails.
    #[error("Homeserver: {0}")]
    Upstream(String),
    /// No such path.
    #[error("Unrecognized request")]
    NotFound,
    /// The path does not know this method.
    #[error("Unrecognized method")]
    MethodNotAllowed,
    /// Anything else; the cause has been logged.
    #[error("Internal error")]
    Internal,
}

/// How long a busy server asks clients to stay away.
const RETRY_AFTER_MS: u64 = 2000;

impl MatrixError {
    /// Logs the cause and hides it.
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        log::error!(cause:% = cause; "request failed");
        MatrixError::Internal
    }

    /// What an error of the homeserver client means for the request that needed it.
    pub fn from_upstream(error: &crate::upstream::error::Error) -> Self {
        match error.kind {
            ErrorKind::SoftLogout
            | ErrorKind::LoggedOut
            | ErrorKind::Locked
            | ErrorKind::Deactivated
            | ErrorKind::Forbidden
            | ErrorKind::ResourceLimit => MatrixError::Token(crate::actors::poller::token_problem(error)),
            ErrorKind::RateLimited => MatrixError::Busy,
            ErrorKind::NoDeviceId => MatrixError::Upstream("the access token belongs to no device".to_owned()),
            _ => {
                log::warn!(cause:% = error; "homeserver did not answer a client's request");
                MatrixError::Upstream("not reachable or failing".to_owned())
            }
        }
    }

    fn errcode(&self) -> &str {
        match self {
            MatrixError::MissingToken => "M_MISSING_TOKEN",
            MatrixError::Token(problem) => &problem.errcode,
            MatrixError::Refused(Refusal::NotJson(_)) => "M_NOT_JSON",
            MatrixError::Refused(Refusal::BadJson(_)) => "M_BAD_JSON",
            MatrixError::Refused(Refusal::InvalidParam(_)) | MatrixError::InvalidParam(_) => "M_INVALID_PARAM",
            MatrixError::Refused(Refusal::UnknownPos) => "M_UNKNOWN_POS",
            MatrixError::TooLarge(_) => "M_TOO_LARGE",
            MatrixError::Busy => "M_LIMIT_EXCEEDED",
            MatrixError::NotFound | MatrixError::MethodNotAllowed => "M_UNRECOGNIZED",
            MatrixError::Upstream(_) | MatrixError::Internal => "M_UNKNOWN",
        }
    }
}

impl ResponseError for MatrixError {
    fn status_code(&self) -> StatusCode {
        match self {
            MatrixError::MissingToken => StatusCode::UNAUTHORIZED,
            MatrixError::Token(problem) => StatusCode::from_u16(problem.status).unwrap_or(StatusCode::UNAUTHORIZED),
            MatrixError::Refused(_) | MatrixError::InvalidParam(_) => StatusCode::BAD_REQUEST,
            MatrixError::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            MatrixError::Busy => StatusCode::TOO_MANY_REQUESTS,
            MatrixError::Upstream(_) => StatusCode::BAD_GATEWAY,
            MatrixError::NotFound => StatusCode::NOT_FOUND,
            MatrixError::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            MatrixError::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn error_response(&self) -> HttpResponse {
        let mut body = json!({"errcode": self.errcode(), "error": self.to_string()});
        if let MatrixError::Token(problem) = self
            && problem.soft_logout
        {
            body["soft_logout"] = json!(true);
        }
        let mut response = HttpResponse::build(self.status_code());
        if matches!(self, MatrixError::Busy) {
            body["retry_after_ms"] = json!(RETRY_AFTER_MS);
            response.insert_header(("Retry-After", (RETRY_AFTER_MS / 1000).to_string()));
        }
        if matches!(self, MatrixError::MethodNotAllowed) {
            response.insert_header(("Allow", "POST, OPTIONS"));
        }
        response.json(body)
    }
}

impl From<Refusal> for MatrixError {
    fn from(refusal: Refusal) -> Self {
        MatrixError::Refused(refusal)
    }
}

impl From<ServeError> for MatrixError {
    fn from(error: ServeError) -> Self {
        match error {
            ServeError::Refused(refusal) => MatrixError::Refused(refusal),
            ServeError::Busy => MatrixError::Busy,
            ServeError::Store(cause) => MatrixError::internal(cause),
            ServeError::Token(problem) => MatrixError::Token(problem),
        }
    }
}

impl From<RegistryError> for MatrixError {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::Unknown => MatrixError::Refused(Refusal::UnknownPos),
            RegistryError::Stopping => MatrixError::Busy,
            RegistryError::Unavailable(cause) => MatrixError::internal(cause),
        }
    }
}

impl From<AskError> for MatrixError {
    fn from(error: AskError) -> Self {
        match error {
            AskError::TimedOut => MatrixError::Busy,
            AskError::Closed => MatrixError::internal("actor is gone"),
        }
    }
}
