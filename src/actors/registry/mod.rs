//! One registry: it finds or starts sessions and user caches, expires idle ones, and ends them at logout.

pub mod messages;

use std::collections::HashMap;
use std::time::Duration;

use actix::{
    Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, MessageResult, ResponseActFuture, WrapFuture,
};
use serde::Serialize;

use crate::actors::exit::Exit;
use crate::actors::mail::{self, Kind, Mail};
use crate::actors::observe::{Listing, Observe, state_value};
use crate::actors::place::Handles;
use crate::actors::registry::messages::{EndDevice, FindSession, RegistryError, SessionEnded, StopSessions};
use crate::actors::room_cache::RoomCache;
use crate::actors::session::messages::{End, EndReason};
use crate::actors::session::{Begin, Session, SessionWorld};
use crate::actors::user_cache::UserCache;
use crate::actors::user_cache::messages::{Attach, StopCache};
use crate::clock::Moment;
use crate::ids::{ConnId, DeviceKey, UserId};
use crate::protocol::msc3575::conn::{Connection, Limits};

/// A connection without requests for this long is dropped (msc3575.md 5.6).
const SESSION_IDLE_MS: i64 = 30 * 60 * 1000;
/// A user's cache outlives the last session by this long, so that a client that reconnects finds it warm.
const CACHE_IDLE_MS: i64 = 10 * 60 * 1000;
/// Parallel connections of one device; the least recently used goes first (msc3575.md 5.1).
const MAX_SESSIONS_PER_DEVICE: usize = 10;
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// Reading a large account's rooms for the first time takes a moment.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(30);

struct Handle {
    id: u64,
    addr: Addr<Session<Connection>>,
    last_used: Moment,
}

struct Cache {
    addr: Addr<UserCache>,
    /// When the user last had a session.
    in_use: Moment,
}

/// The actor.
pub struct Registry {
    world: SessionWorld,
    room_cache: Addr<RoomCache>,
    places: Handles,
    sessions: HashMap<DeviceKey, HashMap<ConnId, Handle>, foldhash::fast::RandomState>,
    caches: HashMap<UserId, Cache, foldhash::fast::RandomState>,
    ids: u64,
    stopping: bool,
    listing: Option<Listing>,
}

#[derive(Serialize)]
struct RegistryState {
    devices: usize,
    sessions: usize,
    user_caches: usize,
}

impl Kind for Registry {
    const NAME: &'static str = "registry";
}

impl Registry {
    /// Returns a registry without sessions.
    pub fn new(world: SessionWorld, room_cache: Addr<RoomCache>, places: Handles) -> Self {
        Self {
            world,
            room_cache,
            places,
            sessions: HashMap::default(),
            caches: HashMap::default(),
            ids: 0,
            stopping: false,
            listing: None,
        }
    }

    fn cache(&mut self, user_id: &UserId) -> Addr<UserCache> {
        let now = self.world.clock.moment();
        if let Some(cache) = self.caches.get_mut(user_id)
            && cache.addr.connected()
        {
            cache.in_use = now;
            return cache.addr.clone();
        }
        let (user, store, room_cache) = (user_id.clone(), self.world.store.clone(), self.room_cache.clone());
        let (observatory, naming) = (self.world.observatory.clone(), self.world.naming);
        let addr = self.places.user(user_id, move |_| {
            UserCache::new(user, store, room_cache, observatory, naming)
        });
        self.caches.insert(
            user_id.clone(),
            Cache {
                addr: addr.clone(),
                in_use: now,
            },
        );
        addr
    }

    fn remove(&mut self, device: &DeviceKey, conn_id: &ConnId, reason: EndReason) {
        if let Some(connections) = self.sessions.get_mut(device)
            && let Some(handle) = connections.remove(conn_id)
        {
            if connections.is_empty() {
                self.sessions.remove(device);
            }
            // Bounded: one per life of a session.
            mail::tell(&handle.addr, End(reason));
        }
    }

    /// Makes room for one more session of the device.
    fn limit(&mut self, device: &DeviceKey) {
        while let Some(connections) = self.sessions.get(device)
            && connections.len() >= MAX_SESSIONS_PER_DEVICE
            && let Some((conn_id, _)) = connections.iter().min_by_key(|(_, handle)| handle.last_used)
        {
            let conn_id = conn_id.clone();
            self.remove(device, &conn_id, EndReason::Replaced);
        }
    }

    fn sweep(&mut self) {
        let now = self.world.clock.moment();
        let idle: Vec<_> = self
            .sessions
            .iter()
            .flat_map(|(device, connections)| {
                connections
                    .iter()
                    .map(move |(conn_id, handle)| (device, conn_id, handle))
            })
            .filter(|(_, _, handle)| now.0 - handle.last_used.0 > SESSION_IDLE_MS)
            .map(|(device, conn_id, _)| (device.clone(), conn_id.clone()))
            .collect();
        for (device, conn_id) in idle {
            self.remove(&device, &conn_id, EndReason::Idle);
        }
        for device in self.sessions.keys() {
            if let Some(cache) = self.caches.get_mut(&device.user_id) {
                cache.in_use = now;
            }
        }
        self.caches.retain(|_, cache| {
            if now.0 - cache.in_use.0 > CACHE_IDLE_MS {
                mail::offer(&cache.addr, StopCache);
                return false;
            }
            cache.addr.connected()
        });
    }
}

impl Actor for Registry {
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

impl Handler<Mail<FindSession>> for Registry {
    type Result = ResponseActFuture<Self, Result<Addr<Session<Connection>>, RegistryError>>;

    fn handle(&mut self, mail: Mail<FindSession>, ctx: &mut Self::Context) -> Self::Result {
        let (FindSession { device, conn_id, fresh }, running) = mail.open::<Self>();
        if self.stopping {
            return Box::pin(actix::fut::ready(Err(RegistryError::Stopping)));
        }
        if !fresh {
            let now = self.world.clock.moment();
            let known = self
                .sessions
                .get_mut(&device)
                .and_then(|connections| connections.get_mut(&conn_id))
                .filter(|handle| handle.addr.connected())
                .map(|handle| {
                    handle.last_used = now;
                    handle.addr.clone()
                });
            return Box::pin(actix::fut::ready(known.ok_or(RegistryError::Unknown)));
        }
        self.remove(&device, &conn_id, EndReason::Replaced);
        self.limit(&device);
        self.ids += 1;
        let id = self.ids;
        let cache = self.cache(&device.user_id);
        let nonce = format!("{:016x}", rand::random::<u64>());
        let conn = Connection::new(
            device.clone(),
            conn_id.clone(),
            nonce,
            self.world.store.epoch().to_owned(),
            Limits::default(),
        );
        let (owner, registry, world, session_cache) =
            (device.clone(), ctx.address(), self.world.clone(), cache.clone());
        let addr = self.places.user(&device.user_id, move |_| {
            Session::new(id, owner, conn, session_cache, registry, world)
        });
        let attach = Attach {
            session: id,
            recipient: addr.clone().recipient(),
        };
        let session = addr.clone();
        Box::pin(
            async move {
                let _running = running;
                match mail::ask(&cache, attach, ATTACH_TIMEOUT).await {
                    Ok(Ok(attached)) => mail::ask(&session, Begin(attached), ATTACH_TIMEOUT)
                        .await
                        .map_err(|error| RegistryError::Unavailable(error.to_string())),
                    Ok(Err(error)) => Err(RegistryError::Unavailable(error.to_string())),
                    Err(error) => Err(RegistryError::Unavailable(error.to_string())),
                }
            }
            .into_actor(self)
            .map(move |ready, act, _| {
                if let Err(error) = ready {
                    // Bounded: one per life of a session.
                    mail::tell(&addr, End(EndReason::Replaced));
                    return Err(error);
                }
                if act.stopping {
                    mail::tell(&addr, End(EndReason::Shutdown));
                    return Err(RegistryError::Stopping);
                }
                // Others may have come while this one was made ready.
                act.limit(&device);
                let now = act.world.clock.moment();
                let connections = act.sessions.entry(device).or_default();
                let handle = Handle {
                    id,
                    addr: addr.clone(),
                    last_used: now,
                };
                if let Some(older) = connections.insert(conn_id, handle) {
                    // Two requests without `pos` at once: the later one wins.
                    mail::tell(&older.addr, End(EndReason::Replaced));
                }
                Ok(addr)
            }),
        )
    }
}

impl Handler<Mail<SessionEnded>> for Registry {
    type Result = ();

    fn handle(&mut self, mail: Mail<SessionEnded>, _: &mut Self::Context) {
        let (SessionEnded { device, session }, _running) = mail.open::<Self>();
        if let Some(connections) = self.sessions.get_mut(&device) {
            connections.retain(|_, handle| handle.id != session);
            if connections.is_empty() {
                self.sessions.remove(&device);
            }
        }
    }
}

impl Handler<Mail<EndDevice>> for Registry {
    type Result = ();

    fn handle(&mut self, mail: Mail<EndDevice>, _: &mut Self::Context) {
        let (EndDevice { device, problem }, _running) = mail.open::<Self>();
        if problem.soft_logout {
            for handle in self.sessions.get(&device).into_iter().flat_map(HashMap::values) {
                // Bounded: one for each refusal of the homeserver.
                mail::tell(&handle.addr, crate::actors::session::TokenPaused(problem.clone()));
            }
            return;
        }
        for handle in self.sessions.remove(&device).into_iter().flat_map(HashMap::into_values) {
            mail::tell(&handle.addr, End(EndReason::Token(problem.clone())));
        }
    }
}

impl Handler<Mail<StopSessions>> for Registry {
    type Result = ();

    fn handle(&mut self, mail: Mail<StopSessions>, _: &mut Self::Context) {
        let (_, _running) = mail.open::<Self>();
        self.stopping = true;
        for handle in self
            .sessions
            .drain()
            .flat_map(|(_, connections)| connections.into_values())
        {
            // Bounded: one per session, once.
            mail::tell(&handle.addr, End(EndReason::Shutdown));
        }
    }
}

impl Handler<Observe> for Registry {
    type Result = MessageResult<Observe>;

    fn handle(&mut self, _: Observe, _: &mut Self::Context) -> Self::Result {
        MessageResult(state_value(&RegistryState {
            devices: self.sessions.len(),
            sessions: self.sessions.values().map(HashMap::len).sum(),
            user_caches: self.caches.len(),
        }))
    }
}
