//! What can go wrong in the store, and whether trying again may help.

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Too much is waiting already.
    #[error("store is busy")]
    Busy,
    /// The database did not answer, or refused a statement.
    #[error("database is unavailable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The database holds something impossible.
    #[error("database is inconsistent: table {table}, key {key}")]
    Inconsistent {
        /// Where.
        table: &'static str,
        /// Which row.
        key: String,
    },
    /// A job panicked and was rolled back.
    #[error("store job panicked")]
    Panicked,
    /// The database was made with another secret.
    #[error("the secret is not the one this database was made with")]
    WrongSecret,
    /// No secret was given, and there is no place to keep one.
    #[error("a secret is required with this kind of database")]
    SecretRequired,
    /// Another process has the database open.
    #[error("the database is in use by another process")]
    InUse,
    /// An address of a kind of database that is not supported.
    #[error("unsupported kind of database address")]
    UnsupportedUrl,
    /// The schema could not be brought up to date.
    #[error("migration failed")]
    Migration(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The files beside the database could not be used.
    #[error("file beside the database cannot be used")]
    File(#[from] std::io::Error),
    /// The store has been closed.
    #[error("store is closed")]
    Closed,
}

impl Error {
    /// Returns whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Error::Busy | Error::Unavailable(_) => true,
            Error::Inconsistent { .. }
            | Error::Panicked
            | Error::WrongSecret
            | Error::SecretRequired
            | Error::InUse
            | Error::UnsupportedUrl
            | Error::Migration(_)
            | Error::File(_)
            | Error::Closed => false,
        }
    }

    /// Returns the error of a row that cannot be.
    pub(super) fn inconsistent(table: &'static str, key: impl ToString) -> Self {
        Error::Inconsistent {
            table,
            key: key.to_string(),
        }
    }
}

impl From<diesel::result::Error> for Error {
    fn from(error: diesel::result::Error) -> Self {
        use diesel::result::DatabaseErrorKind as Kind;
        match &error {
            // Trying again would fail again. The message of such an error names columns, not values.
            diesel::result::Error::DatabaseError(
                Kind::UniqueViolation | Kind::ForeignKeyViolation | Kind::NotNullViolation | Kind::CheckViolation,
                information,
            ) => Error::inconsistent("constraint", information.message()),
            diesel::result::Error::DeserializationError(cause) | diesel::result::Error::SerializationError(cause) => {
                Error::inconsistent("value", cause)
            }
            _ => Error::Unavailable(Box::new(error)),
        }
    }
}

impl From<diesel::r2d2::PoolError> for Error {
    fn from(error: diesel::r2d2::PoolError) -> Self {
        Error::Unavailable(Box::new(error))
    }
}
