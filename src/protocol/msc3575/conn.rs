//! One MSC3575 connection: parameters that stick, lists that move, answers that can be asked for again.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use super::device::Tokens;
use super::live;
use super::output::{Pending, Planned, RoomOutput, Snapshot, Want};
use super::render::{E2eeBody, Extensions, ListResult, ListResults, Response, RoomBody, ToDeviceBody};
use super::replay::{Replay, Verdict};
use super::state::{State, membership};
use super::sticky::{Dialect, List, ListParameters, RoomParameters};
use super::wire::{self, Body, ExtensionsRequest, ListRequest, Lists, MIN_TIMEOUT_MS, Request};
use crate::ids::{ConnId, DeviceKey, RoomId, UserId};
use crate::model::change::{Changed, RoomUpdate};
use crate::model::load::{LoadPlan, Loaded, LoadedRoom, RoomPlan, StateSelector};
use crate::model::position::Position;
use crate::model::room::Membership;
use crate::model::user_view::UserView;
use crate::protocol::sliding::list::{ListIndexes, ListSpec, SortedList};
use crate::protocol::sliding::required_state;
use crate::protocol::{Accepted, Acknowledgement, Answer, Protocol, Refusal};

/// Bounds of one connection; those of single requests are in [`wire`].
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most rooms subscribed at a time.
    pub subscriptions: usize,
    /// Most answers kept for a client that does not take them.
    pub answers: usize,
    /// Most to-device messages per answer, whatever the client asks for.
    pub to_device: usize,
    /// Most device-list changes per answer.
    pub device_lists: usize,
    /// Most changes kept to be applied again after failures; beyond, the connection is lost.
    pub backlog: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            subscriptions: 2000,
            answers: 32,
            to_device: 1000,
            device_lists: 2000,
            backlog: 2000,
        }
    }
}

/// One connection of one device.
#[derive(Debug)]
pub struct Connection {
    device: DeviceKey,
    conn_id: ConnId,
    tokens: Tokens,
    limits: Limits,
    replay: Replay,
    pub(super) state: State,
    // What to return to if the request being processed fails.
    saved: Option<State>,
    pending: Option<Pending>,
    // Changes applied for the request being processed.
    journal: Vec<Changed>,
    // Changes that a failed request had applied.
    backlog: Vec<Changed>,
    indexes: ListIndexes,
    built: Vec<(ListSpec, SortedList, Position)>,
}

impl Connection {
    /// Returns a new connection. `nonce` must be random: it makes positions unlike those of other connections. `epoch`
    /// identifies the database: to-device tokens of another one count as none.
    pub fn new(device: DeviceKey, conn_id: ConnId, nonce: String, epoch: String, limits: Limits) -> Self {
        Self {
            tokens: Tokens::new(&epoch, &device),
            replay: Replay::new(nonce, limits.answers.max(2)),
            state: State::new(UserView::empty(device.user_id.clone())),
            device,
            conn_id,
            limits,
            saved: None,
            pending: None,
            journal: Vec::new(),
            backlog: Vec::new(),
            indexes: ListIndexes::default(),
            built: Vec::new(),
        }
    }

    /// Returns the client's name for the connection.
    pub fn conn_id(&self) -> &ConnId {
        &self.conn_id
    }

    fn sorted(&mut self, spec: &Arc<ListSpec>) -> SortedList {
        let position = self.state.view.position;
        if self.indexes.position() == position
            && let Some(list) = self.indexes.find(spec)
        {
            return list;
        }
        let list = SortedList::build(&self.state.view, Arc::clone(spec));
        self.built.push((ListSpec::clone(spec), list.clone(), position));
        list
    }

    /// Merges the request into the state and collects what follows at once.
    fn begin(&mut self, pending: &mut Pending, body: &Body) -> Result<(), Refusal> {
        for (room_id, want) in std::mem::take(&mut self.state.owed) {
            pending.want(&room_id, &want);
        }
        match &body.lists {
            None => {}
            Some(Lists::Map(lists)) => {
                if let Dialect::Array(_) = self.state.dialect {
                    return Err(mixed());
                }
                self.state.dialect = Dialect::Map;
                for (name, request) in lists {
                    self.merge_list(pending, name, request, request.deleted);
                }
            }
            Some(Lists::Array(lists)) => {
                if self.state.dialect == Dialect::Map {
                    return Err(mixed());
                }
                self.state.dialect = Dialect::Array(lists.len());
                let names: Vec<String> = (0..lists.len()).map(|index| index.to_string()).collect();
                self.state.lists.retain(|name, _| names.contains(name));
                for (name, request) in names.iter().zip(lists) {
                    self.merge_list(pending, name, request, false);
                }
            }
        }
        let count = self.state.lists.len();
        if count > wire::MAX_LISTS {
            let limit = wire::MAX_LISTS;
            return Err(Refusal::InvalidParam(format!("too many lists: {count} > {limit}")));
        }
        self.merge_subscriptions(pending, body)?;
        self.merge_extensions(pending, &body.extensions);
        Ok(())
    }

    fn merge_list(&mut self, pending: &mut Pending, name: &str, request: &ListRequest, deleted: bool) {
        let known = self.state.lists.get(name).cloned();
        let list = match known {
            // A list that is not there cannot be deleted either.
            None if deleted => return,
            None => {
                let parameters = ListParameters::new(request);
                let list = List {
                    sorted: self.sorted(&parameters.spec),
                    parameters: Arc::new(parameters),
                };
                list.sync_windows(name, pending);
                list
            }
            Some(_) if deleted => {
                self.state.lists.remove(name);
                return;
            }
            Some(old) => {
                let parameters = old.parameters.merged(request);
                let sorted = if parameters.spec == old.parameters.spec {
                    old.sorted.clone()
                } else {
                    self.sorted(&parameters.spec)
                };
                let list = List {
                    sorted,
                    parameters: Arc::new(parameters),
                };
                old.change_to(&list, name, pending);
                list
            }
        };
        self.state.lists.insert(name.to_owned(), list);
    }

    fn merge_subscriptions(&mut self, pending: &mut Pending, body: &Body) -> Result<(), Refusal> {
        let state = &mut self.state;
        for (room_id, request) in &body.room_subscriptions {
            if body.unsubscribe_rooms.contains(room_id) {
                continue;
            }
            let new = RoomParameters::new(request);
            let old = state.subscriptions.get(room_id);
            let changed = old
                .is_none_or(|old| old.required_state != new.required_state || old.timeline_limit != new.timeline_limit);
            if changed && state.is_joined(room_id) {
                pending.want(room_id, &Want::from(&new));
            }
            state.subscriptions.insert(room_id.clone(), Arc::new(new));
        }
        for room_id in &body.unsubscribe_rooms {
            state.subscriptions.remove(room_id);
        }
        let (count, limit) = (state.subscriptions.len(), self.limits.subscriptions);
        if count > limit {
            return Err(Refusal::InvalidParam(format!(
                "too many room subscriptions: {count} > {limit}"
            )));
        }
        Ok(())
    }

    fn merge_extensions(&mut self, pending: &mut Pending, extensions: &ExtensionsRequest) {
        let state = &mut self.state;
        if let Some(request) = &extensions.to_device
            && let Some(up_to) = state.to_device.merge(request, &self.tokens, self.limits.to_device)
        {
            pending.acknowledgements.push(Acknowledgement::ToDevice { up_to });
        }
        if let Some(request) = &extensions.e2ee {
            state.e2ee.merge(request);
        }
        if let Some(request) = &extensions.account_data {
            state.account_data.merge(request);
        }
        let received = self.replay.received_device_list_seq();
        // A request without a position proves nothing.
        if pending.position.is_some()
            && let Some(up_to) = state.e2ee.acknowledge(received)
        {
            pending.acknowledgements.push(Acknowledgement::DeviceLists { up_to });
        }
    }

    fn apply_to(&mut self, pending: &mut Pending, changed: &Changed) {
        if changed.position <= self.state.view.position {
            return;
        }
        live::apply(&mut self.state, pending, changed, &self.device.device_id);
        self.journal.push(copy(changed));
    }

    /// Asks for what one room still lacks.
    fn plan_room(&self, room_id: &RoomId, output: &mut RoomOutput) -> Option<(RoomPlan, Planned)> {
        let user_id = &self.device.user_id;
        let plan = |timeline_limit, state, account_data| RoomPlan {
            room_id: room_id.clone(),
            timeline_limit,
            state,
            account_data,
            receipts: false,
        };
        if let Some(want) = output.want.clone() {
            let state = required_state::selector(&want.required_state, user_id);
            let account_data = self.state.wants_account_data(room_id);
            return Some((plan(want.timeline_limit, state, account_data), Planned::Snapshot(want)));
        }
        if !output.lazy || output.ended {
            return None;
        }
        let mut members = BTreeSet::new();
        for live in output.live_after_snapshot() {
            let event = &live.event;
            let is_copy =
                &*event.event_type == "m.room.member" && event.state_key.as_deref() == Some(event.sender.as_str());
            if !is_copy && !self.state.has_member(room_id, &event.sender) {
                members.insert(event.sender.clone());
            }
        }
        if members.is_empty() {
            return None;
        }
        let state = StateSelector {
            members: members.clone(),
            ..StateSelector::default()
        };
        Some((plan(0, state, false), Planned::Members(members)))
    }

    fn absorb_room(&mut self, pending: &mut Pending, room_id: RoomId, planned: Planned, loaded: Option<LoadedRoom>) {
        let at = pending.planned.0;
        let Some(output) = pending.rooms.get_mut(&room_id).filter(|output| !output.ended) else {
            return;
        };
        match (planned, loaded) {
            (Planned::Snapshot(_), None) => {
                pending.rooms.remove(&room_id);
            }
            (Planned::Snapshot(want), Some(mut loaded)) => {
                self.state.sent_members(&room_id, member_ids(&loaded).iter());
                let account_data = std::mem::take(&mut loaded.account_data);
                pending.account_data.load_room(&room_id, account_data);
                if output.want.as_ref() == Some(&want) {
                    output.want = None;
                }
                output.members.clear();
                output.snapshot = Some(Snapshot { want, at, loaded });
            }
            (Planned::Members(members), loaded) => {
                // Those that were not found will not be found next time either.
                self.state.sent_members(&room_id, members.iter());
                output
                    .members
                    .extend(loaded.map(|loaded| loaded.state).unwrap_or_default());
            }
        }
    }

    /// Builds the answer. Says of each room what is complete; what is not stays owed.
    fn answer(&mut self, pending: &mut Pending) -> Answer {
        settle(&self.state, pending);
        for (room_id, output) in &mut pending.rooms {
            if let Some(want) = output.want.take() {
                self.state.owed.insert(room_id.clone(), want);
            }
        }
        let facts = self.state.device(&self.device.device_id);
        let state = &self.state;
        let mut rooms = std::collections::BTreeMap::new();
        for (room_id, output) in &pending.rooms {
            if let Some(body) = RoomBody::new(output, state.entry(room_id), &self.device.user_id) {
                rooms.insert(room_id, body);
            }
        }
        let to_device = state.to_device.enabled.then(|| ToDeviceBody {
            next_batch: self.tokens.print(pending.to_device.next_batch(&state.to_device)),
            events: pending.to_device.messages.iter().map(|(_, raw)| &**raw).collect(),
        });
        let e2ee = E2eeBody {
            device_one_time_keys_count: state.e2ee.new_keys(&facts).map(|keys| &**keys),
            device_unused_fallback_key_types: state.e2ee.new_types(&facts).map(|types| &**types),
            device_lists: Some(&pending.device_lists).filter(|lists| !lists.is_empty()),
        };
        let has_e2ee = e2ee.device_one_time_keys_count.is_some()
            || e2ee.device_unused_fallback_key_types.is_some()
            || e2ee.device_lists.is_some();
        let response = Response {
            pos: self.replay.token(self.replay.next_number()),
            txn_id: pending.txn_id.as_deref(),
            lists: list_results(state, pending),
            rooms,
            extensions: Extensions {
                to_device,
                e2ee: has_e2ee.then_some(e2ee),
                account_data: pending.account_data.body(),
            },
        };
        let body =
            serde_json::to_vec(&response).expect("only strings, numbers and raw JSON are written, and to memory");
        self.state.e2ee.sent(&facts);
        Answer {
            body: Bytes::from(body),
        }
    }
}

impl Protocol for Connection {
    type Request = Request;

    const NAME: &'static str = "msc3575";

    fn with_indexes(&mut self, indexes: ListIndexes) {
        self.indexes = indexes;
    }

    fn built_indexes(&mut self) -> Vec<(ListSpec, SortedList, Position)> {
        std::mem::take(&mut self.built)
    }

    fn accept(&mut self, request: Request, view: &UserView) -> Result<Accepted, Refusal> {
        self.roll_back();
        let position = match request.pos() {
            None => None,
            Some(token) => Some(self.replay.number(token).ok_or(Refusal::UnknownPos)?),
        };
        let timeout_ms = request.timeout_ms()?;
        if self.backlog.len() > self.limits.backlog && position.is_some() {
            return Err(Refusal::UnknownPos);
        }
        let hurry = match self.replay.judge(position, &request.body)? {
            Verdict::Replay { answer, pause } => return Ok(Accepted::Replay { answer, pause }),
            Verdict::Process { hurry } => hurry,
        };
        self.saved = Some(self.state.clone());
        if position.is_none() {
            self.state = State::new(view.clone());
            self.backlog.clear();
        }
        let Request { txn_id, body, .. } = request;
        let mut pending = Pending::new(position, txn_id, Body::default());
        if let Err(refusal) = self.begin(&mut pending, &body) {
            self.roll_back();
            return Err(refusal);
        }
        pending.body = body;
        for changed in std::mem::take(&mut self.backlog) {
            self.apply_to(&mut pending, &changed);
        }
        self.pending = Some(pending);
        // What is handed in for one request is out of date for the next.
        self.indexes = ListIndexes::default();
        Ok(Accepted::Process {
            timeout_ms: if hurry { MIN_TIMEOUT_MS } else { timeout_ms },
            drain: position.is_some(),
            answer_at_once: position.is_none(),
        })
    }

    fn apply(&mut self, changed: &Changed) {
        if let Some(mut pending) = self.pending.take() {
            self.apply_to(&mut pending, changed);
            self.pending = Some(pending);
        }
    }

    fn plan(&mut self) -> LoadPlan {
        let at = self.state.view.position;
        let mut plan = LoadPlan {
            device: self.device.clone(),
            at,
            rooms: Vec::new(),
            to_device: None,
            device_lists: None,
            account_data: false,
        };
        let Some(mut pending) = self.pending.take() else {
            return plan;
        };
        settle(&self.state, &mut pending);
        pending.planned = (at, Vec::new());
        for (room_id, output) in &mut pending.rooms {
            if let Some((room, planned)) = self.plan_room(room_id, output) {
                plan.rooms.push(room);
                pending.planned.1.push((room_id.clone(), planned));
            }
        }
        let (facts, limits) = (self.state.device(&self.device.device_id), &self.limits);
        plan.to_device = pending.to_device.plan(&self.state.to_device, &facts);
        let acknowledged = self.replay.received_device_list_seq();
        let (e2ee, lists) = (&self.state.e2ee, &mut pending.device_lists);
        plan.device_lists = lists.plan(e2ee, acknowledged, &facts, limits.device_lists);
        plan.account_data = self.state.account_data.enabled
            && !self.state.has_global_account_data
            && !std::mem::replace(&mut pending.account_data.asked, true);
        pending.planned_extensions = (plan.to_device.is_some(), plan.device_lists.is_some(), plan.account_data);
        self.pending = Some(pending);
        plan
    }

    fn absorb(&mut self, mut loaded: Loaded) {
        let Some(mut pending) = self.pending.take() else { return };
        for (room_id, planned) in std::mem::take(&mut pending.planned.1) {
            let room = loaded.rooms.remove(&room_id);
            self.absorb_room(&mut pending, room_id, planned, room);
        }
        let (to_device, device_lists, account_data) = std::mem::take(&mut pending.planned_extensions);
        if to_device {
            pending.to_device.messages = loaded.to_device;
        }
        if device_lists {
            let (seq, limit) = (loaded.device_lists_seq, self.limits.device_lists);
            pending.device_lists.absorb(loaded.device_lists, seq, limit);
        }
        if account_data {
            pending.account_data.load_global(loaded.account_data);
            self.state.has_global_account_data = true;
        }
        self.pending = Some(pending);
    }

    fn has_news(&self) -> bool {
        let Some(pending) = &self.pending else { return false };
        let facts = self.state.device(&self.device.device_id);
        !pending.ops.is_empty()
            || pending.rooms.values().any(|output| !output.is_empty())
            || !pending.account_data.is_empty()
            || !pending.to_device.messages.is_empty()
            || !pending.device_lists.is_empty()
            || self.state.e2ee.new_keys(&facts).is_some()
            || self.state.e2ee.new_types(&facts).is_some()
    }

    fn acknowledgements(&mut self) -> Vec<Acknowledgement> {
        self.pending
            .as_mut()
            .map(|pending| std::mem::take(&mut pending.acknowledgements))
            .unwrap_or_default()
    }

    fn render(&mut self) -> Arc<Answer> {
        let nothing = || Pending::new(None, None, Body::default());
        let mut pending = self.pending.take().unwrap_or_else(nothing);
        let answer = self.answer(&mut pending);
        self.saved = None;
        self.journal.clear();
        let device_list_seq = pending.device_lists.seq;
        self.replay
            .store(pending.position, pending.body, answer, device_list_seq)
    }

    fn roll_back(&mut self) {
        self.pending = None;
        if let Some(saved) = self.saved.take() {
            self.state = saved;
        }
        let mut again = std::mem::take(&mut self.journal);
        again.append(&mut self.backlog);
        self.backlog = again;
    }

    fn revoke(&mut self, room_id: &RoomId) {
        self.state.owed.remove(room_id);
        if let Some(mut pending) = self.pending.take() {
            live::revoke(&mut self.state, &mut pending, room_id);
            self.pending = Some(pending);
        }
    }
}

fn mixed() -> Refusal {
    Refusal::InvalidParam("lists must keep the shape they had before: an object or an array".to_owned())
}

/// Settles the wishes that need nothing read: invites have it all in the view, and other rooms have nothing to show.
fn settle(state: &State, pending: &mut Pending) {
    let at = state.view.position;
    pending.rooms.retain(|room_id, output| {
        match (output.want.is_some(), membership(state.entry(room_id))) {
            (false, _) | (true, Some(Membership::Join)) => {}
            (true, Some(Membership::Invite)) => {
                let want = output.want.take().unwrap_or_default();
                let loaded = LoadedRoom::default();
                output.snapshot = Some(Snapshot { want, at, loaded });
            }
            (true, Some(Membership::Knock | Membership::Leave | Membership::Ban) | None) => output.want = None,
        }
        output.want.is_some() || !output.is_empty()
    });
}

fn list_results<'a>(state: &'a State, pending: &'a Pending) -> ListResults<'a> {
    let result = |name: &str, list: &List| ListResult {
        count: list.sorted.len(),
        ops: pending.ops.get(name).map(Vec::as_slice).unwrap_or_default(),
    };
    match state.dialect {
        Dialect::Open | Dialect::Map => {
            let lists = state.lists.iter();
            ListResults::Map(lists.map(|(name, list)| (name.as_str(), result(name, list))).collect())
        }
        Dialect::Array(length) => {
            let names = (0..length).map(|index| index.to_string());
            let lists = names.filter_map(|name| Some(result(&name, state.lists.get(&name)?)));
            ListResults::Array(lists.collect())
        }
    }
}

fn member_ids(loaded: &LoadedRoom) -> Vec<UserId> {
    let members = loaded
        .state
        .iter()
        .filter(|event| &*event.event_type == "m.room.member");
    members
        .filter_map(|event| event.state_key.as_deref().map(UserId::from))
        .collect()
}

fn copy(changed: &Changed) -> Changed {
    let rooms = changed.rooms.iter().map(|update| RoomUpdate {
        room_id: update.room_id.clone(),
        change: update.change.clone(),
    });
    Changed {
        position: changed.position,
        view: changed.view.clone(),
        rooms: rooms.collect(),
        account_data: changed.account_data.clone(),
        device_id: changed.device_id.clone(),
    }
}
