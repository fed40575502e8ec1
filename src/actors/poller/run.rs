//! The v2 loop: request, store, wait until it is visible, request again. The next request is what deletes to-device
//! messages at the homeserver, so it never leaves before the commit of what the last one brought.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix::Addr;
use secrecy::{ExposeSecret, SecretString};

use crate::actors::exit::Exit;
use crate::actors::fleet::Fleet;
use crate::actors::fleet::messages::TokenRefused;
use crate::actors::mail;
use crate::actors::metrics::metrics;
use crate::actors::poller::messages::Progress;
use crate::actors::poller::{Phase, PollerWorld, Shared, Start, token_problem};
use crate::actors::room_cache::messages::Barrier;
use crate::clock::Moment;
use crate::ids::DeviceKey;
use crate::model::batch::Batch;
use crate::store::{Ingested, Outcome};
use crate::upstream::backoff::{Backoff, Pace, Throttle};
use crate::upstream::client::{Homeserver, SyncAnswer, SyncRequest};
use crate::upstream::error::{Error, ErrorKind};
use crate::upstream::filter;
use crate::upstream::wire::Response;

/// How long one long poll lasts at the homeserver.
const LONG_POLL: Duration = Duration::from_secs(30);
/// How often an idle device's position is written down (upstream.md, RULE 2.5.e).
const SAVE_EVERY_MS: i64 = 45_000;
/// Joined rooms in one part of a first response: enough for a client's first window, little enough to be quick.
const ROOMS_PER_PART: usize = 50;
/// A first sync is logged this often while it runs.
const PROGRESS_EVERY: Duration = Duration::from_secs(15);
/// How long to wait until a commit is visible; it is only ever a mailbox away.
pub(super) const BARRIER_TIMEOUT: Duration = Duration::from_secs(60);
/// A locked account is asked about this often.
const LOCKED_RETRY: Duration = Duration::from_secs(300);

pub(crate) struct Loop {
    pub(crate) device: DeviceKey,
    pub(crate) shared: Rc<Shared>,
    pub(crate) world: PollerWorld,
    pub(crate) fleet: Addr<Fleet>,
    pub(crate) homeserver: Homeserver,
}

/// Where the loop stands.
struct Cursor {
    /// For the next request.
    since: Option<String>,
    /// What the database holds; behind `since` by empty responses only.
    stored: Option<String>,
    /// When `stored` was last moved.
    stored_at: Moment,
    /// First sending of the request that is being tried; kept over retries, because the homeserver answers them from
    /// its cache.
    first_sent: Option<Moment>,
    catching_up: bool,
    /// Key counts and fallback types as last stored: homeservers repeat them in every response.
    keys: Option<Keys>,
    /// The token that the request being tried was sent with; the poller may have been given another meanwhile.
    used: SecretString,
}

type Keys = (Option<BTreeMap<String, i64>>, Option<Vec<String>>);

/// What to do after a failed request.
enum After {
    Retry(Duration),
    RetryWithNewToken,
    StartOver,
    End(Exit),
}

impl Loop {
    pub(crate) async fn run(self, start: Start) -> Exit {
        let device = &self.device;
        log::info!(
            since = start.since.as_deref().unwrap_or_default(),
            user_id:% = device.user_id,
            device_id:% = device.device_id;
            "Poller: v2 poll loop started"
        );
        if start.has_synced {
            self.publish(Progress::Synced);
        }
        let mut cursor = Cursor {
            since: start.since.clone(),
            stored: start.since,
            stored_at: self.world.clock.moment(),
            first_sent: None,
            catching_up: true,
            keys: None,
            used: start.token,
        };
        let mut backoff = Backoff::default();
        let mut throttle = Throttle::default();
        loop {
            if let Some(exit) = self.shared.ending.borrow().clone() {
                return exit;
            }
            let answer = tokio::select! {
                biased;
                () = self.shared.end.notified() => continue,
                answer = self.request(&mut cursor) => answer,
            };
            let result = match answer {
                Ok(answer) => self.process(&mut cursor, &answer).await,
                Err(error) => Err(Failure::Upstream(error)),
            };
            let pause = match result {
                Ok(stored) => {
                    backoff.succeeded();
                    self.succeeded(&mut cursor);
                    {
                        let now = self.world.clock.moment();
                        let pause =
                            throttle.answered(now, stored.since.as_deref(), &stored.next_batch, !stored.had_content);
                        (!pause.is_zero()).then_some(pause)
                    }
                }
                Err(Failure::End(exit)) => return exit,
                Err(Failure::Upstream(error)) => match self.failed(&cursor, &error, &mut backoff).await {
                    After::Retry(pause) => Some(pause),
                    After::RetryWithNewToken => None,
                    After::StartOver => {
                        cursor.since = None;
                        cursor.stored = None;
                        cursor.first_sent = None;
                        None
                    }
                    After::End(exit) => return exit,
                },
            };
            if let Some(pause) = pause {
                self.phase(Phase::BackingOff);
                self.sleep(pause).await;
            }
        }
    }

    fn publish(&self, progress: Progress) {
        self.shared.progress.send_if_modified(|now| {
            let changed = *now != progress;
            *now = progress;
            changed
        });
    }

    fn phase(&self, phase: Phase) {
        self.shared.state.borrow_mut().phase = phase;
    }

    /// Sleeps, but not past a new token, a hurry, or the end.
    async fn sleep(&self, pause: Duration) {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = self.shared.end.notified() => self.shared.end.notify_one(),
            () = self.shared.token_changed.notified() => {}
        }
    }

    async fn request(&self, cursor: &mut Cursor) -> Result<SyncAnswer, Error> {
        let initial = cursor.since.is_none();
        // Catching up is limited, so that a start does not fall upon the homeserver with every device at once; long
        // polls are not, and neither is a device whose client is waiting.
        let _turn = if cursor.catching_up && !self.shared.hurry.get() {
            self.phase(Phase::Queued);
            tokio::select! {
                turn = self.world.catch_up.acquire() => turn.ok(),
                () = self.shared.hurried.notified() => None,
            }
        } else {
            None
        };
        self.phase(match (initial, cursor.catching_up) {
            (true, _) => Phase::FirstSync,
            (false, true) => Phase::CatchingUp,
            (false, false) => Phase::Polling,
        });
        cursor.first_sent.get_or_insert_with(|| self.world.clock.moment());
        let wait = if initial || cursor.catching_up {
            Duration::ZERO
        } else {
            LONG_POLL
        };
        let attempt = std::time::Instant::now();
        cursor.used = self.shared.token.borrow().clone();
        let received = Arc::new(AtomicU64::new(0));
        let request = SyncRequest {
            token: cursor.used.clone(),
            since: cursor.since.clone(),
            timeout_ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
            filter: if initial { filter::FIRST } else { filter::LATER },
            progress: Some(Arc::clone(&received)),
        };
        let answer = {
            let sync = self.homeserver.sync(&request);
            tokio::pin!(sync);
            loop {
                tokio::select! {
                    answer = &mut sync => break answer,
                    () = tokio::time::sleep(PROGRESS_EVERY) => {
                        let bytes = received.load(Ordering::Relaxed);
                        self.shared.state.borrow_mut().bytes_received = bytes;
                        if initial {
                            log::info!(
                                user_id:% = self.device.user_id,
                                size_bytes = bytes,
                                duration_ms = attempt.elapsed().as_millis();
                                "first sync is under way at the homeserver"
                            );
                        }
                    }
                }
            }
        };
        self.shared.state.borrow_mut().bytes_received = received.load(Ordering::Relaxed);
        let status = match &answer {
            Ok(_) => "200".to_owned(),
            Err(error) => error.status.map_or_else(
                || format!("{:?}", error.kind).to_lowercase(),
                |status| status.to_string(),
            ),
        };
        metrics()
            .upstream_seconds
            .with_label_values(&[&*status])
            .observe(attempt.elapsed().as_secs_f64());
        log::debug!(
            user_id:% = self.device.user_id,
            size_bytes = received.load(Ordering::Relaxed),
            duration_ms = attempt.elapsed().as_millis(),
            status = status.as_str();
            "v2 response"
        );
        answer
    }

    fn succeeded(&self, cursor: &mut Cursor) {
        cursor.catching_up = false;
        cursor.first_sent = None;
        self.shared.hurry.set(false);
        let mut state = self.shared.state.borrow_mut();
        state.last_response = Some(self.world.clock.now());
        state.failures_in_a_row = 0;
        state.has_synced = true;
        drop(state);
        self.publish(Progress::Synced);
    }

    async fn process(&self, cursor: &mut Cursor, answer: &SyncAnswer) -> Result<Stored, Failure> {
        let received_at = self.world.clock.moment();
        let sent_at = cursor.first_sent.unwrap_or(received_at);
        let response = Response::parse(&answer.body)?;
        let next_batch = response.next_batch().to_owned();
        let since = cursor.since.clone();
        let keys: Keys = (
            response.one_time_keys().cloned(),
            response.fallback_types().map(<[String]>::to_vec),
        );
        let empty = response.is_empty() || (response.is_quiet() && cursor.keys.as_ref() == Some(&keys));
        if empty && cursor.since.is_some() {
            cursor.since = Some(next_batch.clone());
            if received_at.0 - cursor.stored_at.0 < SAVE_EVERY_MS || cursor.stored == cursor.since {
                return Ok(Stored {
                    since,
                    next_batch,
                    had_content: false,
                });
            }
        }
        self.phase(Phase::Storing);
        let first = cursor.stored.is_none();
        let outcome = if first {
            self.store_in_parts(cursor, response, sent_at, received_at).await?
        } else {
            let (batch, skipped) =
                response.into_batch(self.device.clone(), cursor.stored.clone(), sent_at, received_at);
            self.count(&skipped);
            self.ingest(batch).await?.outcome
        };
        match outcome {
            Outcome::Stored => {
                cursor.since = Some(next_batch.clone());
                cursor.stored = Some(next_batch.clone());
                if first {
                    self.reconcile(&next_batch).await;
                }
                cursor.stored_at = received_at;
                cursor.keys = Some(keys);
            }
            Outcome::Superseded => {
                // Another poller of this device was here, or the position was reset: the database is right.
                let since = self.stored_position().await?;
                log::warn!(user_id:% = self.device.user_id; "response does not continue the stored position, dropped");
                cursor.since = since.clone();
                cursor.stored = since;
            }
        }
        Ok(Stored {
            since,
            next_batch,
            had_content: !empty,
        })
    }

    /// Stores a first response part by part, newest rooms first, so that a client sees them as they come.
    async fn store_in_parts(
        &self,
        cursor: &Cursor,
        response: Response<'_>,
        sent_at: Moment,
        received_at: Moment,
    ) -> Result<Outcome, Failure> {
        let began = self.world.clock.moment();
        let total = response.room_count();
        self.shared.state.borrow_mut().rooms_total = total;
        let mut parts = response.into_parts(
            self.device.clone(),
            cursor.stored.clone(),
            sent_at,
            received_at,
            ROOMS_PER_PART,
        );
        let mut outcome = Outcome::Stored;
        let mut logged = began;
        for batch in parts.by_ref() {
            let rooms = batch.joined.len();
            outcome = self.ingest(batch).await?.outcome;
            if matches!(outcome, Outcome::Superseded) {
                break;
            }
            let stored = {
                let mut state = self.shared.state.borrow_mut();
                state.rooms_stored += rooms;
                state.rooms_stored
            };
            if matches!(
                *self.shared.progress.borrow(),
                Progress::Starting | Progress::NoToken(_)
            ) {
                self.publish(Progress::Visible);
            }
            let now = self.world.clock.moment();
            if now.0 - logged.0 > 2_000 {
                logged = now;
                log::info!(user_id:% = self.device.user_id, rooms = stored; "first sync is being stored");
            }
        }
        self.count(&parts.skipped());
        log::info!(
            user_id:% = self.device.user_id,
            rooms = total,
            duration_ms = self.world.clock.moment().0 - began.0;
            "first sync stored"
        );
        Ok(outcome)
    }

    /// Stores one batch, trying again for as long as the database is the reason, and waits until it is visible.
    pub(super) async fn ingest(&self, batch: Batch) -> Result<Ingested, Failure> {
        let mut batch = batch;
        let mut pause = Duration::from_millis(200);
        let ingested = loop {
            match self.world.store.ingest(batch).await {
                Ok(ingested) => break ingested,
                Err((error, back)) if error.is_retryable() => {
                    log::warn!(user_id:% = self.device.user_id, cause:% = error; "response could not be stored yet");
                    if let Some(exit) = self.shared.ending.borrow().clone() {
                        return Err(Failure::End(exit));
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(10));
                    batch = back;
                }
                Err((error, _)) => return Err(Failure::End(Exit::Failed(error.to_string()))),
            }
        };
        if mail::ask(&self.world.room_cache, Barrier, BARRIER_TIMEOUT)
            .await
            .is_err()
        {
            return Err(Failure::End(Exit::Failed("room cache does not answer".to_owned())));
        }
        self.repair(&ingested).await;
        Ok(ingested)
    }

    /// Returns the position that the database holds, however long it takes: going on without it would mean a whole
    /// first sync.
    pub(super) async fn stored_position(&self) -> Result<Option<String>, Failure> {
        loop {
            match self.world.store.device(self.device.clone()).await {
                Ok(record) => return Ok(record.and_then(|record| record.since)),
                Err(error) if error.is_retryable() => {
                    if let Some(exit) = self.shared.ending.borrow().clone() {
                        return Err(Failure::End(exit));
                    }
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
                Err(error) => return Err(Failure::End(Exit::Failed(error.to_string()))),
            }
        }
    }

    fn count(&self, skipped: &crate::upstream::wire::Skipped) {
        let total = metrics();
        for (what, n) in [
            ("event", skipped.events),
            ("room", skipped.rooms),
            ("section", skipped.sections),
        ] {
            if n > 0 {
                total.upstream_skipped_total.with_label_values(&[what]).inc_by(n as u64);
                log::warn!(user_id:% = self.device.user_id, kind = what, count = n; "malformed data skipped");
            }
        }
    }

    async fn failed(&self, cursor: &Cursor, error: &Error, backoff: &mut Backoff) -> After {
        let failures = {
            let mut state = self.shared.state.borrow_mut();
            state.failures_in_a_row += 1;
            state.last_failure = Some(error.to_string());
            state.failures_in_a_row
        };
        let about_token = matches!(
            error.kind,
            ErrorKind::LoggedOut | ErrorKind::Deactivated | ErrorKind::SoftLogout | ErrorKind::Locked
        );
        if about_token && self.shared.token.borrow().expose_secret() != cursor.used.expose_secret() {
            // The refusal is the old token's; the new one has not been tried yet.
            return After::RetryWithNewToken;
        }
        match error.kind {
            ErrorKind::InvalidSince if cursor.since.is_some() => {
                log::warn!(user_id:% = self.device.user_id; "homeserver does not know our position, starting over");
                match self.world.store.reset_position(&self.device).await {
                    Ok(()) => return After::StartOver,
                    Err(error) => return After::End(Exit::Failed(error.to_string())),
                }
            }
            ErrorKind::LoggedOut | ErrorKind::Deactivated => {
                log::info!(user_id:% = self.device.user_id, device_id:% = self.device.device_id; "homeserver ended the token");
                self.refused(error, &cursor.used);
                return After::End(Exit::LoggedOut);
            }
            ErrorKind::SoftLogout | ErrorKind::Locked => {
                log::info!(user_id:% = self.device.user_id, device_id:% = self.device.device_id; "paused until there is a new token");
                self.phase(Phase::Paused);
                self.refused(error, &cursor.used);
                metrics().pollers_paused.inc();
                let retry = if matches!(error.kind, ErrorKind::Locked) {
                    LOCKED_RETRY
                } else {
                    Duration::from_secs(24 * 3600)
                };
                tokio::select! {
                    () = self.shared.token_changed.notified() => {}
                    () = self.shared.end.notified() => self.shared.end.notify_one(),
                    () = tokio::time::sleep(retry) => {}
                }
                metrics().pollers_paused.dec();
                return After::RetryWithNewToken;
            }
            _ => {}
        }
        let pace = if cursor.since.is_none() || cursor.catching_up {
            Pace::CatchUp
        } else {
            Pace::LongPoll
        };
        let pause = backoff.failed(
            pace,
            self.world.clock.moment(),
            error.retry_after,
            rand::random::<f64>(),
        );
        let level = if failures <= 1 {
            log::Level::Info
        } else {
            log::Level::Warn
        };
        log::log!(
            level,
            user_id:% = self.device.user_id,
            attempt = failures,
            cause:% = error,
            duration_ms = pause.as_millis();
            "homeserver request failed, trying again"
        );
        After::Retry(pause)
    }

    /// Tells those who wait, and the fleet, that the homeserver does not take the token.
    fn refused(&self, error: &Error, token: &SecretString) {
        let problem = token_problem(error);
        self.publish(Progress::NoToken(problem.clone()));
        // Bounded: one for each answer of the homeserver.
        mail::tell(
            &self.fleet,
            TokenRefused {
                device: self.device.clone(),
                token: token.clone(),
                problem,
            },
        );
    }
}

struct Stored {
    since: Option<String>,
    next_batch: String,
    had_content: bool,
}

pub(super) enum Failure {
    Upstream(Error),
    End(Exit),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Upstream(error)
    }
}
