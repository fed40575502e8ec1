//! One poller per user and device: the v2 loop. It owns the position, the back-off and the token in use; it decides
//! nothing about rooms and shows nothing to clients.

pub mod messages;
mod repair;
mod run;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorContext, Addr, AsyncContext, Context, Handler, MessageResult, ResponseFuture, WrapFuture,
    fut::ActorFutureExt,
};
use secrecy::SecretString;
use serde::Serialize;
use tokio::sync::{Notify, Semaphore, watch};

use crate::actors::exit::Exit;
use crate::actors::fleet::Fleet;
use crate::actors::fleet::messages::PollerEnded;
use crate::actors::mail::{self, Kind, Mail};
use crate::actors::observe::{Listing, Naming, Observatory, Observe, state_value};
use crate::actors::poller::messages::{FetchMembers, Progress, Retire, Stop, TokenProblem, UseToken};
use crate::actors::room_cache::RoomCache;
use crate::clock::{Clock, UnixMillis};
use crate::ids::DeviceKey;
use crate::store::Store;
use crate::upstream::client::{Homeserver, HomeserverOptions};

/// What a poller needs of the world.
#[derive(Clone)]
pub struct PollerWorld {
    /// Where responses go.
    pub store: Store,
    /// How to reach the homeserver.
    pub homeserver: HomeserverOptions,
    /// To wait until what was stored is visible.
    pub room_cache: Addr<RoomCache>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Limits how many pollers catch up at the same moment after a start.
    pub catch_up: Arc<Semaphore>,
    /// Listing of actors.
    pub observatory: Observatory,
    /// How users are named in the listing.
    pub naming: Naming,
}

/// What the loop and the message handlers of one poller share.
pub(crate) struct Shared {
    pub(crate) token: RefCell<SecretString>,
    pub(crate) token_changed: Notify,
    pub(crate) ending: RefCell<Option<Exit>>,
    pub(crate) end: Notify,
    pub(crate) hurry: Cell<bool>,
    pub(crate) hurried: Notify,
    pub(crate) progress: watch::Sender<Progress>,
    pub(crate) state: RefCell<PollerState>,
}

/// What a poller says of itself.
#[derive(Clone, Debug, Serialize)]
pub struct PollerState {
    /// Fingerprint or ID of the user.
    pub user: String,
    /// Fingerprint or ID of the device.
    pub device: String,
    /// What it is doing.
    pub phase: Phase,
    /// When the last response was stored, Unix ms.
    pub last_response: Option<UnixMillis>,
    /// Failures since then.
    pub failures_in_a_row: u32,
    /// The last failure.
    pub last_failure: Option<String>,
    /// Bytes received of the response under way or last read.
    pub bytes_received: u64,
    /// Rooms of the first sync stored so far, and how many there are.
    pub rooms_stored: usize,
    /// How many rooms the first sync has; 0 until known.
    pub rooms_total: usize,
    /// Whether the device was ever in sync.
    pub has_synced: bool,
}

/// The phases of a poller's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Waiting for its turn to catch up.
    Queued,
    /// First sync ever: waiting for the homeserver.
    FirstSync,
    /// First request after a start.
    CatchingUp,
    /// Long-polling.
    Polling,
    /// Storing a response.
    Storing,
    /// Waiting after a failure.
    BackingOff,
    /// Waiting for a new token.
    Paused,
}

/// The actor.
pub struct Poller {
    device: DeviceKey,
    shared: Rc<Shared>,
    world: PollerWorld,
    fleet: Addr<Fleet>,
    generation: u64,
    start: Option<Start>,
    exit: Option<Exit>,
    listing: Option<Listing>,
}

/// Where a poller begins.
pub struct Start {
    /// Position stored for the device.
    pub since: Option<String>,
    /// Whether the device was ever in sync.
    pub has_synced: bool,
    /// Token to use.
    pub token: SecretString,
    /// Whether a client is waiting, so that it does not queue for its turn.
    pub urgent: bool,
}

impl Kind for Poller {
    const NAME: &'static str = "poller";
}

impl Poller {
    /// Returns a poller that begins at `start` once its actor runs. `generation` tells it from earlier ones of the
    /// same device.
    pub fn new(
        device: DeviceKey,
        start: Start,
        world: PollerWorld,
        fleet: Addr<Fleet>,
        generation: u64,
        progress: watch::Sender<Progress>,
    ) -> Self {
        let shared = Shared {
            token: RefCell::new(start.token.clone()),
            token_changed: Notify::new(),
            ending: RefCell::new(None),
            end: Notify::new(),
            hurry: Cell::new(start.urgent),
            hurried: Notify::new(),
            progress,
            state: RefCell::new(PollerState {
                user: world.naming.of(device.user_id.as_str()),
                device: world.naming.of(device.device_id.as_str()),
                phase: Phase::Queued,
                last_response: None,
                failures_in_a_row: 0,
                last_failure: None,
                bytes_received: 0,
                rooms_stored: 0,
                rooms_total: 0,
                has_synced: start.has_synced,
            }),
        };
        Self {
            device,
            shared: Rc::new(shared),
            world,
            fleet,
            generation,
            start: Some(start),
            exit: None,
            listing: None,
        }
    }

    fn end(&self, exit: Exit) {
        self.shared.ending.borrow_mut().get_or_insert(exit);
        self.shared.end.notify_one();
    }
}

impl Actor for Poller {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(4);
        self.listing = Some(self.world.observatory.enlist(ctx.address()));
        let Some(start) = self.start.take() else {
            self.exit = Some(Exit::Failed("started twice".to_owned()));
            ctx.stop();
            return;
        };
        let homeserver = match client(&self.world.homeserver) {
            Ok(homeserver) => homeserver,
            Err(error) => {
                self.exit = Some(Exit::Failed(error.to_string()));
                ctx.stop();
                return;
            }
        };
        let poll_loop = run::Loop {
            device: self.device.clone(),
            shared: Rc::clone(&self.shared),
            world: self.world.clone(),
            fleet: self.fleet.clone(),
            homeserver,
        };
        // The loop runs inside the actor, so that its panic is the actor's end and the fleet hears of it.
        ctx.spawn(poll_loop.run(start).into_actor(self).map(|exit, act, ctx| {
            act.exit = Some(exit);
            ctx.stop();
        }));
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        if let Some(listing) = self.listing.take() {
            self.world.observatory.dismiss(&listing, self.exit.as_ref());
        }
        // Bounded: one per life of a poller.
        mail::tell(
            &self.fleet,
            PollerEnded {
                device: self.device.clone(),
                generation: self.generation,
                exit: self.exit.clone(),
            },
        );
    }
}

thread_local! {
    static CLIENT: RefCell<Option<Homeserver>> = const { RefCell::new(None) };
}

/// Returns this thread's HTTP client, which all pollers of the thread share together with its connections.
fn client(options: &HomeserverOptions) -> Result<Homeserver, crate::upstream::error::Error> {
    CLIENT.with_borrow_mut(|slot| {
        if let Some(homeserver) = slot {
            return Ok(homeserver.clone());
        }
        let homeserver = Homeserver::new(options)?;
        *slot = Some(homeserver.clone());
        Ok(homeserver)
    })
}

impl Handler<Mail<UseToken>> for Poller {
    type Result = ();

    fn handle(&mut self, mail: Mail<UseToken>, _: &mut Self::Context) {
        let (UseToken(token), _running) = mail.open::<Self>();
        self.shared.token.replace(token);
        self.shared.hurry.set(true);
        self.shared.hurried.notify_one();
        self.shared.token_changed.notify_one();
    }
}

impl Handler<Mail<Retire>> for Poller {
    type Result = ();

    fn handle(&mut self, mail: Mail<Retire>, _: &mut Self::Context) {
        let (_, _running) = mail.open::<Self>();
        self.end(Exit::Idle);
    }
}

impl Handler<Mail<Stop>> for Poller {
    type Result = ();

    fn handle(&mut self, mail: Mail<Stop>, _: &mut Self::Context) {
        let (_, _running) = mail.open::<Self>();
        self.end(Exit::Shutdown);
    }
}

/// How long a member list may take, from the request to the commit.
const MEMBERS_TIMEOUT: Duration = Duration::from_secs(120);

impl Handler<Mail<FetchMembers>> for Poller {
    type Result = ResponseFuture<bool>;

    fn handle(&mut self, mail: Mail<FetchMembers>, _: &mut Self::Context) -> Self::Result {
        let (FetchMembers(room_id), running) = mail.open::<Self>();
        let token = self.shared.token.borrow().clone();
        let world = self.world.clone();
        let user_id = self.device.user_id.clone();
        Box::pin(async move {
            let _running = running;
            let Ok(homeserver) = client(&world.homeserver) else {
                return false;
            };
            let work = repair::fetch_members(&world, &homeserver, &token, user_id, room_id);
            tokio::time::timeout(MEMBERS_TIMEOUT, work).await.unwrap_or(false)
        })
    }
}

impl Handler<Observe> for Poller {
    type Result = MessageResult<Observe>;

    fn handle(&mut self, _: Observe, _: &mut Self::Context) -> Self::Result {
        MessageResult(state_value(&*self.shared.state.borrow()))
    }
}

pub(crate) fn token_problem(error: &crate::upstream::error::Error) -> TokenProblem {
    TokenProblem {
        status: error.status.unwrap_or(401),
        errcode: error.errcode.clone().unwrap_or_else(|| "M_UNKNOWN_TOKEN".to_owned()),
        error: error.message.clone(),
        soft_logout: matches!(
            error.kind,
            crate::upstream::error::ErrorKind::SoftLogout | crate::upstream::error::ErrorKind::Locked
        ),
    }
}
