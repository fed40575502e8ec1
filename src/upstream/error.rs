//! What a failed request to the homeserver means. A token's death is decided by `errcode` alone, never by a bare status
//! and never by a number of failures.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

/// Most of an error body that is kept, in bytes.
const BODY_KEPT: usize = 64 * 1024;

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// 400 to a request with `since`: the homeserver was restored, migrated or replaced. Start again without `since`.
    InvalidSince,
    /// The access token has expired, the device lives on. Wait for the client's next token.
    SoftLogout,
    /// The device is logged out; its keys are gone.
    LoggedOut,
    /// An administrator locked the account; may be undone.
    Locked,
    /// The account is gone.
    Deactivated,
    /// The token did not reach the homeserver: a proxy in between takes the header away. Says nothing about the token.
    MissingToken,
    /// A firewall, a policy, an account matter. `whoami` decides.
    Forbidden,
    /// `M_RESOURCE_LIMIT_EXCEEDED`: the homeserver is closed for the time being.
    ResourceLimit,
    /// Asked to slow down.
    RateLimited,
    /// Something else than the homeserver answered: an unknown path, a redirect, HTML.
    Misrouted,
    /// The homeserver says that the thing asked for does not exist.
    NotFound,
    /// Any other refusal with an `errcode`.
    Rejected,
    /// 5xx.
    ServerError,
    /// No connection, or it broke before the answer began.
    Connection,
    /// Nothing came in time.
    Timeout,
    /// The answer is larger than the configured limit.
    TooLarge,
    /// The answer ended too early.
    Truncated,
    /// The answer is JSON that we cannot use, or broken JSON.
    BadJson,
    /// `whoami` names no device, as for users of application services. Those cannot sync.
    NoDeviceId,
}

/// A failed request.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.describe())]
pub struct Error {
    /// What it means.
    pub kind: ErrorKind,
    /// How long the homeserver wants to be left alone.
    pub retry_after: Option<Duration>,
    /// HTTP status, if there was an answer.
    pub status: Option<u16>,
    /// `errcode`, if there was one.
    pub errcode: Option<String>,
    /// For people; holds no token and nothing of a response's content.
    pub message: String,
    /// Answer of a homeserver to a refused request, to be passed on to the client as it is. JSON if there is an
    /// `errcode`.
    pub body: Option<String>,
}

#[derive(Default, Deserialize)]
struct Refusal<'a> {
    #[serde(borrow, default)]
    errcode: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
    #[serde(borrow, default)]
    soft_logout: Option<&'a RawValue>,
    #[serde(borrow, default)]
    retry_after_ms: Option<&'a RawValue>,
}

impl Error {
    /// Returns an error that no answer stands behind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            retry_after: None,
            status: None,
            errcode: None,
            message: message.into(),
            body: None,
        }
    }

    /// Returns what an answer other than the wanted one means. `retry_after` is the header of that name, `with_since`
    /// says whether the request had a `since` to be wrong.
    pub fn from_answer(status: u16, retry_after: Option<&str>, body: &[u8], with_since: bool) -> Self {
        let refusal: Refusal<'_> = serde_json::from_slice(body).unwrap_or_default();
        let text = |raw: Option<&RawValue>| raw.and_then(|raw| serde_json::from_str::<String>(raw.get()).ok());
        let errcode = text(refusal.errcode);
        let soft_logout = refusal.soft_logout.is_some_and(|raw| raw.get() == "true");
        let retry_after = refusal
            .retry_after_ms
            .and_then(|raw| raw.get().parse::<f64>().ok())
            .and_then(|millis| Duration::try_from_secs_f64(millis / 1000.0).ok())
            .or_else(|| retry_after?.trim().parse().ok().map(Duration::from_secs));
        let message = match text(refusal.error) {
            Some(error) => error.chars().take(200).collect(),
            None => "homeserver refused the request".to_owned(),
        };
        Self {
            kind: classify(status, errcode.as_deref(), soft_logout, with_since),
            retry_after,
            status: Some(status),
            body: (body.len() <= BODY_KEPT).then(|| String::from_utf8_lossy(body).into_owned()),
            errcode,
            message,
        }
    }

    /// Returns whether the same request may succeed later without anybody's doing.
    pub fn is_temporary(&self) -> bool {
        match self.kind {
            ErrorKind::Locked
            | ErrorKind::MissingToken
            | ErrorKind::ResourceLimit
            | ErrorKind::RateLimited
            | ErrorKind::Misrouted
            | ErrorKind::Rejected
            | ErrorKind::ServerError
            | ErrorKind::Connection
            | ErrorKind::Timeout
            | ErrorKind::TooLarge
            | ErrorKind::Truncated
            | ErrorKind::BadJson => true,
            ErrorKind::InvalidSince
            | ErrorKind::SoftLogout
            | ErrorKind::LoggedOut
            | ErrorKind::Deactivated
            | ErrorKind::Forbidden
            | ErrorKind::NotFound
            | ErrorKind::NoDeviceId => false,
        }
    }

    /// Returns whether the token will never work again. With `SoftLogout` the device lives on, with the others it is
    /// gone (see [`Error::ends_device`]).
    pub fn ends_token(&self) -> bool {
        self.kind == ErrorKind::SoftLogout || self.ends_device()
    }

    /// Returns whether the device itself is gone.
    pub fn ends_device(&self) -> bool {
        matches!(self.kind, ErrorKind::LoggedOut | ErrorKind::Deactivated)
    }

    fn describe(&self) -> String {
        let mut text = format!("{:?}", self.kind);
        if let Some(status) = self.status {
            text.push_str(&format!(" {status}"));
        }
        if let Some(errcode) = &self.errcode {
            text.push_str(&format!(" {errcode}"));
        }
        format!("{text}: {}", self.message)
    }
}

/// As displayed: `body` stays out of logs.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe())
    }
}

fn classify(status: u16, errcode: Option<&str>, soft_logout: bool, with_since: bool) -> ErrorKind {
    if (200..400).contains(&status) {
        return ErrorKind::Misrouted;
    }
    if status >= 500 {
        return ErrorKind::ServerError;
    }
    match errcode {
        Some("M_UNKNOWN_TOKEN") if soft_logout => ErrorKind::SoftLogout,
        Some("M_UNKNOWN_TOKEN") => ErrorKind::LoggedOut,
        Some("M_MISSING_TOKEN") => ErrorKind::MissingToken,
        Some("M_USER_LOCKED") => ErrorKind::Locked,
        Some("M_USER_DEACTIVATED") => ErrorKind::Deactivated,
        Some("M_RESOURCE_LIMIT_EXCEEDED") => ErrorKind::ResourceLimit,
        Some("M_LIMIT_EXCEEDED") => ErrorKind::RateLimited,
        _ if status == 429 => ErrorKind::RateLimited,
        // Synapse and Dendrite, in this order. Other codes of a 400 are about the rest of the request.
        Some("M_UNKNOWN" | "M_INVALID_PARAM") if status == 400 && with_since => ErrorKind::InvalidSince,
        Some("M_NOT_FOUND") if status == 404 => ErrorKind::NotFound,
        Some("M_UNRECOGNIZED") => ErrorKind::Misrouted,
        _ if status == 404 => ErrorKind::Misrouted,
        _ if status == 403 => ErrorKind::Forbidden,
        Some(_) if status == 401 => ErrorKind::Forbidden,
        Some(_) => ErrorKind::Rejected,
        None => ErrorKind::Misrouted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(status: u16, body: &str) -> ErrorKind {
        Error::from_answer(status, None, body.as_bytes(), false).kind
    }

    #[test]
    fn the_errcode_decides_about_tokens() {
        use ErrorKind::*;
        for (status, body, want) in [
            (401, r#"{"errcode":"M_UNKNOWN_TOKEN","soft_logout":true}"#, SoftLogout),
            (401, r#"{"errcode":"M_UNKNOWN_TOKEN","soft_logout":false}"#, LoggedOut),
            (401, r#"{"errcode":"M_UNKNOWN_TOKEN","error":null}"#, LoggedOut),
            (401, r#"{"errcode":"M_MISSING_TOKEN"}"#, MissingToken),
            (401, r#"{"errcode":"M_USER_LOCKED","soft_logout":true}"#, Locked),
            (401, r#"{"errcode":"M_UNAUTHORIZED"}"#, Forbidden),
            (401, "<html>basic auth</html>", Misrouted),
            (401, r#"{"errcode":7}"#, Misrouted),
            (403, r#"{"errcode":"M_USER_DEACTIVATED"}"#, Deactivated),
            (403, r#"{"errcode":"M_FORBIDDEN"}"#, Forbidden),
            (403, "no", Forbidden),
            (403, r#"{"errcode":"M_RESOURCE_LIMIT_EXCEEDED"}"#, ResourceLimit),
            (404, "", Misrouted),
            (404, r#"{"errcode":"M_UNRECOGNIZED"}"#, Misrouted),
            (404, r#"{"errcode":"M_NOT_FOUND"}"#, NotFound),
            (429, "", RateLimited),
            (400, r#"{"errcode":"M_UNKNOWN"}"#, Rejected),
            (302, "", Misrouted),
            (200, "<html>", Misrouted),
            (502, r#"{"errcode":"M_UNKNOWN_TOKEN"}"#, ServerError),
        ] {
            assert_eq!(kind(status, body), want, "{status} {body}");
        }
    }

    #[test]
    fn only_a_request_with_since_can_have_a_bad_one() {
        for (errcode, want) in [
            ("M_UNKNOWN", ErrorKind::InvalidSince),
            ("M_INVALID_PARAM", ErrorKind::InvalidSince),
            ("M_BAD_JSON", ErrorKind::Rejected),
        ] {
            let body = format!(r#"{{"errcode":"{errcode}"}}"#);
            assert_eq!(Error::from_answer(400, None, body.as_bytes(), true).kind, want);
        }
    }

    #[test]
    fn the_wait_asked_for_is_kept() {
        let wait = |header, body: &str| Error::from_answer(429, header, body.as_bytes(), false).retry_after;
        assert_eq!(
            wait(None, r#"{"retry_after_ms":1500}"#),
            Some(Duration::from_millis(1500))
        );
        assert_eq!(wait(Some("7"), "{}"), Some(Duration::from_secs(7)));
        assert_eq!(
            wait(Some("Wed, 21 Oct 2015 07:28:00 GMT"), r#"{"retry_after_ms":-4}"#),
            None
        );
        assert_eq!(wait(None, r#"{"retry_after_ms":1e999}"#), None);
    }

    #[test]
    fn what_ends_a_token() {
        let of = |kind| Error::new(kind, "");
        assert!(of(ErrorKind::SoftLogout).ends_token() && !of(ErrorKind::SoftLogout).ends_device());
        assert!(of(ErrorKind::LoggedOut).ends_device() && !of(ErrorKind::LoggedOut).is_temporary());
        assert!(!of(ErrorKind::MissingToken).ends_token());
        assert!(of(ErrorKind::ResourceLimit).is_temporary());
    }

    #[test]
    fn the_body_is_kept_but_not_shown() {
        let error = Error::from_answer(
            401,
            None,
            br#"{"errcode":"M_UNKNOWN_TOKEN","soft_logout":true,"x":1}"#,
            false,
        );
        assert!(error.body.as_deref().unwrap().contains("\"x\":1"));
        assert!(!format!("{error:?} {error}").contains("\"x\""));
        assert!(error.to_string().starts_with("SoftLogout 401 M_UNKNOWN_TOKEN"));
    }
}
