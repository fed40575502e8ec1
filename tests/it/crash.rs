//! `kill -9` at random moments while messages and to-device messages flow: nothing is lost, nothing acknowledged comes
//! again, and the database stays sound.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::bodies::{joined, message, room_state, v2};
use crate::support::client::Client;
use crate::support::database::Database;
use crate::support::homeserver::Homeserver;
use crate::support::server::Server;

const ROOM: &str = "!r:h";
const TOKEN: &str = "token";
/// Messages and to-device messages pushed between two kills.
const BURST: usize = 4;

fn body(since: Option<&str>) -> Value {
    let mut body = json!({"lists": {"all": {"ranges": [[0, 9]], "timeline_limit": 50}},
        "extensions": {"to_device": {"enabled": true}}});
    if let Some(since) = since {
        body["extensions"]["to_device"]["since"] = json!(since);
    }
    body
}

/// What a careful client knows: it stores what it received, then acknowledges it.
#[derive(Default)]
struct Memory {
    pos: Option<String>,
    since: Option<String>,
    events: BTreeSet<String>,
    /// To-device messages by number, and in which answer they last came.
    messages: BTreeMap<u64, usize>,
    /// Acknowledged by a request that was answered.
    acknowledged: BTreeSet<u64>,
    answers: usize,
}

impl Memory {
    /// One request; `None` when the server is gone.
    async fn step(&mut self, http: &awc::Client, base: &str) -> Option<()> {
        let mut url = format!("{base}/_matrix/client/unstable/org.matrix.msc3575/sync?timeout=100");
        if let Some(pos) = &self.pos {
            url.push_str(&format!("&pos={pos}"));
        }
        let request = http.post(url).bearer_auth(TOKEN);
        let mut response = request.send_json(&body(self.since.as_deref())).await.ok()?;
        let bytes = response.body().limit(1 << 26).await.ok()?;
        let answer: Value = serde_json::from_slice(&bytes).ok()?;
        if response.status() != 200 {
            assert_eq!(answer["errcode"], "M_UNKNOWN_POS", "{answer}");
            self.pos = None;
            return Some(());
        }
        self.answers += 1;
        if self.since.is_some() {
            // The answer proves that the server took the acknowledgement.
            self.acknowledged.extend(self.messages.keys().copied());
        }
        let mut in_this_answer = BTreeSet::new();
        for event in answer["rooms"][ROOM]["timeline"].as_array().into_iter().flatten() {
            let id = event["event_id"].as_str().unwrap();
            assert!(in_this_answer.insert(id.to_owned()), "{id} twice in one answer");
            self.events.insert(id.to_owned());
        }
        let to_device = &answer["extensions"]["to_device"];
        for event in to_device["events"].as_array().into_iter().flatten() {
            let number = event["content"]["n"].as_u64().unwrap();
            assert!(
                !self.acknowledged.contains(&number),
                "message {number} comes after it was acknowledged"
            );
            self.messages.insert(number, self.answers);
        }
        if let Some(since) = to_device["next_batch"].as_str() {
            self.since = Some(since.to_owned());
        }
        self.pos = Some(answer["pos"].as_str().unwrap().to_owned());
        Some(())
    }
}

async fn killed_again_and_again(database: Database, kills: usize) {
    let seed: u64 = rand::random();
    eprintln!("seed {seed}");
    let mut random = seed;
    let mut below = move |limit: u64| {
        // xorshift: all that is needed is moments that differ.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % limit
    };
    let homeserver = Homeserver::start();
    homeserver.register(TOKEN, "@a:h", "A");
    homeserver.push(
        TOKEN,
        joined(
            ROOM,
            room_state(ROOM, "Room", &["@a:h", "@b:h"]),
            vec![message("$0", "@b:h", 1, "x")],
            2,
        ),
    );
    let mut server = Server::start_with(&database, &homeserver.url(), &[("SYNCV3_LOG_LEVEL", "error")]).await;
    let http = awc::Client::builder().timeout(Duration::from_secs(10)).finish();
    let mut memory = Memory::default();
    let mut pushed = 0usize;
    let mut slowest = Duration::ZERO;
    for _ in 0..kills {
        for _ in 0..BURST {
            pushed += 1;
            let event = message(&format!("${pushed}"), "@b:h", 1_000 + pushed as i64, "x");
            let response = v2().join(ROOM, |room| room.timeline([event])).to_device(
                &format!("m{pushed}"),
                "@b:h",
                "m.test",
                json!({"n": pushed}),
            );
            homeserver.push(TOKEN, response);
        }
        let moment = Instant::now() + Duration::from_millis(below(60));
        let client = async {
            loop {
                memory.step(&http, &server.base).await;
            }
        };
        // The client may be anywhere in a request when the server dies.
        let _ = tokio::time::timeout_at(moment.into(), client).await;
        server.kill();
        slowest = slowest.max(server.launch().await);
    }
    let deadline = Instant::now() + Duration::from_secs(30);
    let complete = |memory: &Memory| {
        memory.messages.len() == pushed && memory.events.contains(&format!("${pushed}")) && memory.pos.is_some()
    };
    while !complete(&memory) {
        assert!(
            Instant::now() < deadline,
            "of {pushed} messages {} came; events {:?}",
            memory.messages.len(),
            memory.events.len()
        );
        memory.step(&http, &server.base).await;
    }
    // The homeserver handed out each message at least once, and the store kept exactly one of each in its order.
    let anew = Client::new(&server.base, TOKEN).sync(None, 0, body(None)).await.ok();
    let timeline: Vec<_> = anew["rooms"][ROOM]["timeline"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["event_id"].as_str().unwrap())
        .collect();
    let expected: Vec<String> = (0..=pushed).rev().take(50).map(|n| format!("${n}")).collect();
    assert_eq!(timeline.iter().rev().copied().collect::<Vec<_>>(), expected);
    eprintln!("slowest start after a kill: {slowest:?}");
    assert!(server.stop() < Duration::from_secs(5));
    if let Database::Sqlite(_) = &database {
        use diesel::prelude::*;
        let mut connection = SqliteConnection::establish(&database.url()).unwrap();
        #[derive(diesel::QueryableByName)]
        struct Check {
            #[diesel(sql_type = diesel::sql_types::Text)]
            integrity_check: String,
        }
        let rows: Vec<Check> = diesel::sql_query("PRAGMA integrity_check")
            .load(&mut connection)
            .unwrap();
        assert_eq!(rows[0].integrity_check, "ok");
    }
}

#[actix_rt::test]
async fn killed_again_and_again_on_sqlite() {
    killed_again_and_again(Database::sqlite(), 50).await;
}

#[actix_rt::test]
async fn killed_again_and_again_on_postgres() {
    if let Some(database) = Database::postgres() {
        killed_again_and_again(database, 50).await;
    }
}
