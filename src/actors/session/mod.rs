//! One session per user, device, connection and protocol: it parks requests until there is something to say. What to
//! say is the protocol's business; this actor only keeps the order: hear changes first, read second, wait third.

pub mod messages;
mod serve;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use actix::{Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context, Handler, MessageResult, WrapFuture};
use serde::Serialize;
use tokio::sync::{Mutex, Notify};

use crate::actors::exit::Exit;
use crate::actors::fleet::Fleet;
use crate::actors::mail::{self, Kind, Mail};
use crate::actors::metrics::metrics;
use crate::actors::observe::{Listing, Naming, Observatory, Observe, state_value};
use crate::actors::poller::messages::TokenProblem;
use crate::actors::registry::Registry;
use crate::actors::registry::messages::SessionEnded;
use crate::actors::session::messages::{End, EndReason, Serve};
use crate::actors::user_cache::messages::{Attached, Detach, SessionNotice};
use crate::actors::user_cache::{SESSION_KIND, UserCache};
use crate::clock::Clock;
use crate::ids::DeviceKey;
use crate::model::change::Changed;
use crate::model::user_view::UserView;
use crate::protocol::Protocol;
use crate::store::Store;

/// Changes that wait for a client to come back; beyond it the connection is dead (msc3575.md 5.6).
const MAX_QUEUE: usize = 2000;

/// What a session needs of the world.
#[derive(Clone)]
pub struct SessionWorld {
    /// Where answers are read from.
    pub store: Store,
    /// To fetch member lists.
    pub fleet: Addr<Fleet>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Listing of actors.
    pub observatory: Observatory,
    /// How users are named in the listing.
    pub naming: Naming,
}

/// What the requests of one session share.
pub(crate) struct Shared<P> {
    pub(crate) conn: RefCell<P>,
    pub(crate) view: RefCell<UserView>,
    pub(crate) queue: RefCell<VecDeque<Arc<Changed>>>,
    /// Wakes the request that waits, when something is queued or the session ends.
    pub(crate) wake: Notify,
    /// Number of the newest request; older ones answer at once.
    pub(crate) newest: Cell<u64>,
    pub(crate) ending: RefCell<Option<EndReason>>,
    /// The token is refused for now: the request that waits is told so, the session stays.
    pub(crate) paused: RefCell<Option<TokenProblem>>,
    pub(crate) turn: Mutex<()>,
    pub(crate) waiting: Cell<bool>,
    pub(crate) served: Cell<u64>,
}

/// The actor.
pub struct Session<P: Protocol> {
    id: u64,
    device: DeviceKey,
    shared: Rc<Shared<P>>,
    cache: Addr<UserCache>,
    registry: Addr<Registry>,
    world: SessionWorld,
    exit: Option<Exit>,
    listing: Option<Listing>,
}

#[derive(Serialize)]
struct SessionState {
    user: String,
    device: String,
    queued: usize,
    waiting: bool,
    served: u64,
    position: i64,
}

impl<P: Protocol> Kind for Session<P> {
    const NAME: &'static str = SESSION_KIND;
}

impl<P: Protocol> Session<P> {
    /// Returns a session that has just been created; [`Attached`] follows as its first message.
    pub fn new(
        id: u64,
        device: DeviceKey,
        conn: P,
        cache: Addr<UserCache>,
        registry: Addr<Registry>,
        world: SessionWorld,
    ) -> Self {
        let view = UserView::empty(device.user_id.clone());
        Self {
            id,
            device,
            shared: Rc::new(Shared {
                conn: RefCell::new(conn),
                view: RefCell::new(view),
                queue: RefCell::new(VecDeque::new()),
                wake: Notify::new(),
                newest: Cell::new(0),
                ending: RefCell::new(None),
                paused: RefCell::new(None),
                turn: Mutex::new(()),
                waiting: Cell::new(false),
                served: Cell::new(0),
            }),
            cache,
            registry,
            world,
            exit: None,
            listing: None,
        }
    }

    fn end(&mut self, reason: EndReason, ctx: &mut Context<Self>) {
        self.exit = Some(match &reason {
            EndReason::Replaced | EndReason::Idle => Exit::Idle,
            EndReason::Token(_) => Exit::LoggedOut,
            EndReason::Shutdown => Exit::Shutdown,
        });
        self.shared.ending.borrow_mut().get_or_insert(reason);
        self.shared.wake.notify_one();
        // Whoever waits is answered before the actor is gone.
        let shared = Rc::clone(&self.shared);
        ctx.spawn(
            async move { drop(shared.turn.lock().await) }
                .into_actor(self)
                .map(|(), _, ctx| ctx.stop()),
        );
    }

    fn fail(&mut self, cause: &str, ctx: &mut Context<Self>) {
        log::info!(user_id:% = self.device.user_id, cause = cause; "session ends, its client will start a new one");
        self.exit = Some(Exit::Failed(cause.to_owned()));
        ctx.stop();
    }
}

impl<P: Protocol> Actor for Session<P> {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(64);
        self.listing = Some(self.world.observatory.enlist(ctx.address()));
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        if let Some(listing) = self.listing.take() {
            self.world.observatory.dismiss(&listing, self.exit.as_ref());
        }
        // Bounded: one each per life of a session.
        mail::tell(&self.cache, Detach(self.id));
        mail::tell(
            &self.registry,
            SessionEnded {
                device: self.device.clone(),
                session: self.id,
            },
        );
    }
}

/// Brings the view that the session starts from. Sent before any request.
#[derive(actix::Message)]
#[rtype(result = "()")]
pub struct Begin(pub Attached);

impl<P: Protocol> Handler<Mail<Begin>> for Session<P> {
    type Result = ();

    fn handle(&mut self, mail: Mail<Begin>, _: &mut Self::Context) {
        let (Begin(attached), _running) = mail.open::<Self>();
        let mut conn = self.shared.conn.borrow_mut();
        conn.with_indexes(attached.indexes);
        *self.shared.view.borrow_mut() = attached.view;
    }
}

impl<P: Protocol> Handler<Mail<SessionNotice>> for Session<P> {
    type Result = ();

    fn handle(&mut self, mail: Mail<SessionNotice>, ctx: &mut Self::Context) {
        let (notice, _running) = mail.open::<Self>();
        let SessionNotice::Changed(changed) = notice else {
            self.fail("changes were missed", ctx);
            return;
        };
        let mut queue = self.shared.queue.borrow_mut();
        if queue.len() >= MAX_QUEUE {
            drop(queue);
            self.fail("too many changes wait for the client", ctx);
            return;
        }
        queue.push_back(changed);
        self.shared.wake.notify_one();
    }
}

impl<P: Protocol> Handler<Mail<Serve<P>>> for Session<P> {
    type Result = ();

    fn handle(&mut self, mail: Mail<Serve<P>>, ctx: &mut Self::Context) {
        let (request, running) = mail.open::<Self>();
        drop(running);
        let number = self.shared.newest.get() + 1;
        self.shared.newest.set(number);
        // An older request that waits answers at once with what it has.
        self.shared.wake.notify_one();
        let serving = serve::Serving {
            shared: Rc::clone(&self.shared),
            world: self.world.clone(),
            device: self.device.clone(),
            cache: self.cache.clone(),
            number,
        };
        // Inside the actor: a panic ends this session, and only this one.
        ctx.spawn(serving.run(request).into_actor(self));
    }
}

impl<P: Protocol> Handler<Mail<End>> for Session<P> {
    type Result = ();

    fn handle(&mut self, mail: Mail<End>, ctx: &mut Self::Context) {
        let (End(reason), _running) = mail.open::<Self>();
        self.end(reason, ctx);
    }
}

/// The homeserver wants a new token for the device; the request that waits is answered so, the session stays.
#[derive(Debug, actix::Message)]
#[rtype(result = "()")]
pub struct TokenPaused(pub TokenProblem);

impl<P: Protocol> Handler<Mail<TokenPaused>> for Session<P> {
    type Result = ();

    fn handle(&mut self, mail: Mail<TokenPaused>, _: &mut Self::Context) {
        let (TokenPaused(problem), _running) = mail.open::<Self>();
        if self.shared.waiting.get() {
            self.shared.paused.replace(Some(problem));
            self.shared.wake.notify_one();
        }
    }
}

impl<P: Protocol> Handler<Observe> for Session<P> {
    type Result = MessageResult<Observe>;

    fn handle(&mut self, _: Observe, _: &mut Self::Context) -> Self::Result {
        MessageResult(state_value(&SessionState {
            user: self.world.naming.of(self.device.user_id.as_str()),
            device: self.world.naming.of(self.device.device_id.as_str()),
            queued: self.shared.queue.borrow().len(),
            waiting: self.shared.waiting.get(),
            served: self.shared.served.get(),
            position: self.shared.view.borrow().position.0,
        }))
    }
}

pub(crate) fn observe_wait(protocol: &str, seconds: f64) {
    metrics()
        .sync_wait_seconds
        .with_label_values(&[protocol])
        .observe(seconds);
}
