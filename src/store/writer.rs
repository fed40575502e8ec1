//! The one thread that writes. It takes what is waiting, commits it together, and then tells everybody.
//!
//! One writer makes the order of positions the order of commits on both databases; a savepoint per job keeps a bad one
//! from spoiling the others.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use log::{error, warn};
use tokio::sync::{mpsc, oneshot};

use super::connection::{Connection, Connections, Mode};
use super::error::Error;
use super::ingest::{self, Context, Ingested};
use super::memory::{Counters, Memory, Sent};
use super::retention;
use crate::clock::{Clock, Moment};
use crate::ids::RoomId;
use crate::model::batch::{Batch, MemberList, StateRepair};
use crate::model::change::Committed;
use crate::model::position::Position;

/// Hears every commit, in position order, on the writer thread.
pub type Listener = Box<dyn Fn(Arc<Committed>) + Send>;
/// Hears how large and how fast each commit was.
pub type CommitObserver = Box<dyn Fn(CommitReport) + Send>;

/// One commit of the writer, which may hold several jobs.
#[derive(Clone, Copy, Debug)]
pub struct CommitReport {
    /// Jobs in it.
    pub jobs: usize,
    /// Room events in them.
    pub events: usize,
    /// From the start of the transaction to the end of the commit, by the store's clock.
    pub duration: Duration,
    /// Whether it was made to survive a power cut.
    pub durable: bool,
}

/// Jobs in one commit at most.
const JOBS: usize = 64;
/// Events after which no further job joins a commit.
const EVENTS: usize = 2_000;

/// A write that is not an ingestion.
pub(super) type Task = Box<dyn FnOnce(&mut Connection, &mut Memory) -> Result<(), Error> + Send>;

/// Work for the writer.
pub(super) enum Job {
    Ingest {
        batch: Box<Batch>,
        reply: oneshot::Sender<Result<Ingested, (Error, Batch)>>,
    },
    Members {
        list: MemberList,
        reply: oneshot::Sender<Result<Position, Error>>,
    },
    Repair {
        repair: StateRepair,
        reply: oneshot::Sender<Result<Position, Error>>,
    },
    Task {
        task: Task,
        reply: oneshot::Sender<Result<(), Error>>,
    },
}

/// A job that ran, waiting for the commit.
enum Answer {
    Ingest {
        batch: Box<Batch>,
        reply: oneshot::Sender<Result<Ingested, (Error, Batch)>>,
        result: Result<Ingested, Error>,
    },
    Position {
        reply: oneshot::Sender<Result<Position, Error>>,
        result: Result<Position, Error>,
    },
    Task {
        reply: oneshot::Sender<Result<(), Error>>,
        result: Result<(), Error>,
    },
}

impl Answer {
    /// Answers. Whoever does not wait any more does not need to know.
    fn send(self, failure: Option<&str>) {
        let spoil = || failure.map(|cause| Error::Unavailable(cause.into()));
        match self {
            Answer::Ingest { batch, reply, result } => {
                let result = match (result, spoil()) {
                    (Err(error), _) | (Ok(_), Some(error)) => Err((error, *batch)),
                    (Ok(ingested), None) => Ok(ingested),
                };
                let _ = reply.send(result);
            }
            Answer::Position { reply, result } => {
                let _ = reply.send(result.and_then(|position| spoil().map_or(Ok(position), Err)));
            }
            Answer::Task { reply, result } => {
                let _ = reply.send(result.and_then(|()| spoil().map_or(Ok(()), Err)));
            }
        }
    }
}

/// The writer.
pub(super) struct Writer {
    pub(super) connections: Connections,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) listener: Listener,
    pub(super) observer: CommitObserver,
    pub(super) keep: usize,
    pub(super) debug_assertions: bool,
    pub(super) sent: Arc<Mutex<Sent>>,
    pub(super) memory: Memory,
    pub(super) grown: HashMap<i64, (RoomId, usize)>,
    pub(super) last_sweep: Moment,
}

impl Writer {
    /// Works until every sender is gone.
    pub(super) fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        while let Some(first) = jobs.blocking_recv() {
            let mut group = Vec::new();
            let mut events = size(&first);
            group.push(first);
            while group.len() < JOBS && events < EVENTS {
                let Ok(job) = jobs.try_recv() else {
                    break;
                };
                events += size(&job);
                group.push(job);
            }
            self.commit(group, events);
            let busy = !jobs.is_empty();
            if let Err(error) = self.tidy(busy) {
                warn!(cause:% = error; "old rows could not be removed, will be tried again");
                self.memory.forget_rows();
            }
        }
    }

    fn commit(&mut self, group: Vec<Job>, events: usize) {
        let started = self.clock.moment();
        let durable = group.iter().any(|job| match job {
            Job::Ingest { batch, .. } => !batch.to_device.is_empty(),
            Job::Members { .. } | Job::Repair { .. } | Job::Task { .. } => false,
        });
        let jobs = group.len();
        let mode = if durable { Mode::Durable } else { Mode::Relaxed };
        let mut answers: Vec<Answer> = Vec::with_capacity(jobs);
        let mut commits: Vec<Arc<Committed>> = Vec::new();
        let counters = self.memory.counters;
        let mut waiting = group.into_iter();
        let result = self.connections.get().and_then(|mut c| {
            c.transaction(mode, |c| {
                for job in waiting.by_ref() {
                    let (answer, committed) = self.run_job(c, job);
                    answers.push(answer);
                    commits.extend(committed.map(Arc::new));
                }
                if self.memory.counters != counters {
                    self.memory.counters.write(c)?;
                }
                Ok(())
            })
        });
        match result {
            Ok(()) => {
                self.memory.settle();
                for committed in commits {
                    // A listener that panics must not take the writer with it.
                    if catch_unwind(AssertUnwindSafe(|| (self.listener)(committed))).is_err() {
                        error!("listener of the store panicked");
                    }
                }
                for answer in answers {
                    answer.send(None);
                }
            }
            Err(error) => {
                error!(cause:% = error, jobs; "commit failed");
                self.memory.moments.undo_to(0);
                self.memory.forget_rows();
                // Numbers given out stay given out; only positions go back, for there must be no commit without.
                self.memory.counters.position = counters.position;
                let cause = error.to_string();
                for answer in answers {
                    answer.send(Some(&cause));
                }
                for job in waiting {
                    refuse(job).send(Some(&cause));
                }
            }
        }
        let duration = self.clock.moment().0.saturating_sub(started.0);
        (self.observer)(CommitReport {
            jobs,
            events,
            duration: Duration::from_millis(u64::try_from(duration).unwrap_or(0)),
            durable,
        });
    }

    fn run_job(&mut self, c: &mut Connection, job: Job) -> (Answer, Option<Committed>) {
        match job {
            Job::Ingest { batch, reply } => {
                let result = self.guarded(c, |c, context| ingest::batch(c, context, &batch));
                let (result, committed) = match result {
                    Ok((ingested, committed)) => (Ok(ingested), committed),
                    Err(error) => (Err(error), None),
                };
                (Answer::Ingest { batch, reply, result }, committed)
            }
            Job::Members { list, reply } => {
                let result = self.guarded(c, |c, context| ingest::members(c, context, &list));
                position(reply, result)
            }
            Job::Repair { repair, reply } => {
                let result = self.guarded(c, |c, context| ingest::repair(c, context, &repair));
                position(reply, result)
            }
            Job::Task { task, reply } => {
                let result = self.guarded(c, |c, context| task(c, context.memory));
                (Answer::Task { reply, result }, None)
            }
        }
    }

    /// Runs a job in a savepoint. If it fails, nothing of it is left anywhere.
    fn guarded<T>(
        &mut self,
        c: &mut Connection,
        job: impl FnOnce(&mut Connection, Context<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let position = self.memory.counters.position;
        let mark = self.memory.moments.mark();
        let now = self.clock.now();
        let debug_assertions = self.debug_assertions;
        let result = catch_unwind(AssertUnwindSafe(|| {
            c.savepoint(|c| {
                let context = Context {
                    memory: &mut self.memory,
                    sent: &self.sent,
                    now,
                    keep: self.keep,
                    grown: &mut self.grown,
                };
                let result = job(c, context);
                if let (Err(error @ Error::Inconsistent { .. }), true) = (&result, debug_assertions) {
                    panic!("{error}");
                }
                result
            })
        }))
        .unwrap_or(Err(Error::Panicked));
        if let Err(error) = &result {
            error!(cause:% = error; "job of the store failed and was rolled back");
            self.memory.counters.position = position;
            self.memory.moments.undo_to(mark);
            self.memory.forget_rows();
        }
        result
    }

    /// Removes old rows, in small steps, and only while there is little else to do.
    fn tidy(&mut self, busy: bool) -> Result<(), Error> {
        let moment = self.clock.moment();
        let now = self.clock.now();
        if moment.0.saturating_sub(self.last_sweep.0) >= retention::SWEEP_MS {
            self.last_sweep = moment;
            let mut c = self.connections.get()?;
            c.transaction(Mode::Relaxed, |c| retention::sweep(c, now))?;
        }
        let threshold = (self.keep / 2).max(20);
        let mut rooms: Vec<(i64, RoomId)> = self
            .grown
            .iter()
            .filter(|(_, (_, count))| *count >= threshold)
            .map(|(nid, (room_id, _))| (*nid, room_id.clone()))
            .take(if busy { 1 } else { 8 })
            .collect();
        rooms.sort_unstable();
        for (nid, room_id) in rooms {
            let mut c = self.connections.get()?;
            let done = c.transaction(Mode::Relaxed, |c| retention::prune(c, nid, self.keep, now))?;
            // What the writer remembers of the room's order includes events that are gone now.
            self.memory.rooms.take(&room_id);
            if done {
                self.grown.remove(&nid);
            }
        }
        if self.grown.len() > 50_000 {
            self.grown.clear();
        }
        Ok(())
    }
}

fn position(
    reply: oneshot::Sender<Result<Position, Error>>,
    result: Result<Committed, Error>,
) -> (Answer, Option<Committed>) {
    match result {
        Ok(committed) => {
            let result = Ok(committed.position);
            (Answer::Position { reply, result }, Some(committed))
        }
        Err(error) => (
            Answer::Position {
                reply,
                result: Err(error),
            },
            None,
        ),
    }
}

/// Makes the answer to a job that was not even tried.
fn refuse(job: Job) -> Answer {
    let error = || Error::Unavailable("the transaction could not be started".into());
    match job {
        Job::Ingest { batch, reply } => Answer::Ingest {
            batch,
            reply,
            result: Err(error()),
        },
        Job::Members { reply, .. } | Job::Repair { reply, .. } => Answer::Position {
            reply,
            result: Err(error()),
        },
        Job::Task { reply, .. } => Answer::Task {
            reply,
            result: Err(error()),
        },
    }
}

fn size(job: &Job) -> usize {
    match job {
        Job::Ingest { batch, .. } => batch
            .joined
            .iter()
            .map(|room| room.state.len() + room.timeline.len())
            .chain(batch.left.iter().map(|room| room.timeline.len()))
            .sum(),
        Job::Members { list, .. } => list.members.len(),
        Job::Repair { .. } => 1,
        Job::Task { .. } => 0,
    }
}

/// Reads the counters the writer starts from.
pub(super) fn counters(connections: &Connections) -> Result<Counters, Error> {
    Counters::read(&mut connections.get()?)
}
