//! One room cache, shared by all: the current summary of every room in use, and who among the users with live caches
//! is in it. It hears every commit in order and passes on what concerns whom. It knows only rooms in use, so its memory
//! follows the number of connected users and not the size of the database.

pub mod messages;

use std::collections::HashMap;
use std::sync::Arc;

use actix::{Actor, Addr, AsyncContext, Context, Handler, MessageResult};
use serde::Serialize;

use crate::actors::mail::{self, Kind, Mail, Offered};
use crate::actors::observe::{Listing, Observatory, Observe, state_value};
use crate::actors::room_cache::messages::{Barrier, Commit, Enlist, Subscribe, SummaryChanged, Unsubscribe};
use crate::actors::user_cache::UserCache;
use crate::actors::user_cache::messages::{Lagged, Notice};
use crate::ids::{RoomId, UserId};
use crate::model::change::{Committed, Ended};
use crate::model::position::Position;
use crate::model::room::{Membership, RoomSummary};

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;
type Set<K> = std::collections::HashSet<K, foldhash::fast::RandomState>;

struct Room {
    summary: Arc<RoomSummary>,
    /// Users with live caches who are joined.
    members: Set<UserId>,
}

struct Live {
    cache: Addr<UserCache>,
    rooms: Set<RoomId>,
    lagged: bool,
}

/// The actor.
pub struct RoomCache {
    rooms: Map<RoomId, Room>,
    users: Map<UserId, Live>,
    position: Position,
    observatory: Observatory,
    listing: Option<Listing>,
}

#[derive(Serialize)]
struct RoomCacheState {
    position: Position,
    rooms: usize,
    users: usize,
}

impl Kind for RoomCache {
    const NAME: &'static str = "room_cache";
}

impl RoomCache {
    /// Returns an empty cache.
    pub fn new(observatory: Observatory) -> Self {
        Self {
            rooms: Map::default(),
            users: Map::default(),
            position: Position::ZERO,
            observatory,
            listing: None,
        }
    }

    fn join(&mut self, user_id: &UserId, summary: &Arc<RoomSummary>) {
        let Some(live) = self.users.get_mut(user_id) else {
            return;
        };
        live.rooms.insert(summary.room_id.clone());
        let room = self.rooms.entry(summary.room_id.clone()).or_insert_with(|| Room {
            summary: Arc::clone(summary),
            members: Set::default(),
        });
        room.members.insert(user_id.clone());
    }

    fn part(&mut self, user_id: &UserId, room_id: &RoomId) {
        if let Some(live) = self.users.get_mut(user_id) {
            live.rooms.remove(room_id);
        }
        if let Some(room) = self.rooms.get_mut(room_id) {
            room.members.remove(user_id);
            if room.members.is_empty() {
                self.rooms.remove(room_id);
            }
        }
    }

    fn pass_on(&mut self, committed: &Arc<Committed>) {
        self.position = committed.position;
        for summary in &committed.summaries {
            if let Some(room) = self.rooms.get_mut(&summary.room_id) {
                room.summary = Arc::clone(summary);
            }
        }
        let own = committed.user.as_ref().map(|change| change.device.user_id.clone());
        let mut notices: Map<UserId, Notice> = Map::default();
        let notice = |notices: &mut Map<UserId, Notice>, user_id: &UserId, add: &dyn Fn(&mut Notice)| {
            add(notices
                .entry(user_id.clone())
                .or_insert_with(|| Notice::new(committed.position)));
        };
        for ended in &committed.ended {
            let Ended { user_id, room_id, .. } = ended;
            if self.users.contains_key(user_id) {
                notice(&mut notices, user_id, &|notice| notice.ended.push(ended.clone()));
            }
            self.part(user_id, room_id);
        }
        match &committed.user {
            Some(change) => {
                if self.users.contains_key(&change.device.user_id) {
                    for room in &change.rooms {
                        if room.room.membership == Membership::Join {
                            self.join(&change.device.user_id, &room.room.summary);
                        } else {
                            self.part(&change.device.user_id, &room.room.room_id);
                        }
                    }
                    notice(&mut notices, &change.device.user_id, &|notice| {
                        notice.committed = Some(Arc::clone(committed));
                    });
                }
            }
            // Nobody's poller brought this, so that nobody else will tell the members.
            None => {
                for summary in &committed.summaries {
                    let Some(room) = self.rooms.get(&summary.room_id) else {
                        continue;
                    };
                    for user_id in &room.members {
                        notice(&mut notices, user_id, &|notice| {
                            notice.summaries.push(SummaryChanged {
                                room_id: summary.room_id.clone(),
                                summary: Arc::clone(summary),
                            });
                        });
                    }
                }
            }
        }
        // Who is put out of a room hears it before the user whose poller brought it.
        if let Some(own) = &own
            && let Some(own_notice) = notices.remove(own)
        {
            self.send_all(notices);
            self.send(own, own_notice);
        } else {
            self.send_all(notices);
        }
    }

    fn send_all(&mut self, notices: Map<UserId, Notice>) {
        for (user_id, notice) in notices {
            self.send(&user_id, notice);
        }
    }

    fn send(&mut self, user_id: &UserId, notice: Notice) {
        let Some(live) = self.users.get_mut(user_id) else {
            return;
        };
        if live.lagged {
            // It will read everything anew; what came meanwhile is in the store.
            match mail::offer(&live.cache, Lagged) {
                Offered::Taken => live.lagged = false,
                Offered::Full => {}
                Offered::Closed => self.forget(user_id),
            }
            return;
        }
        match mail::offer(&live.cache, notice) {
            Offered::Taken => {}
            Offered::Full => live.lagged = true,
            Offered::Closed => self.forget(user_id),
        }
    }

    fn forget(&mut self, user_id: &UserId) {
        if let Some(live) = self.users.remove(user_id) {
            for room_id in &live.rooms {
                if let Some(room) = self.rooms.get_mut(room_id) {
                    room.members.remove(user_id);
                    if room.members.is_empty() {
                        self.rooms.remove(room_id);
                    }
                }
            }
        }
    }
}

impl Actor for RoomCache {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(1024);
        self.listing = Some(self.observatory.enlist(ctx.address()));
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        if let Some(listing) = self.listing.take() {
            // It is only ever stopped with its thread; anything else is a panic, and the server must not go on
            // without it: `app` watches its address.
            self.observatory.dismiss(&listing, None);
        }
    }
}

impl Handler<Mail<Commit>> for RoomCache {
    type Result = ();

    fn handle(&mut self, mail: Mail<Commit>, _: &mut Self::Context) {
        let (Commit(committed), _running) = mail.open::<Self>();
        self.pass_on(&committed);
    }
}

impl Handler<Mail<Barrier>> for RoomCache {
    type Result = ();

    fn handle(&mut self, mail: Mail<Barrier>, _: &mut Self::Context) {
        let (_, _running) = mail.open::<Self>();
        // A user who lagged during the last commit would otherwise wait for the next one to hear of it.
        let lagging: Vec<_> = self
            .users
            .iter()
            .filter(|(_, live)| live.lagged)
            .map(|(id, _)| id.clone())
            .collect();
        for user_id in lagging {
            self.send(&user_id, Notice::new(self.position));
        }
    }
}

impl Handler<Mail<Subscribe>> for RoomCache {
    type Result = ();

    fn handle(&mut self, mail: Mail<Subscribe>, _: &mut Self::Context) {
        let (Subscribe { user_id, cache }, _running) = mail.open::<Self>();
        self.forget(&user_id);
        self.users.insert(
            user_id,
            Live {
                cache,
                rooms: Set::default(),
                lagged: false,
            },
        );
    }
}

impl Handler<Mail<Unsubscribe>> for RoomCache {
    type Result = ();

    fn handle(&mut self, mail: Mail<Unsubscribe>, _: &mut Self::Context) {
        let (Unsubscribe { user_id, cache }, _running) = mail.open::<Self>();
        if self.users.get(&user_id).is_some_and(|live| live.cache == cache) {
            self.forget(&user_id);
        }
    }
}

impl Handler<Mail<Enlist>> for RoomCache {
    type Result = MessageResult<Mail<Enlist>>;

    fn handle(&mut self, mail: Mail<Enlist>, _: &mut Self::Context) -> Self::Result {
        let (Enlist { user_id, rooms }, _running) = mail.open::<Self>();
        let shared = rooms
            .iter()
            .map(|summary| {
                self.join(&user_id, summary);
                self.rooms
                    .get(&summary.room_id)
                    .map_or_else(|| Arc::clone(summary), |room| Arc::clone(&room.summary))
            })
            .collect();
        MessageResult(shared)
    }
}

impl Handler<Observe> for RoomCache {
    type Result = MessageResult<Observe>;

    fn handle(&mut self, _: Observe, _: &mut Self::Context) -> Self::Result {
        MessageResult(state_value(&RoomCacheState {
            position: self.position,
            rooms: self.rooms.len(),
            users: self.users.len(),
        }))
    }
}
