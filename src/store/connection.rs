//! Connections to either kind of database: which kind an address means, the pools, transactions, and the macros that
//! compile one body once per dialect.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::time::Duration;

use diesel::connection::{AnsiTransactionManager as Transactions, SimpleConnection, TransactionManager};
use diesel::prelude::*;
use diesel::r2d2::{ConnectionManager, CustomizeConnection, Pool, PooledConnection};

use super::error::Error;

/// Which database an address means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// A SQLite file.
    Sqlite(PathBuf),
    /// A connection string that libpq understands.
    Postgres(String),
}

impl Target {
    /// Decides by scheme; libpq's `key=value` form counts as Postgres, anything without scheme or `=` is a path.
    pub(super) fn parse(url: &str) -> Result<Self, Error> {
        if let Some(path) = url.strip_prefix("sqlite://") {
            return if path.is_empty() {
                Err(Error::UnsupportedUrl)
            } else {
                Ok(Target::Sqlite(path.into()))
            };
        }
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            return Ok(Target::Postgres(url.to_owned()));
        }
        if url.is_empty() || url.contains("://") {
            return Err(Error::UnsupportedUrl);
        }
        if url.contains('=') {
            return Ok(Target::Postgres(url.to_owned()));
        }
        Ok(Target::Sqlite(url.into()))
    }
}

/// Connections of one kind.
#[derive(Clone)]
pub(super) enum Connections {
    /// To a SQLite file.
    Sqlite(Pool<ConnectionManager<SqliteConnection>>),
    /// To a Postgres server.
    Postgres(Pool<ConnectionManager<PgConnection>>),
}

/// One connection.
pub(super) enum Connection {
    /// To a SQLite file.
    Sqlite(PooledConnection<ConnectionManager<SqliteConnection>>),
    /// To a Postgres server.
    Postgres(PooledConnection<ConnectionManager<PgConnection>>),
}

/// Compiles one body for each dialect.
macro_rules! with_connection {
    ($connection:expr, |$c:ident| $body:expr) => {
        match $connection {
            $crate::store::connection::Connection::Sqlite(pooled) => {
                let $c: &mut diesel::SqliteConnection = &mut *pooled;
                $body
            }
            $crate::store::connection::Connection::Postgres(pooled) => {
                let $c: &mut diesel::PgConnection = &mut *pooled;
                $body
            }
        }
    };
}
pub(super) use with_connection;

/// Runs an insert for all rows: row by row with a cached statement on SQLite, many rows per statement on Postgres. Each
/// is the faster way there. Keys must be distinct within `$rows` if there is a conflict clause.
macro_rules! insert_rows {
    ($connection:expr, $rows:expr, |$values:ident| $insert:expr) => {
        match $connection {
            $crate::store::connection::Connection::Sqlite(pooled) => {
                let c: &mut diesel::SqliteConnection = &mut *pooled;
                for $values in $rows {
                    $insert.execute(c)?;
                }
            }
            $crate::store::connection::Connection::Postgres(pooled) => {
                let c: &mut diesel::PgConnection = &mut *pooled;
                for $values in $rows.chunks($crate::store::connection::ROWS_PER_INSERT) {
                    $insert.execute(c)?;
                }
            }
        }
    };
}
pub(super) use insert_rows;

/// Rows in one Postgres insert: 65,535 bind values are the limit, and no table has more than 16 columns.
pub(super) const ROWS_PER_INSERT: usize = 1_000;
/// Values in one `IN` list: SQLite takes 32,766 bind values, and longer statements do not get faster.
pub(super) const KEYS_PER_SELECT: usize = 500;

/// How a transaction is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Only reads, all of one moment.
    Read,
    /// Writes that must survive a power cut once committed.
    Durable,
    /// Writes that may be lost in a power cut, whole transactions from the end.
    Relaxed,
}

#[derive(Debug)]
struct Pragmas;

impl CustomizeConnection<SqliteConnection, diesel::r2d2::Error> for Pragmas {
    fn on_acquire(&self, connection: &mut SqliteConnection) -> Result<(), diesel::r2d2::Error> {
        // busy_timeout first: changing the journal mode needs a lock.
        connection
            .batch_execute(
                "PRAGMA busy_timeout = 10000; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
                 PRAGMA foreign_keys = ON; PRAGMA cache_size = -16000; PRAGMA temp_store = MEMORY;",
            )
            .map_err(diesel::r2d2::Error::QueryError)
    }
}

impl Connections {
    /// Opens a pool of at most `size` connections and waits for the first one.
    pub(super) fn open(target: &Target, size: u32, idle_timeout: Option<Duration>) -> Result<Self, Error> {
        Ok(match target {
            Target::Sqlite(path) => Connections::Sqlite(
                Pool::builder()
                    .max_size(size)
                    .min_idle(Some(1))
                    .idle_timeout(idle_timeout)
                    .max_lifetime(None)
                    .connection_customizer(Box::new(Pragmas))
                    .build(ConnectionManager::new(path.to_string_lossy()))?,
            ),
            Target::Postgres(url) => Connections::Postgres(
                Pool::builder()
                    .max_size(size)
                    .min_idle(Some(1))
                    .idle_timeout(idle_timeout)
                    .connection_timeout(Duration::from_secs(10))
                    .build(ConnectionManager::new(url))?,
            ),
        })
    }

    /// Takes a connection.
    pub(super) fn get(&self) -> Result<Connection, Error> {
        Ok(match self {
            Connections::Sqlite(pool) => Connection::Sqlite(pool.get()?),
            Connections::Postgres(pool) => Connection::Postgres(pool.get()?),
        })
    }
}

impl Connection {
    /// Runs `work` in a transaction; an error or a panic rolls back.
    pub(super) fn transaction<T>(
        &mut self,
        mode: Mode,
        work: impl FnOnce(&mut Connection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        match self {
            Connection::Sqlite(c) => {
                if mode == Mode::Durable {
                    c.batch_execute("PRAGMA synchronous = FULL")?;
                }
                let begun = if mode == Mode::Read {
                    Transactions::begin_transaction(&mut **c)
                } else {
                    // The write lock at once: a later upgrade could fail with SQLITE_BUSY without waiting.
                    Transactions::begin_transaction_sql(&mut **c, "BEGIN IMMEDIATE")
                };
                if let Err(error) = begun {
                    let _ = c.batch_execute("PRAGMA synchronous = NORMAL");
                    return Err(error.into());
                }
            }
            Connection::Postgres(c) => {
                if mode == Mode::Read {
                    Transactions::begin_transaction_sql(&mut **c, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")?;
                } else {
                    Transactions::begin_transaction(&mut **c)?;
                    if mode == Mode::Relaxed {
                        c.batch_execute("SET LOCAL synchronous_commit = off")?;
                    }
                }
            }
        }
        let result = self.finish(work);
        if let (Connection::Sqlite(c), Mode::Durable) = (&mut *self, mode) {
            c.batch_execute("PRAGMA synchronous = NORMAL")?;
        }
        result
    }

    /// Runs `work` in a savepoint of the running transaction, so that its failure undoes nothing else.
    pub(super) fn savepoint<T>(&mut self, work: impl FnOnce(&mut Connection) -> Result<T, Error>) -> Result<T, Error> {
        with_connection!(&mut *self, |c| Transactions::begin_transaction(c))?;
        self.finish(work)
    }

    /// Ends what was begun. A panic rolls back before it travels on: caught further out, it would leave the transaction
    /// open, and later writes would report success and be lost.
    fn finish<T>(&mut self, work: impl FnOnce(&mut Connection) -> Result<T, Error>) -> Result<T, Error> {
        match catch_unwind(AssertUnwindSafe(|| work(self))) {
            Ok(Ok(value)) => {
                with_connection!(&mut *self, |c| Transactions::commit_transaction(c))?;
                Ok(value)
            }
            Ok(Err(error)) => {
                let _ = with_connection!(&mut *self, |c| Transactions::rollback_transaction(c));
                Err(error)
            }
            Err(panic) => {
                let _ = with_connection!(&mut *self, |c| Transactions::rollback_transaction(c));
                resume_unwind(panic)
            }
        }
    }
}
