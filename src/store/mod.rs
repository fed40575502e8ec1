//! The only place that knows SQL.
//!
//! Others hold a [`Store`], never a connection. Everything that changes goes through one writer thread, which commits
//! what is waiting together and then tells its listener; reads are plans, answered by a few reader threads, each from
//! one moment of the database.

mod check;
mod connection;
mod devices;
mod error;
mod ingest;
mod load;
mod memory;
mod open;
mod reader;
mod retention;
mod rows;
mod schema;
mod secrets;
mod snapshot;
#[cfg(test)]
mod tests;
mod view;
mod writer;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use secrecy::SecretString;
use tokio::sync::{mpsc, oneshot};

use self::connection::{Connection, Mode};
pub use self::devices::DeviceRecord;
pub use self::error::Error;
pub use self::ingest::{Ingested, Outcome};
use self::memory::{Memory, Sent};
use self::reader::Read;
use self::secrets::Keys;
pub use self::snapshot::UserSnapshot;
pub use self::writer::{CommitObserver, CommitReport, Listener};
use self::writer::{Job, Task, Writer};
use crate::clock::{Clock, UnixMillis};
use crate::ids::{DeviceKey, UserId};
use crate::model::batch::{Batch, MemberList, StateRepair};
use crate::model::load::{LoadPlan, Loaded};
use crate::model::position::Position;

/// Jobs waiting for the writer at most; then pollers wait.
const WRITES_WAITING: usize = 256;
/// Reads waiting at most per reader thread; then callers wait.
const READS_WAITING: usize = 8;
/// Reader threads at most.
const READERS: u32 = 8;
/// How long a read waits for a place in the queue.
const READ_PATIENCE: Duration = Duration::from_secs(1);

/// How to open a store.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// `sqlite://path`, a plain path, `postgres://…`, or libpq's `key=value` form.
    pub url: String,
    /// Protects stored tokens. `None` keeps a random one beside a SQLite database; Postgres needs one.
    pub secret: Option<SecretString>,
    /// The secret before `secret`, while tokens sealed with it may still be stored.
    pub previous_secret: Option<SecretString>,
    /// Connections at most; one writes, the others read. At least two are made.
    pub max_connections: u32,
    /// After which time an unused reading connection is closed.
    pub idle_timeout: Option<Duration>,
    /// Timeline events kept per room and per user's view of it; 100 is a good number.
    pub timeline_keep: usize,
    /// Whether a database that contradicts itself makes the job panic (it is rolled back and answered all the same).
    pub debug_assertions: bool,
}

/// A handle on the store. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    epoch: String,
    keys: Arc<Keys>,
    clock: Arc<dyn Clock>,
    sent: Arc<Mutex<Sent>>,
    writes: Mutex<Option<mpsc::Sender<Job>>>,
    reads: Mutex<Option<mpsc::Sender<Read>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    lock: Mutex<Option<open::Lock>>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("epoch", &self.shared.epoch)
            .finish_non_exhaustive()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// Opens the store: takes the lock, checks the secret, brings the schema up to date, starts the threads. Blocks.
    pub fn open(
        options: StoreOptions,
        clock: Arc<dyn Clock>,
        listener: Listener,
        observer: CommitObserver,
    ) -> Result<Self, Error> {
        let opened = open::open(
            &options.url,
            options.secret.as_ref(),
            options.previous_secret.as_ref(),
            options.max_connections.max(2),
            options.idle_timeout,
        )?;
        let counters = writer::counters(&opened.writer)?;
        let sent = Arc::new(Mutex::new(Sent::new(counters.seq)));
        let writer = Writer {
            connections: opened.writer,
            clock: clock.clone(),
            listener,
            observer,
            keep: options.timeline_keep.max(1),
            debug_assertions: options.debug_assertions,
            sent: sent.clone(),
            memory: Memory::new(counters),
            grown: HashMap::new(),
            last_sweep: clock.moment(),
        };
        let (writes, jobs) = mpsc::channel(WRITES_WAITING);
        let mut threads = vec![
            std::thread::Builder::new()
                .name("store-writer".to_owned())
                .spawn(move || writer.run(jobs))?,
        ];
        let count = options.max_connections.saturating_sub(1).clamp(1, READERS);
        let (reads, waiting) = mpsc::channel(READS_WAITING * count as usize);
        threads.extend(reader::start(&opened.readers, count, waiting)?);
        Ok(Self {
            shared: Arc::new(Shared {
                epoch: opened.epoch,
                keys: Arc::new(opened.keys),
                clock,
                sent,
                writes: Mutex::new(Some(writes)),
                reads: Mutex::new(Some(reads)),
                threads: Mutex::new(threads),
                lock: Mutex::new(Some(opened.lock)),
            }),
        })
    }

    /// Returns the random ID of this database. Sequence numbers only mean something together with it.
    pub fn epoch(&self) -> &str {
        &self.shared.epoch
    }

    /// Stores a batch. If that fails the batch comes back, for the poller to try again with.
    pub async fn ingest(&self, batch: Batch) -> Result<Ingested, (Error, Batch)> {
        let Some(writes) = locked(&self.shared.writes).clone() else {
            return Err((Error::Closed, batch));
        };
        let (reply, answer) = oneshot::channel();
        let device = batch.device.clone();
        let since = batch.since_in.clone();
        let job = Job::Ingest {
            batch: Box::new(batch),
            reply,
        };
        if let Err(mpsc::error::SendError(Job::Ingest { batch, .. })) = writes.send(job).await {
            return Err((Error::Closed, *batch));
        }
        match answer.await {
            Ok(result) => result,
            // The writer is gone, and the batch with it; the homeserver still has what it holds.
            Err(_) => Err((Error::Closed, Batch::empty(device, since))),
        }
    }

    /// Stores a room's whole member list.
    pub async fn members(&self, list: MemberList) -> Result<Position, Error> {
        let (reply, answer) = oneshot::channel();
        self.send(Job::Members { list, reply }).await?;
        answer.await.map_err(|_| Error::Closed)?
    }

    /// Stores a state entry as the homeserver has it.
    pub async fn repair(&self, repair: StateRepair) -> Result<Position, Error> {
        let (reply, answer) = oneshot::channel();
        self.send(Job::Repair { repair, reply }).await?;
        answer.await.map_err(|_| Error::Closed)?
    }

    /// Reads what a plan asks for.
    pub async fn load(&self, plan: LoadPlan) -> Result<Loaded, Error> {
        let sent = self.shared.sent.clone();
        self.read(move |c| load::load(c, &plan, &sent)).await
    }

    /// Reads everything a user's cache starts from.
    pub async fn user_snapshot(&self, user_id: UserId) -> Result<UserSnapshot, Error> {
        self.read(move |c| snapshot::snapshot(c, &user_id)).await
    }

    /// Reads all devices, those seen last first.
    pub async fn devices(&self) -> Result<Vec<DeviceRecord>, Error> {
        let keys = self.shared.keys.clone();
        self.read(move |c| devices::all(c, &keys)).await
    }

    /// Reads one device.
    pub async fn device(&self, device: DeviceKey) -> Result<Option<DeviceRecord>, Error> {
        let keys = self.shared.keys.clone();
        self.read(move |c| devices::one(c, &keys, &device)).await
    }

    /// Returns whose token this is, if it is one that is in use.
    pub async fn token_owner(&self, token: &str) -> Result<Option<DeviceKey>, Error> {
        let hash = self.shared.keys.lookup_hash(token);
        self.read(move |c| devices::owner(c, &hash)).await
    }

    /// Stores a token as the only one of its device, which is made known if need be.
    pub async fn remember_token(&self, token: &SecretString, device: &DeviceKey) -> Result<(), Error> {
        let (keys, device, token) = (self.shared.keys.clone(), device.clone(), token.clone());
        let now = self.shared.clock.now();
        self.write(move |c, memory| devices::remember_token(c, memory, &keys, &device, &token, now))
            .await
    }

    /// Forgets the token of a device; everything else of it stays.
    pub async fn forget_token(&self, device: &DeviceKey) -> Result<(), Error> {
        let device = device.clone();
        self.write(move |c, memory| devices::forget_token(c, memory, &device))
            .await
    }

    /// Notes that a client used a device at `now`.
    pub async fn touch_device(&self, device: &DeviceKey, now: UnixMillis) -> Result<(), Error> {
        let device = device.clone();
        self.write(move |c, memory| devices::change(c, memory, &device, |row| row.last_seen = row.last_seen.max(now)))
            .await
    }

    /// Notes which version of the filter the device's position is got with.
    pub async fn set_filter_version(&self, device: &DeviceKey, version: i32) -> Result<(), Error> {
        let device = device.clone();
        self.write(move |c, memory| devices::change(c, memory, &device, |row| row.filter_version = i64::from(version)))
            .await
    }

    /// Forgets a device's position, which the homeserver refused: whatever comes next in any room follows a gap.
    pub async fn reset_position(&self, device: &DeviceKey) -> Result<(), Error> {
        let device = device.clone();
        self.write(move |c, memory| devices::reset_position(c, memory, &device))
            .await
    }

    /// Removes to-device messages up to and with `up_to`.
    pub async fn acknowledge_to_device(&self, device: &DeviceKey, up_to: i64) -> Result<(), Error> {
        let (device, sent) = (device.clone(), self.shared.sent.clone());
        self.write(move |c, memory| devices::acknowledge_to_device(c, memory, &sent, &device, up_to))
            .await
    }

    /// Removes device-list changes up to and with `up_to`.
    pub async fn acknowledge_device_lists(&self, device: &DeviceKey, up_to: i64) -> Result<(), Error> {
        let device = device.clone();
        self.write(move |c, memory| devices::acknowledge_device_lists(c, memory, &device, up_to))
            .await
    }

    /// Returns once everything sent before has been committed or refused.
    pub async fn flush(&self) -> Result<(), Error> {
        self.write(|_, _| Ok(())).await
    }

    /// Returns whether all threads of the store run.
    pub fn is_alive(&self) -> bool {
        let threads = locked(&self.shared.threads);
        !threads.is_empty() && threads.iter().all(|thread| !thread.is_finished())
    }

    /// Looks for damage in the whole database. Slow.
    pub async fn integrity_check(&self) -> Result<(), Error> {
        self.read(check::check).await
    }

    /// Finishes what is waiting, ends the threads and gives the database free. Blocks. Other handles get
    /// [`Error::Closed`] from then on.
    pub fn close(self) {
        locked(&self.shared.writes).take();
        locked(&self.shared.reads).take();
        let threads = std::mem::take(&mut *locked(&self.shared.threads));
        for thread in threads {
            if thread.join().is_err() {
                log::error!("a thread of the store panicked");
            }
        }
        locked(&self.shared.lock).take();
    }

    async fn send(&self, job: Job) -> Result<(), Error> {
        let writes = locked(&self.shared.writes).clone().ok_or(Error::Closed)?;
        writes.send(job).await.map_err(|_| Error::Closed)
    }

    async fn write(
        &self,
        task: impl FnOnce(&mut Connection, &mut Memory) -> Result<(), Error> + Send + 'static,
    ) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        let task: Task = Box::new(task);
        self.send(Job::Task { task, reply }).await?;
        answer.await.map_err(|_| Error::Closed)?
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&mut Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let reads = locked(&self.shared.reads).clone().ok_or(Error::Closed)?;
        let (reply, answer) = oneshot::channel();
        let job: Read = Box::new(move |connections| {
            // Nobody waits any more: the work is not done for nothing.
            if reply.is_closed() {
                return;
            }
            let result = reader::guarded(connections, |c| c.transaction(Mode::Read, read));
            let _ = reply.send(result);
        });
        match tokio::time::timeout(READ_PATIENCE, reads.reserve()).await {
            Err(_) => return Err(Error::Busy),
            Ok(Err(_)) => return Err(Error::Closed),
            Ok(Ok(permit)) => permit.send(job),
        }
        answer.await.map_err(|_| Error::Closed)?
    }
}
