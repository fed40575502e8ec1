//! Tests of the store, each on SQLite and, with `TEST_POSTGRES_URL`, on Postgres.

mod devices;
mod opening;
mod rooms;
mod speed;
mod timelines;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use diesel::prelude::*;
use secrecy::SecretString;
use serde_json::json;
use serde_json::value::RawValue;

use super::*;
use crate::clock::{Moment, TestClock};
use crate::ids::RoomId;
use crate::model::batch::{AccountData, JoinedRoom, LeftRoom, StrippedRoom};
use crate::model::change::{Committed, RoomChange};
use crate::model::event::{Event, ReceivedEvent};
use crate::model::load::{LoadedRoom, RoomPlan, StateSelector};

const ROOM: &str = "!r:h";

/// A database of a test's own, which goes away with it.
struct Base {
    url: String,
    directory: tempfile::TempDir,
    drop_with: Option<(String, String)>,
}

impl Base {
    fn sqlite() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self {
            url: directory.path().join("s.db").to_str().unwrap().to_owned(),
            directory,
            drop_with: None,
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the tests' own setting, not the program's")]
    fn postgres() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let Ok(server) = std::env::var("TEST_POSTGRES_URL") else {
            eprintln!("TEST_POSTGRES_URL is not set: the Postgres half is skipped");
            return None;
        };
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("store_test_{}_{number}", std::process::id());
        let mut c = <PgConnection as diesel::Connection>::establish(&server).unwrap();
        diesel::sql_query(format!("CREATE DATABASE {name}"))
            .execute(&mut c)
            .unwrap();
        let (front, _) = server.rsplit_once('/').unwrap();
        Some(Self {
            url: format!("{front}/{name}"),
            directory: tempfile::tempdir().unwrap(),
            drop_with: Some((server, name)),
        })
    }

    fn options(&self, secret: &str) -> StoreOptions {
        StoreOptions {
            url: self.url.clone(),
            secret: Some(SecretString::from(secret.to_owned())),
            previous_secret: None,
            max_connections: 3,
            idle_timeout: None,
            timeline_keep: 100,
            debug_assertions: false,
        }
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        if let Some((server, name)) = &self.drop_with
            && let Ok(mut c) = <PgConnection as diesel::Connection>::establish(server)
        {
            let _ = diesel::sql_query(format!("DROP DATABASE {name} WITH (FORCE)")).execute(&mut c);
        }
    }
}

/// A store with what it told.
struct World {
    store: Store,
    heard: Arc<Mutex<Vec<Arc<Committed>>>>,
    clock: TestClock,
    moment: Arc<std::sync::atomic::AtomicI64>,
}

impl World {
    fn open(options: StoreOptions) -> Result<Self, Error> {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let clock = TestClock::default();
        let listener = heard.clone();
        let store = Store::open(
            options,
            Arc::new(clock.clone()),
            Box::new(move |committed| listener.lock().unwrap().push(committed)),
            Box::new(|_| {}),
        )?;
        Ok(Self {
            store,
            heard,
            clock,
            moment: Arc::default(),
        })
    }

    /// Stores a batch as the device's next response, sent after everything before was in.
    async fn next(&self, device: &DeviceKey, change: impl FnOnce(&mut Batch)) -> Ingested {
        let since = self.since(device).await;
        let mut batch = Batch::empty(device.clone(), since.clone());
        batch.next_batch = Some(format!("{}+", since.unwrap_or_default()));
        let moment = self.moment.fetch_add(10, Ordering::SeqCst) + 10;
        batch.sent_at = Moment(moment);
        batch.received_at = Moment(moment + 5);
        change(&mut batch);
        let ingested = self.store.ingest(batch).await.map_err(|(error, _)| error).unwrap();
        assert_eq!(ingested.outcome, Outcome::Stored);
        ingested
    }

    async fn since(&self, device: &DeviceKey) -> Option<String> {
        self.store
            .device(device.clone())
            .await
            .unwrap()
            .and_then(|row| row.since)
    }

    /// The newest commit.
    fn last(&self) -> Arc<Committed> {
        self.heard.lock().unwrap().last().unwrap().clone()
    }

    /// What the newest commit changed in a room for its user.
    fn change<T>(&self, look: impl FnOnce(&RoomChange) -> T) -> T {
        let committed = self.last();
        let user = committed.user.as_ref().unwrap();
        assert_eq!(user.rooms.len(), 1);
        look(&user.rooms[0])
    }

    async fn load(&self, device: &DeviceKey, room_id: &str, change: impl FnOnce(&mut LoadPlan)) -> Option<LoadedRoom> {
        let mut plan = plan(device);
        plan.rooms.push(RoomPlan {
            room_id: RoomId::from(room_id),
            timeline_limit: 50,
            state: StateSelector {
                everything: true,
                ..StateSelector::default()
            },
            account_data: true,
            receipts: true,
        });
        change(&mut plan);
        self.store.load(plan).await.unwrap().rooms.remove(room_id)
    }

    /// The IDs of the timeline a user is served.
    async fn timeline(&self, device: &DeviceKey) -> Vec<String> {
        self.load(device, ROOM, |_| {})
            .await
            .map_or_else(Vec::new, |room| ids(&room.timeline))
    }

    /// The current name of the room as state.
    async fn name(&self, device: &DeviceKey) -> Option<String> {
        let room = self.load(device, ROOM, |_| {}).await?;
        let event = room.state.iter().find(|event| &*event.event_type == "m.room.name")?;
        Some(event.event_id.as_str().to_owned())
    }
}

fn plan(device: &DeviceKey) -> LoadPlan {
    LoadPlan {
        device: device.clone(),
        at: Position::MAX,
        rooms: Vec::new(),
        to_device: None,
        device_lists: None,
        account_data: true,
    }
}

fn ids(events: &[Arc<Event>]) -> Vec<String> {
    events.iter().map(|event| event.event_id.as_str().to_owned()).collect()
}

fn run<F: Future<Output = ()>>(test: F) {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
        .block_on(test);
}

/// Runs a test on each database; afterwards the database must still hold together.
fn each(test: impl AsyncFn(&World)) {
    for base in [Some(Base::sqlite()), Base::postgres()].into_iter().flatten() {
        let world = World::open(base.options("s")).unwrap();
        run(async {
            test(&world).await;
            world.store.integrity_check().await.unwrap();
        });
        assert!(world.store.is_alive());
        world.store.close();
    }
}

fn device(user: &str) -> DeviceKey {
    DeviceKey::new(format!("@{user}:h"), "D")
}

fn raw(value: &serde_json::Value) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).unwrap()
}

fn event(value: serde_json::Value) -> ReceivedEvent {
    Event::receive(&raw(&value)).unwrap()
}

fn message(id: &str) -> ReceivedEvent {
    event(
        json!({"type": "m.room.message", "event_id": id, "sender": "@x:h", "origin_server_ts": 5,
                 "content": {"body": id}}),
    )
}

fn state(id: &str, kind: &str, key: &str, content: serde_json::Value) -> ReceivedEvent {
    event(
        json!({"type": kind, "state_key": key, "event_id": id, "sender": "@x:h", "origin_server_ts": 5,
                 "content": content}),
    )
}

fn create() -> ReceivedEvent {
    state("$create", "m.room.create", "", json!({"room_version": "10"}))
}

fn named(id: &str, name: &str) -> ReceivedEvent {
    state(id, "m.room.name", "", json!({"name": name}))
}

fn member(id: &str, user: &str, membership: &str) -> ReceivedEvent {
    state(
        id,
        "m.room.member",
        &format!("@{user}:h"),
        json!({"membership": membership}),
    )
}

/// A part of a response with one joined room.
fn joined(timeline: Vec<ReceivedEvent>) -> JoinedRoom {
    JoinedRoom {
        timeline,
        ..JoinedRoom::empty(RoomId::from(ROOM))
    }
}

/// The same as the user's first contact with the room.
fn first(timeline: Vec<ReceivedEvent>) -> JoinedRoom {
    JoinedRoom {
        state: vec![create()],
        limited: true,
        prev_batch: Some("p0".to_owned()),
        ..joined(timeline)
    }
}

fn messages(ids: &[&str]) -> Vec<ReceivedEvent> {
    ids.iter().map(|id| message(id)).collect()
}

fn left(timeline: Vec<ReceivedEvent>) -> LeftRoom {
    LeftRoom {
        room_id: RoomId::from(ROOM),
        state: Vec::new(),
        timeline,
        limited: false,
        prev_batch: None,
    }
}

fn invited(from: &str) -> StrippedRoom {
    StrippedRoom {
        room_id: RoomId::from(ROOM),
        events: vec![raw(
            &json!({"type": "m.room.member", "state_key": "@a:h", "sender": from, "content": {"membership": "invite"}}),
        )],
    }
}

fn account_data(kind: &str, content: serde_json::Value) -> AccountData {
    AccountData {
        kind: kind.to_owned(),
        raw: raw(&json!({"type": kind, "content": content})),
    }
}
