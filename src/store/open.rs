//! Making a database usable: nobody else has it, it is ours by its secret, and its schema is up to date.

use std::fs::{File, OpenOptions, TryLockError};
use std::time::Duration;

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};
use secrecy::SecretString;

use super::connection::{Connection, Connections, Mode, Target, with_connection};
use super::devices::device_keys;
use super::error::Error;
use super::schema::{counters, meta, tokens};
use super::secrets::{Keys, beside, from_file, hex};

/// Migrations of the SQLite tree.
pub(super) const SQLITE: EmbeddedMigrations = embed_migrations!("migrations/sqlite");
/// Migrations of the Postgres tree.
pub(super) const POSTGRES: EmbeddedMigrations = embed_migrations!("migrations/postgres");

/// Number under which a Postgres server knows our lock. Locks are per database there.
const ADVISORY_LOCK: i64 = 7_316_001;

/// Keeps other processes out for as long as it lives.
pub(super) enum Lock {
    /// A locked file beside the database.
    File { _file: File },
    /// A connection that holds an advisory lock.
    Connection {
        _connection: std::sync::Mutex<PgConnection>,
    },
}

/// A database ready for use.
pub(super) struct Opened {
    pub(super) lock: Lock,
    /// One connection, for the writer.
    pub(super) writer: Connections,
    /// The others.
    pub(super) readers: Connections,
    pub(super) keys: Keys,
    pub(super) epoch: String,
}

#[derive(QueryableByName)]
struct Found {
    #[diesel(sql_type = Bool)]
    found: bool,
}

/// Opens a database with at most `size` connections, two at least.
pub(super) fn open(
    url: &str,
    secret: Option<&SecretString>,
    previous_secret: Option<&SecretString>,
    size: u32,
    idle_timeout: Option<Duration>,
) -> Result<Opened, Error> {
    let target = Target::parse(url)?;
    let lock = lock(&target)?;
    let secret = match (secret, &target) {
        (Some(secret), _) => secret.clone(),
        (None, Target::Sqlite(path)) => from_file(&beside(path, ".secret"))?,
        (None, Target::Postgres(_)) => return Err(Error::SecretRequired),
    };
    let keys = Keys::derive(&secret);
    let previous = previous_secret.map(Keys::derive);
    let writer = Connections::open(&target, 1, None)?;
    let mut c = writer.get()?;
    let check = if is_ours(&mut c)? {
        value(&mut c, "secret_check")?
    } else {
        None
    };
    let rotate = match &check {
        // Before anything is touched: a migration by somebody with the wrong secret could not be taken back.
        Some(check) if check != keys.check() => match &previous {
            Some(previous) if check == previous.check() => true,
            _ => return Err(Error::WrongSecret),
        },
        Some(_) | None => false,
    };
    migrate(&mut c)?;
    let epoch = c.transaction(Mode::Durable, |c| {
        let found: i64 = with_connection!(c, |c| counters::table.count().get_result(c))?;
        if found == 0 {
            with_connection!(c, |c| diesel::insert_into(counters::table)
                .values((
                    counters::nid.eq(1),
                    counters::position.eq(0),
                    counters::event.eq(0),
                    counters::other.eq(0),
                    counters::seq.eq(0),
                ))
                .execute(c))?;
        }
        if check.is_none() || rotate {
            set_value(c, "secret_check", keys.check())?;
        }
        if let Some(previous) = &previous {
            reseal(c, &keys, previous)?;
        }
        match value(c, "epoch")? {
            Some(epoch) => Ok(epoch),
            None => {
                let epoch = hex(&rand::random::<[u8; 8]>());
                set_value(c, "epoch", &epoch)?;
                Ok(epoch)
            }
        }
    })?;
    drop(c);
    let readers = Connections::open(&target, size.saturating_sub(1).max(1), idle_timeout)?;
    Ok(Opened {
        lock,
        writer,
        readers,
        keys,
        epoch,
    })
}

fn lock(target: &Target) -> Result<Lock, Error> {
    match target {
        Target::Sqlite(path) => {
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(beside(path, ".lock"))?;
            match file.try_lock() {
                Ok(()) => Ok(Lock::File { _file: file }),
                Err(TryLockError::WouldBlock) => Err(Error::InUse),
                Err(TryLockError::Error(error)) => Err(error.into()),
            }
        }
        Target::Postgres(url) => {
            let mut connection = <PgConnection as diesel::Connection>::establish(url)
                .map_err(|error| Error::Unavailable(Box::new(error)))?;
            let got: Found = diesel::sql_query("SELECT pg_try_advisory_lock($1) AS found")
                .bind::<BigInt, _>(ADVISORY_LOCK)
                .get_result(&mut connection)?;
            if got.found {
                Ok(Lock::Connection {
                    _connection: std::sync::Mutex::new(connection),
                })
            } else {
                Err(Error::InUse)
            }
        }
    }
}

/// Returns whether the database has been used before.
fn is_ours(c: &mut Connection) -> Result<bool, Error> {
    // Each dialect lists its tables in a place of its own.
    let found: Found = match c {
        Connection::Sqlite(c) => {
            diesel::sql_query("SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE name = 'meta') AS found")
                .get_result(&mut **c)?
        }
        Connection::Postgres(c) => {
            diesel::sql_query("SELECT to_regclass('meta') IS NOT NULL AS found").get_result(&mut **c)?
        }
    };
    Ok(found.found)
}

fn migrate(c: &mut Connection) -> Result<(), Error> {
    match c {
        Connection::Sqlite(c) => c.run_pending_migrations(SQLITE).map(drop),
        Connection::Postgres(c) => c.run_pending_migrations(POSTGRES).map(drop),
    }
    .map_err(Error::Migration)
}

fn value(c: &mut Connection, name: &str) -> Result<Option<String>, Error> {
    Ok(with_connection!(c, |c| meta::table
        .find(name)
        .select(meta::value)
        .first(c)
        .optional())?)
}

fn set_value(c: &mut Connection, name: &str, value: &str) -> Result<(), Error> {
    with_connection!(c, |c| diesel::insert_into(meta::table)
        .values((meta::name.eq(name), meta::value.eq(value)))
        .on_conflict(meta::name)
        .do_update()
        .set(meta::value.eq(value))
        .execute(c))?;
    Ok(())
}

/// Seals with the current secret what the previous one sealed.
fn reseal(c: &mut Connection, keys: &Keys, previous: &Keys) -> Result<(), Error> {
    let rows: Vec<(String, i64, Vec<u8>)> = with_connection!(c, |c| tokens::table
        .filter(tokens::key_id.eq(previous.id()))
        .select((tokens::hash, tokens::device_nid, tokens::sealed))
        .load(c))?;
    if rows.is_empty() || keys.id() == previous.id() {
        return Ok(());
    }
    let devices = device_keys(c)?;
    for (hash, device_nid, sealed) in rows {
        let token = devices.get(&device_nid).and_then(|device| {
            let token = previous.open(device, &sealed)?;
            let sealed = keys.seal(device, &token)?;
            Some((token, sealed))
        });
        let Some((token, sealed)) = token else {
            log::warn!("a stored token does not decrypt and stays as it is");
            continue;
        };
        let new_hash = keys.lookup_hash(secrecy::ExposeSecret::expose_secret(&token));
        with_connection!(c, |c| diesel::update(tokens::table.find(&hash))
            .set((
                tokens::hash.eq(&new_hash),
                tokens::key_id.eq(keys.id()),
                tokens::sealed.eq(&sealed)
            ))
            .execute(c))?;
    }
    Ok(())
}
