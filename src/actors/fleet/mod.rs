//! One fleet: it knows which pollers should run, starts them, restarts what fails and retires what nobody needs.

pub mod messages;
pub mod state;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, MessageResult, ResponseActFuture, ResponseFuture,
    WrapFuture,
};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use tokio::sync::{Semaphore, oneshot, watch};

use crate::actors::exit::Exit;
use crate::actors::fleet::messages::{
    EnsureMembers, EnsurePoller, FleetError, PollerEnded, Resume, StopAll, TokenRefused, Touch,
};
use crate::actors::mail::{self, Kind, Mail};
use crate::actors::metrics::metrics;
use crate::actors::observe::{Listing, Observe, state_value};
use crate::actors::place::Handles;
use crate::actors::poller::messages::{FetchMembers, Progress, Retire, Stop, UseToken};
use crate::actors::poller::{Poller, PollerWorld, Start};
use crate::clock::{Moment, UnixMillis};
use crate::ids::{DeviceKey, RoomId};
use crate::store::DeviceRecord;
use crate::web::auth::Tokens;

/// How often idle pollers are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(600);
/// `last_seen` is written down at most this often.
const SAVE_LAST_SEEN_MS: i64 = 3_600_000;
/// Member lists fetched at the same time.
const MEMBER_FETCHES: usize = 4;
const MEMBERS_TIMEOUT: Duration = Duration::from_secs(130);
const ASK_TIMEOUT: Duration = Duration::from_secs(10);

struct Child {
    addr: Option<Addr<Poller>>,
    generation: u64,
    progress: watch::Sender<Progress>,
    token: SecretString,
    started: Moment,
    restarts: u32,
    last_seen: UnixMillis,
    last_saved: UnixMillis,
    waiting_to_restart: bool,
}

/// Tells the registry that a device's sessions are over.
pub type EndDevice = Box<dyn Fn(&DeviceKey, &crate::actors::poller::messages::TokenProblem) + Send>;

/// The actor.
pub struct Fleet {
    world: PollerWorld,
    places: Handles,
    tokens: Tokens,
    idle_hours: u64,
    end_device: EndDevice,
    children: HashMap<DeviceKey, Child, foldhash::fast::RandomState>,
    members: HashMap<RoomId, Vec<oneshot::Sender<bool>>, foldhash::fast::RandomState>,
    member_fetches: Arc<Semaphore>,
    generations: u64,
    stopping: bool,
    all_stopped: Vec<oneshot::Sender<()>>,
    listing: Option<Listing>,
}

impl Kind for Fleet {
    const NAME: &'static str = "fleet";
}

#[derive(Serialize)]
struct FleetState {
    pollers: usize,
    running: usize,
    waiting_to_restart: usize,
    member_lists_under_way: usize,
    stopping: bool,
}

impl Fleet {
    /// Returns a fleet without pollers. `end_device` is called when the homeserver no longer takes a device's token.
    pub fn new(world: PollerWorld, places: Handles, tokens: Tokens, idle_hours: u64, end_device: EndDevice) -> Self {
        Self {
            world,
            places,
            tokens,
            idle_hours,
            end_device,
            children: HashMap::default(),
            members: HashMap::default(),
            member_fetches: Arc::new(Semaphore::new(MEMBER_FETCHES)),
            generations: 0,
            stopping: false,
            all_stopped: Vec::new(),
            listing: None,
        }
    }

    /// Starts a poller for a device that has none.
    fn start(&mut self, ctx: &mut Context<Self>, record: DeviceRecord, token: SecretString, urgent: bool) {
        let device = record.device;
        self.generations += 1;
        let generation = self.generations;
        let now = self.world.clock.now();
        let last_seen = if urgent { now } else { record.last_seen };
        let child = self.children.entry(device.clone()).or_insert_with(|| Child {
            addr: None,
            generation,
            progress: watch::channel(Progress::Starting).0,
            token: token.clone(),
            started: Moment::default(),
            restarts: 0,
            last_seen,
            last_saved: record.last_seen,
            waiting_to_restart: false,
        });
        child.generation = generation;
        child.token = token.clone();
        child.started = self.world.clock.moment();
        child.waiting_to_restart = false;
        if matches!(*child.progress.borrow(), Progress::NoToken(_)) {
            child.progress.send_replace(Progress::Starting);
        }
        let start = Start {
            since: record.since,
            has_synced: record.has_synced,
            token,
            urgent,
        };
        let progress = child.progress.clone();
        let world = self.world.clone();
        let fleet = ctx.address();
        child.addr = Some(self.places.poller(&device.clone(), move |_| {
            Poller::new(device, start, world, fleet, generation, progress)
        }));
    }

    fn sweep(&mut self) {
        let now = self.world.clock.now();
        for (device, child) in &mut self.children {
            if let Some(addr) = &child.addr
                && state::is_idle(child.last_seen, now, self.idle_hours)
            {
                log::info!(user_id:% = device.user_id, device_id:% = device.device_id; "poller retires, nobody was here");
                mail::offer(addr, Retire);
            }
        }
    }

    /// Starts the device's poller again from what the store knows.
    fn restart(&mut self, ctx: &mut Context<Self>, device: DeviceKey) {
        let Some(child) = self.children.get(&device) else {
            return;
        };
        if child.addr.is_some() || self.stopping {
            return;
        }
        let store = self.world.store.clone();
        let asked = device.clone();
        ctx.spawn(async move { store.device(asked).await }.into_actor(self).map(
            move |record, act, ctx| match record {
                Ok(Some(record)) => {
                    // The token may have changed, and a client may have started the poller, while we asked.
                    let token = act
                        .children
                        .get(&device)
                        .filter(|child| child.addr.is_none() && !act.stopping)
                        .map(|child| child.token.clone());
                    if let Some(token) = token {
                        act.start(ctx, record, token, false);
                    }
                }
                Ok(None) => {}
                Err(error) => {
                    log::warn!(user_id:% = device.user_id, cause:% = error; "poller cannot be restarted yet");
                    ctx.run_later(Duration::from_secs(5), move |act, ctx| act.restart(ctx, device));
                }
            },
        ));
    }

    fn remember_seen(&mut self, device: &DeviceKey) {
        let now = self.world.clock.now();
        let Some(child) = self.children.get_mut(device) else {
            return;
        };
        child.last_seen = now;
        if now - child.last_saved > SAVE_LAST_SEEN_MS {
            child.last_saved = now;
            let store = self.world.store.clone();
            let device = device.clone();
            actix::spawn(async move {
                if let Err(error) = store.touch_device(&device, now).await {
                    log::warn!(cause:% = error; "time of last use could not be saved");
                }
            });
        }
    }

    fn report_if_all_stopped(&mut self) {
        if self.stopping && self.children.values().all(|child| child.addr.is_none()) {
            for waiting in self.all_stopped.drain(..) {
                // Whoever asked may have given up.
                let _ = waiting.send(());
            }
        }
    }
}

impl Actor for Fleet {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(256);
        self.listing = Some(self.world.observatory.enlist(ctx.address()));
        ctx.run_interval(SWEEP_EVERY, |act, _| act.sweep());
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        if let Some(listing) = self.listing.take() {
            let exit = self.stopping.then_some(Exit::Shutdown);
            self.world.observatory.dismiss(&listing, exit.as_ref());
        }
    }
}

impl Handler<Mail<EnsurePoller>> for Fleet {
    type Result = ResponseActFuture<Self, Result<watch::Receiver<Progress>, FleetError>>;

    fn handle(&mut self, mail: Mail<EnsurePoller>, _: &mut Self::Context) -> Self::Result {
        let (EnsurePoller { device, token, current }, running) = mail.open::<Self>();
        if self.stopping {
            return Box::pin(actix::fut::ready(Err(FleetError::Stopping)));
        }
        self.remember_seen(&device);
        if let Some(child) = self.children.get_mut(&device)
            && let Some(addr) = &child.addr
            && addr.connected()
        {
            let receiver = child.progress.subscribe();
            if current && child.token.expose_secret() != token.expose_secret() {
                child.token = token.clone();
                if matches!(*child.progress.borrow(), Progress::NoToken(_)) {
                    child.progress.send_replace(Progress::Starting);
                }
                // Bounded: one for each token that the homeserver has just vouched for.
                mail::tell(addr, UseToken(token));
            }
            return Box::pin(actix::fut::ready(Ok(receiver)));
        }
        let store = self.world.store.clone();
        let asked = device.clone();
        Box::pin(
            async move {
                let _running = running;
                store.device(asked).await
            }
            .into_actor(self)
            .map(move |record, act, ctx| {
                let record = match record {
                    Ok(Some(record)) => record,
                    Ok(None) => return Err(FleetError::Store("device is not stored".to_owned())),
                    Err(error) => return Err(FleetError::Store(error.to_string())),
                };
                if act.stopping {
                    return Err(FleetError::Stopping);
                }
                // An older token of the device does for a start only if there is no newer one.
                let token = match &record.token {
                    Some(newest) if !current => newest.clone(),
                    _ => token,
                };
                // Somebody else's request may have started it while we asked.
                match act.children.get_mut(&device) {
                    Some(child) if child.addr.as_ref().is_some_and(Addr::connected) => {
                        if current && child.token.expose_secret() != token.expose_secret() {
                            child.token = token.clone();
                            if let Some(addr) = &child.addr {
                                // Bounded: one for each token that the homeserver has just vouched for.
                                mail::tell(addr, UseToken(token));
                            }
                        }
                    }
                    _ => act.start(ctx, record, token, true),
                }
                match act.children.get(&device) {
                    Some(child) => Ok(child.progress.subscribe()),
                    None => Err(FleetError::Stopping),
                }
            }),
        )
    }
}

impl Handler<Mail<Touch>> for Fleet {
    type Result = ();

    fn handle(&mut self, mail: Mail<Touch>, _: &mut Self::Context) {
        let (Touch(device), _running) = mail.open::<Self>();
        self.remember_seen(&device);
    }
}

impl Handler<Mail<PollerEnded>> for Fleet {
    type Result = ();

    fn handle(&mut self, mail: Mail<PollerEnded>, ctx: &mut Self::Context) {
        let (ended, _running) = mail.open::<Self>();
        let now = self.world.clock.moment();
        let Some(child) = self.children.get_mut(&ended.device) else {
            return;
        };
        if child.generation != ended.generation {
            return;
        }
        child.addr = None;
        let label = Exit::label(ended.exit.as_ref());
        let policy = state::restart(
            ended.exit.as_ref(),
            state::forgive(child.restarts, child.started, now),
            rand::random(),
        );
        match policy {
            _ if self.stopping => self.report_if_all_stopped(),
            state::Restart::Never => {
                self.children.remove(&ended.device);
            }
            state::Restart::After(pause) => {
                child.restarts = state::forgive(child.restarts, child.started, now) + 1;
                child.waiting_to_restart = true;
                metrics()
                    .actor_restarts_total
                    .with_label_values(&[Poller::NAME, label])
                    .inc();
                log::error!(
                    user_id:% = ended.device.user_id,
                    cause = label,
                    attempt = child.restarts,
                    duration_ms = pause.as_millis();
                    "poller ended, starting a fresh one"
                );
                let device = ended.device;
                ctx.run_later(pause, move |act, ctx| act.restart(ctx, device));
            }
        }
    }
}

impl Handler<Mail<TokenRefused>> for Fleet {
    type Result = ();

    fn handle(&mut self, mail: Mail<TokenRefused>, _: &mut Self::Context) {
        let (refused, _running) = mail.open::<Self>();
        self.tokens
            .refuse(refused.token.expose_secret(), refused.problem.clone());
        let newer = self
            .children
            .get(&refused.device)
            .is_some_and(|child| child.token.expose_secret() != refused.token.expose_secret());
        if newer {
            // The device lives on with another token.
            return;
        }
        (self.end_device)(&refused.device, &refused.problem);
        if !refused.problem.soft_logout {
            let store = self.world.store.clone();
            actix::spawn(async move {
                if let Err(error) = store.forget_token(&refused.device).await {
                    log::warn!(cause:% = error; "dead token could not be forgotten");
                }
            });
        }
    }
}

impl Handler<Mail<EnsureMembers>> for Fleet {
    type Result = ResponseFuture<bool>;

    fn handle(&mut self, mail: Mail<EnsureMembers>, ctx: &mut Self::Context) -> Self::Result {
        let (EnsureMembers { device, room_id }, _running) = mail.open::<Self>();
        let Some(addr) = self.children.get(&device).and_then(|child| child.addr.clone()) else {
            return Box::pin(async { false });
        };
        let (sender, receiver) = oneshot::channel();
        let waiting = self.members.entry(room_id.clone()).or_default();
        waiting.push(sender);
        if waiting.len() == 1 {
            let permits = Arc::clone(&self.member_fetches);
            let fetched = room_id.clone();
            ctx.spawn(
                async move {
                    let _permit = permits.acquire().await;
                    mail::ask(&addr, FetchMembers(fetched), MEMBERS_TIMEOUT)
                        .await
                        .unwrap_or(false)
                }
                .into_actor(self)
                .map(move |stored, act, _| {
                    for waiting in act.members.remove(&room_id).unwrap_or_default() {
                        // A session that gave up waiting is no reason to worry.
                        let _ = waiting.send(stored);
                    }
                }),
            );
        }
        Box::pin(async move { receiver.await.unwrap_or(false) })
    }
}

impl Handler<Mail<Resume>> for Fleet {
    type Result = ();

    fn handle(&mut self, mail: Mail<Resume>, ctx: &mut Self::Context) {
        let (_, _running) = mail.open::<Self>();
        let store = self.world.store.clone();
        ctx.spawn(
            async move { store.devices().await }
                .into_actor(self)
                .map(|devices, act, ctx| match devices {
                    Ok(_) if act.stopping => {}
                    Ok(mut devices) => {
                        devices.sort_by_key(|record| std::cmp::Reverse(record.last_seen));
                        let now = act.world.clock.now();
                        let mut started = 0;
                        for mut record in devices {
                            let Some(token) = record.token.take() else { continue };
                            if act.children.contains_key(&record.device)
                                || state::is_idle(record.last_seen, now, act.idle_hours)
                            {
                                continue;
                            }
                            act.start(ctx, record, token, false);
                            started += 1;
                        }
                        log::info!(count = started; "pollers of known devices resumed");
                    }
                    Err(error) => {
                        log::error!(cause:% = error; "known devices cannot be read, trying again");
                        ctx.run_later(Duration::from_secs(5), |_, ctx| {
                            // Bounded: one after each failure.
                            mail::tell(&ctx.address(), Resume);
                        });
                    }
                }),
        );
    }
}

impl Handler<Mail<StopAll>> for Fleet {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, mail: Mail<StopAll>, _: &mut Self::Context) -> Self::Result {
        let (_, _running) = mail.open::<Self>();
        self.stopping = true;
        let (sender, receiver) = oneshot::channel();
        self.all_stopped.push(sender);
        for addr in self.children.values().filter_map(|child| child.addr.as_ref()) {
            // Bounded: one per poller, once.
            mail::tell(addr, Stop);
        }
        self.report_if_all_stopped();
        Box::pin(async move {
            if tokio::time::timeout(ASK_TIMEOUT, receiver).await.is_err() {
                log::warn!("some pollers did not stop in time");
            }
        })
    }
}

impl Handler<Observe> for Fleet {
    type Result = MessageResult<Observe>;

    fn handle(&mut self, _: Observe, _: &mut Self::Context) -> Self::Result {
        MessageResult(state_value(&FleetState {
            pollers: self.children.len(),
            running: self.children.values().filter(|child| child.addr.is_some()).count(),
            waiting_to_restart: self.children.values().filter(|child| child.waiting_to_restart).count(),
            member_lists_under_way: self.members.len(),
            stopping: self.stopping,
        }))
    }
}
