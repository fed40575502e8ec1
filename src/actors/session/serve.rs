//! One request of one session, from acceptance to answer.

use std::rc::Rc;
use std::time::{Duration, Instant};

use actix::Addr;
use tokio::sync::oneshot;

use crate::actors::fleet::messages::EnsureMembers;
use crate::actors::mail;
use crate::actors::metrics::metrics;
use crate::actors::session::messages::{EndReason, Serve, ServeError};
use crate::actors::session::{SessionWorld, Shared, observe_wait};
use crate::actors::user_cache::UserCache;
use crate::actors::user_cache::messages::KeepIndexes;
use crate::ids::DeviceKey;
use crate::model::load::LoadPlan;
use crate::model::room::Membership;
use crate::protocol::{Accepted, Acknowledgement, Answer, Protocol};
use std::sync::Arc;

/// Changes put into one answer beyond the first (msc3575.md 5.5).
const MAX_BATCH: usize = 100;
/// How long a client waits for a room's whole member list before it gets what there is.
const MEMBERS_PATIENCE: Duration = Duration::from_secs(10);
/// Clients that repeat themselves are slowed down a little (msc3575.md 5.2).
const RETRY_PAUSE: Duration = Duration::from_millis(10);
/// Tries to read from a busy store before the client is told to come back.
const LOAD_TRIES: u32 = 3;

type Reply = oneshot::Sender<Result<Arc<Answer>, ServeError>>;

pub(crate) struct Serving<P: Protocol> {
    pub(crate) shared: Rc<Shared<P>>,
    pub(crate) world: SessionWorld,
    pub(crate) device: DeviceKey,
    pub(crate) cache: Addr<UserCache>,
    pub(crate) number: u64,
}

impl<P: Protocol> Serving<P> {
    pub(crate) async fn run(self, serve: Serve<P>) {
        let Serve { request, mut reply } = serve;
        let _turn = self.shared.turn.lock().await;
        let answer = self.answer(request, &mut reply).await;
        self.shared.served.set(self.shared.served.get() + 1);
        // A client that is gone finds the answer in the connection's buffer when it comes back.
        let _ = reply.send(answer);
    }

    async fn answer(&self, request: P::Request, reply: &mut Reply) -> Result<Arc<Answer>, ServeError> {
        let began = Instant::now();
        let accepted = {
            let view = self.shared.view.borrow().clone();
            let mut conn = self.shared.conn.borrow_mut();
            let accepted = conn.accept(request, &view).map_err(ServeError::Refused)?;
            let built = conn.built_indexes();
            if !built.is_empty() {
                // Only a saving for later connections: a full mailbox may lose it.
                mail::offer(&self.cache, KeepIndexes(built));
            }
            accepted
        };
        let (timeout_ms, drain, answer_at_once) = match accepted {
            Accepted::Replay { answer, pause } => {
                if pause {
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                return Ok(answer);
            }
            Accepted::Process {
                timeout_ms,
                drain,
                answer_at_once,
            } => (timeout_ms, drain, answer_at_once),
        };
        self.acknowledge();
        if drain {
            self.apply_queued(usize::MAX);
        }
        let deadline = tokio::time::Instant::now() + Duration::from_millis(timeout_ms);
        let mut waited = Duration::ZERO;
        loop {
            if let Err(error) = self.load().await {
                // The connection keeps the changes for the next request, and a pause told meanwhile was for this one.
                self.shared.paused.take();
                self.shared.conn.borrow_mut().roll_back();
                return Err(error);
            }
            if let Some(EndReason::Token(problem)) = &*self.shared.ending.borrow() {
                return Err(ServeError::Token(problem.clone()));
            }
            if let Some(problem) = self.shared.paused.take() {
                // What was to be answered stays in the connection's buffer for the retry with a new token.
                self.revoke_what_ended();
                self.shared.conn.borrow_mut().render();
                return Err(ServeError::Token(problem));
            }
            let done = answer_at_once
                || self.shared.conn.borrow().has_news()
                || self.shared.newest.get() != self.number
                || self.shared.ending.borrow().is_some()
                || tokio::time::Instant::now() >= deadline
                || reply.is_closed();
            if done {
                break;
            }
            let from = Instant::now();
            self.wait(deadline, reply).await;
            waited += from.elapsed();
            self.apply_queued(MAX_BATCH);
        }
        self.revoke_what_ended();
        let answer = self.shared.conn.borrow_mut().render();
        observe_wait(P::NAME, waited.as_secs_f64());
        metrics()
            .sync_answer_seconds
            .with_label_values(&[P::NAME])
            .observe(began.elapsed().saturating_sub(waited).as_secs_f64());
        Ok(answer)
    }

    /// Waits until something is queued, a newer request comes, the session ends, the client goes, or time is up.
    async fn wait(&self, deadline: tokio::time::Instant, reply: &mut Reply) {
        if !self.shared.queue.borrow().is_empty() {
            return;
        }
        self.shared.waiting.set(true);
        // `Notify` keeps a wake-up that came since the queue was looked at, so none is missed.
        tokio::select! {
            () = self.shared.wake.notified() => {}
            () = tokio::time::sleep_until(deadline) => {}
            () = reply.closed() => {}
        }
        self.shared.waiting.set(false);
    }

    fn apply_queued(&self, most: usize) {
        let mut conn = self.shared.conn.borrow_mut();
        for _ in 0..most {
            let Some(changed) = self.shared.queue.borrow_mut().pop_front() else {
                break;
            };
            conn.apply(&changed);
            *self.shared.view.borrow_mut() = changed.view.clone();
        }
    }

    /// Access is checked when bytes are written: a room that the user has lost meanwhile, by changes still in the
    /// queue, shows nothing more.
    fn revoke_what_ended(&self) {
        let queue = self.shared.queue.borrow();
        let mut conn = self.shared.conn.borrow_mut();
        for changed in queue.iter() {
            for update in &changed.rooms {
                let lost = changed.view.rooms.get(&update.room_id).is_none_or(|entry| {
                    !matches!(
                        entry.room.membership,
                        Membership::Join | Membership::Invite | Membership::Knock
                    )
                });
                if lost {
                    conn.revoke(&update.room_id);
                }
            }
        }
    }

    /// Passes on what the request acknowledges. Nobody waits for it: a lost acknowledgement means that something is
    /// delivered again.
    fn acknowledge(&self) {
        for acknowledgement in self.shared.conn.borrow_mut().acknowledgements() {
            let (store, device) = (self.world.store.clone(), self.device.clone());
            actix::spawn(async move {
                let result = match acknowledgement {
                    Acknowledgement::ToDevice { up_to } => store.acknowledge_to_device(&device, up_to).await,
                    Acknowledgement::DeviceLists { up_to } => store.acknowledge_device_lists(&device, up_to).await,
                };
                if let Err(error) = result {
                    log::warn!(cause:% = error; "acknowledgement could not be stored, data will be repeated");
                }
            });
        }
    }

    async fn load(&self) -> Result<(), ServeError> {
        let plan = self.shared.conn.borrow_mut().plan();
        if plan.is_empty() {
            return Ok(());
        }
        self.ensure_members(&plan).await;
        let mut tries = 0;
        let loaded = loop {
            match self.world.store.load(plan.clone()).await {
                Ok(loaded) => break loaded,
                Err(crate::store::Error::Busy) if tries + 1 >= LOAD_TRIES => return Err(ServeError::Busy),
                Err(error) if error.is_retryable() && tries + 1 < LOAD_TRIES => tries += 1,
                Err(error) => return Err(ServeError::Store(error.to_string())),
            }
        };
        self.shared.conn.borrow_mut().absorb(loaded);
        Ok(())
    }

    async fn ensure_members(&self, plan: &LoadPlan) {
        let wanted: Vec<_> = {
            let view = self.shared.view.borrow();
            plan.rooms
                .iter()
                .filter(|room| room.state.needs_all_members())
                .filter_map(|room| view.rooms.get(&room.room_id))
                .filter(|entry| entry.room.membership == Membership::Join && !entry.room.summary.members_complete)
                .map(|entry| entry.room.room_id.clone())
                .collect()
        };
        let fetches = wanted.into_iter().map(|room_id| {
            let ensure = EnsureMembers {
                device: self.device.clone(),
                room_id,
            };
            mail::ask(&self.world.fleet, ensure, MEMBERS_PATIENCE)
        });
        for fetched in futures_util::future::join_all(fetches).await {
            if !matches!(fetched, Ok(true)) {
                log::debug!(user_id:% = self.device.user_id; "answering without a whole member list");
            }
        }
    }
}
