//! What a poller asks the homeserver beside `/sync`: state in doubt, rooms without a beginning, whole member lists, and
//! which rooms the user is in at all.

use std::collections::HashSet;

use secrecy::{ExposeSecret, SecretString};

use crate::actors::mail;
use crate::actors::poller::PollerWorld;
use crate::actors::poller::run::{BARRIER_TIMEOUT, Loop};
use crate::actors::room_cache::messages::Barrier;
use crate::ids::{RoomId, UserId};
use crate::model::batch::{Batch, JoinedRoom, LeftRoom, MemberList, StateKey, StateRepair};
use crate::model::room::Membership;
use crate::store::Ingested;
use crate::upstream::client::Homeserver;

/// Entries in doubt that are fetched one by one (upstream.md 4.5, rule 2).
const MAX_DOUBTS: usize = 20;

impl Loop {
    /// Ends the rooms that the database holds as joined although the homeserver does not: a first response does not
    /// mention rooms that were left while nobody polled (upstream.md 2.7).
    pub(super) async fn reconcile(&self, stored: &str) {
        let user_id = self.device.user_id.clone();
        // Read before the homeserver is asked, so that a join in between is not taken for a leave.
        let held = match self.world.store.user_snapshot(user_id).await {
            Ok(held) => held,
            Err(error) => {
                log::warn!(user_id:% = self.device.user_id, cause:% = error; "rooms are not reconciled");
                return;
            }
        };
        let sent_at = self.world.clock.moment();
        let token = self.shared.token.borrow().clone();
        let joined: HashSet<RoomId> = match self.homeserver.joined_rooms(token.expose_secret()).await {
            Ok(joined) => joined.into_iter().collect(),
            Err(error) => {
                log::info!(user_id:% = self.device.user_id, cause:% = error; "rooms are not reconciled");
                return;
            }
        };
        let mut batch = Batch::empty(self.device.clone(), Some(stored.to_owned()));
        batch.sent_at = sent_at;
        batch.received_at = self.world.clock.moment();
        batch.left = held
            .rooms
            .into_iter()
            .filter(|room| room.membership == Membership::Join && !joined.contains(&room.room_id))
            .map(|room| LeftRoom {
                room_id: room.room_id,
                state: Vec::new(),
                timeline: Vec::new(),
                limited: false,
                prev_batch: None,
            })
            .collect();
        if batch.left.is_empty() {
            return;
        }
        log::info!(user_id:% = self.device.user_id, rooms = batch.left.len(); "rooms left while nobody polled");
        // A failure to store is reported where it happens; the next first sync reconciles again.
        let _ = self.ingest(batch).await;
    }

    /// Asks the homeserver where two responses disagreed or a room came without its beginning.
    pub(super) async fn repair(&self, ingested: &Ingested) {
        let token = self.shared.token.borrow().clone();
        for (room_id, key) in ingested.doubts.iter().take(MAX_DOUBTS) {
            self.resolve(&token, room_id, key).await;
        }
        for room_id in ingested.rooms_without_create.iter().take(MAX_DOUBTS) {
            let sent_at = self.world.clock.moment();
            let state = match self.homeserver.state(token.expose_secret(), room_id).await {
                Ok(state) => state,
                Err(error) => {
                    log::warn!(room_id:%, cause:% = error; "state of a room without create event is not to be had");
                    continue;
                }
            };
            let Ok(since) = self.stored_position().await else {
                return;
            };
            let mut batch = Batch::empty(self.device.clone(), since);
            batch.sent_at = sent_at;
            batch.received_at = self.world.clock.moment();
            let mut room = JoinedRoom::empty(room_id.clone());
            room.state = state;
            room.limited = true;
            batch.joined.push(room);
            if let Err((error, _)) = self.world.store.ingest(batch).await {
                log::warn!(room_id:%, cause:% = error; "state of a room could not be stored");
            }
        }
    }

    async fn resolve(&self, token: &SecretString, room_id: &RoomId, key: &StateKey) {
        let sent_at = self.world.clock.moment();
        let event = match self.homeserver.state_entry(token.expose_secret(), room_id, key).await {
            Ok(event) => event,
            Err(error) => {
                log::debug!(room_id:%, cause:% = error; "state entry in doubt stays in doubt");
                return;
            }
        };
        let repair = StateRepair {
            room_id: room_id.clone(),
            user_id: self.device.user_id.clone(),
            key: key.clone(),
            event,
            sent_at,
            received_at: self.world.clock.moment(),
        };
        if let Err(error) = self.world.store.repair(repair).await {
            log::warn!(room_id:%, cause:% = error; "state entry could not be repaired");
        }
    }
}

/// Fetches and stores a room's whole member list. Returns whether it is stored.
pub(crate) async fn fetch_members(
    world: &PollerWorld,
    homeserver: &Homeserver,
    token: &SecretString,
    user_id: UserId,
    room_id: RoomId,
) -> bool {
    let sent_at = world.clock.moment();
    let members = match homeserver.members(token.expose_secret(), &room_id).await {
        Ok(members) => members,
        Err(error) => {
            log::warn!(room_id:%, cause:% = error; "member list could not be fetched");
            return false;
        }
    };
    let count = members.len();
    let list = MemberList {
        room_id: room_id.clone(),
        user_id,
        members,
        sent_at,
        received_at: world.clock.moment(),
    };
    match world.store.members(list).await {
        Ok(_) => {
            log::info!(room_id:%, events = count; "member list stored");
            mail::ask(&world.room_cache, Barrier, BARRIER_TIMEOUT).await.is_ok()
        }
        Err(error) => {
            log::warn!(room_id:%, cause:% = error; "member list could not be stored");
            false
        }
    }
}
