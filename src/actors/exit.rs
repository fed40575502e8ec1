//! Why an actor ended.

use std::fmt;

/// The reason an actor gives before it stops. An actor that reaches `stopped()` without one has panicked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The homeserver ended the token.
    LoggedOut,
    /// Nobody needed it any more.
    Idle,
    /// The server is stopping.
    Shutdown,
    /// It could not go on.
    Failed(String),
}

impl Exit {
    /// Returns the word used in metrics and logs; `None` is a panic.
    pub fn label(exit: Option<&Exit>) -> &'static str {
        match exit {
            Some(Exit::LoggedOut) => "logged_out",
            Some(Exit::Idle) => "idle",
            Some(Exit::Shutdown) => "shutdown",
            Some(Exit::Failed(_)) => "failed",
            None => "panicked",
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Failed(cause) => write!(f, "failed: {cause}"),
            Exit::LoggedOut | Exit::Idle | Exit::Shutdown => f.write_str(Exit::label(Some(self))),
        }
    }
}
