//! One cache per user with live sessions: the user's room list and personal facts, shared by all sessions of all the
//! user's devices.

pub mod messages;
pub mod state;

use std::collections::HashMap;

use actix::{
    Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context, Handler, MessageResult, ResponseFuture,
    WrapFuture,
};
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

use crate::actors::exit::Exit;
use crate::actors::mail::{self, Kind, Mail, Offered};
use crate::actors::observe::{Listing, Naming, Observatory, Observe, state_value};
use crate::actors::room_cache::RoomCache;
use crate::actors::room_cache::messages::{Enlist, Subscribe, Unsubscribe};
use crate::actors::user_cache::messages::{
    Attach, Attached, CacheError, Detach, KeepIndexes, Lagged, Notice, SessionNotice, StopCache,
};
use crate::actors::user_cache::state::CacheState;
use crate::ids::UserId;
use crate::model::change::Changed;
use crate::model::room::Membership;
use crate::store::{Store, UserSnapshot};

/// Kind of the actors that attach here.
pub const SESSION_KIND: &str = "session";
/// How long the room cache may take to answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(30);
/// Notices held back while the cache loads; beyond it, loading starts over.
const MAX_PENDING: usize = 1000;

struct Listener {
    recipient: actix::Recipient<Mail<SessionNotice>>,
    lagged: bool,
}

enum Phase {
    Loading { pending: Vec<Notice> },
    Ready(Box<CacheState>),
}

/// The actor.
pub struct UserCache {
    user_id: UserId,
    store: Store,
    room_cache: Addr<RoomCache>,
    observatory: Observatory,
    naming: Naming,
    phase: Phase,
    waiting: Vec<(Attach, oneshot::Sender<Result<Attached, CacheError>>)>,
    sessions: HashMap<u64, Listener>,
    /// Which attempt at loading counts; earlier ones that finish late do not.
    loads: u64,
    exit: Option<Exit>,
    listing: Option<Listing>,
}

#[derive(Serialize)]
struct UserCacheState {
    user: String,
    loaded: bool,
    rooms: usize,
    sessions: usize,
    position: i64,
}

impl Kind for UserCache {
    const NAME: &'static str = "user_cache";
}

impl UserCache {
    /// Returns a cache that loads itself once its actor runs.
    pub fn new(
        user_id: UserId,
        store: Store,
        room_cache: Addr<RoomCache>,
        observatory: Observatory,
        naming: Naming,
    ) -> Self {
        Self {
            user_id,
            store,
            room_cache,
            observatory,
            naming,
            phase: Phase::Loading { pending: Vec::new() },
            waiting: Vec::new(),
            sessions: HashMap::new(),
            loads: 0,
            exit: None,
            listing: None,
        }
    }

    /// Subscribes, then reads: what is committed in between arrives as a notice, and notices that the read already
    /// covers are recognised by their position.
    fn load(&mut self, ctx: &mut Context<Self>) {
        self.phase = Phase::Loading { pending: Vec::new() };
        self.loads += 1;
        let load = self.loads;
        let subscribe = Subscribe {
            user_id: self.user_id.clone(),
            cache: ctx.address(),
        };
        let (room_cache, store, user_id) = (self.room_cache.clone(), self.store.clone(), self.user_id.clone());
        let work = async move {
            let failed = |cause: String| CacheError::Store(cause);
            mail::ask(&room_cache, subscribe, ASK_TIMEOUT)
                .await
                .map_err(|e| failed(e.to_string()))?;
            let snapshot = store
                .user_snapshot(user_id.clone())
                .await
                .map_err(|e| failed(e.to_string()))?;
            let joined = snapshot.rooms.iter().filter(|room| room.membership == Membership::Join);
            let enlist = Enlist {
                user_id,
                rooms: joined.map(|room| Arc::clone(&room.summary)).collect(),
            };
            let shared = mail::ask(&room_cache, enlist, ASK_TIMEOUT)
                .await
                .map_err(|e| failed(e.to_string()))?;
            Ok::<_, CacheError>((snapshot, shared))
        };
        ctx.spawn(work.into_actor(self).map(move |loaded, act, ctx| match loaded {
            _ if act.loads != load => {}
            Ok((snapshot, shared)) => act.loaded(snapshot, shared, ctx),
            Err(error) => {
                for (_, reply) in act.waiting.drain(..) {
                    // Whoever asked may have given up.
                    let _ = reply.send(Err(error.clone()));
                }
                act.exit = Some(Exit::Failed(error.to_string()));
                ctx.stop();
            }
        }));
    }

    fn loaded(
        &mut self,
        snapshot: UserSnapshot,
        shared: Vec<Arc<crate::model::room::RoomSummary>>,
        ctx: &mut Context<Self>,
    ) {
        let Phase::Loading { pending } = &mut self.phase else {
            return;
        };
        let pending = std::mem::take(pending);
        if pending.len() >= MAX_PENDING {
            self.load(ctx);
            return;
        }
        let mut state = CacheState::new(self.user_id.clone(), snapshot);
        state.share(shared);
        for notice in &pending {
            // Nobody is attached yet, so nobody needs to hear of it.
            state.apply(notice);
        }
        self.phase = Phase::Ready(Box::new(state));
        for (attach, reply) in std::mem::take(&mut self.waiting) {
            let attached = self.attach(attach);
            // Whoever asked may have given up; the registry then detaches the session.
            let _ = reply.send(attached);
        }
    }

    fn attach(&mut self, attach: Attach) -> Result<Attached, CacheError> {
        let Phase::Ready(state) = &self.phase else {
            return Err(CacheError::Store("rooms are being read".to_owned()));
        };
        self.sessions.insert(
            attach.session,
            Listener {
                recipient: attach.recipient,
                lagged: false,
            },
        );
        Ok(Attached {
            view: state.view.clone(),
            indexes: state.indexes.clone(),
        })
    }

    /// Tells every session that it must not go on.
    fn dismiss_sessions(&mut self) {
        for (_, listener) in self.sessions.drain() {
            // Bounded: one per session, which hears nothing more from here.
            mail::tell_to(&listener.recipient, SESSION_KIND, SessionNotice::Missed);
        }
    }

    fn fan_out(&mut self, changed: Changed) {
        let changed = Arc::new(changed);
        self.sessions.retain(|_, listener| {
            let notice = if listener.lagged {
                SessionNotice::Missed
            } else {
                SessionNotice::Changed(Arc::clone(&changed))
            };
            match mail::offer_to(&listener.recipient, SESSION_KIND, notice) {
                Offered::Taken => !listener.lagged,
                Offered::Full => {
                    listener.lagged = true;
                    true
                }
                Offered::Closed => false,
            }
        });
    }
}

impl Actor for UserCache {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(64);
        self.listing = Some(self.observatory.enlist(ctx.address()));
        self.load(ctx);
    }

    fn stopped(&mut self, ctx: &mut Self::Context) {
        if let Some(listing) = self.listing.take() {
            self.observatory.dismiss(&listing, self.exit.as_ref());
        }
        // Also after a panic: a session that hears nothing more would show its client an ever older world.
        self.dismiss_sessions();
        // Bounded: one per life of a cache.
        mail::tell(
            &self.room_cache,
            Unsubscribe {
                user_id: self.user_id.clone(),
                cache: ctx.address(),
            },
        );
    }
}

impl Handler<Mail<Notice>> for UserCache {
    type Result = ();

    fn handle(&mut self, mail: Mail<Notice>, _: &mut Self::Context) {
        let (notice, _running) = mail.open::<Self>();
        match &mut self.phase {
            Phase::Loading { pending } => {
                if pending.len() < MAX_PENDING {
                    pending.push(notice);
                }
            }
            Phase::Ready(state) => {
                if let Some(changed) = state.apply(&notice) {
                    self.fan_out(changed);
                }
            }
        }
    }
}

impl Handler<Mail<Lagged>> for UserCache {
    type Result = ();

    fn handle(&mut self, mail: Mail<Lagged>, ctx: &mut Self::Context) {
        let (_, _running) = mail.open::<Self>();
        log::warn!("a user's cache fell behind and reads everything anew");
        self.dismiss_sessions();
        self.load(ctx);
    }
}

impl Handler<Mail<Attach>> for UserCache {
    type Result = ResponseFuture<Result<Attached, CacheError>>;

    fn handle(&mut self, mail: Mail<Attach>, _: &mut Self::Context) -> Self::Result {
        let (attach, _running) = mail.open::<Self>();
        if matches!(self.phase, Phase::Ready(_)) {
            let attached = self.attach(attach);
            return Box::pin(async move { attached });
        }
        let (sender, receiver) = oneshot::channel();
        self.waiting.push((attach, sender));
        Box::pin(async move {
            receiver
                .await
                .unwrap_or_else(|_| Err(CacheError::Store("cache stopped while reading".to_owned())))
        })
    }
}

impl Handler<Mail<Detach>> for UserCache {
    type Result = ();

    fn handle(&mut self, mail: Mail<Detach>, _: &mut Self::Context) {
        let (Detach(session), _running) = mail.open::<Self>();
        self.sessions.remove(&session);
    }
}

impl Handler<Mail<KeepIndexes>> for UserCache {
    type Result = ();

    fn handle(&mut self, mail: Mail<KeepIndexes>, _: &mut Self::Context) {
        let (KeepIndexes(built), _running) = mail.open::<Self>();
        if let Phase::Ready(state) = &mut self.phase {
            for (_, list, position) in built {
                // A list sorted before a change that has arrived since would be wrong for ever.
                if position == state.indexes.position() {
                    state.indexes.insert(list);
                }
            }
        }
    }
}

impl Handler<Mail<StopCache>> for UserCache {
    type Result = ();

    fn handle(&mut self, mail: Mail<StopCache>, ctx: &mut Self::Context) {
        let (_, _running) = mail.open::<Self>();
        if self.sessions.is_empty() && self.waiting.is_empty() {
            self.exit = Some(Exit::Idle);
            ctx.stop();
        }
    }
}

impl Handler<Observe> for UserCache {
    type Result = MessageResult<Observe>;

    fn handle(&mut self, _: Observe, _: &mut Self::Context) -> Self::Result {
        let (loaded, rooms, position) = match &self.phase {
            Phase::Loading { .. } => (false, 0, 0),
            Phase::Ready(state) => (true, state.view.rooms.len(), state.view.position.0),
        };
        MessageResult(state_value(&UserCacheState {
            user: self.naming.of(self.user_id.as_str()),
            loaded,
            rooms,
            sessions: self.sessions.len(),
            position,
        }))
    }
}
