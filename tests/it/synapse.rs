//! The main job against a real homeserver: Synapse, as the test command starts it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::client::{Client, segment};
use crate::support::database::Database;
use crate::support::server::Server;

fn synapse() -> Option<String> {
    let url = std::env::var_os("TEST_SYNAPSE_URL").map(|url| url.into_string().unwrap());
    if url.is_none() {
        eprintln!("TEST_SYNAPSE_URL is not set: this test is skipped");
    }
    url
}

struct Account {
    user_id: String,
    device_id: String,
    matrix: Client,
}

impl Account {
    async fn register(base: &str, name: &str) -> Self {
        let anonymous = Client::new(base, "");
        let username = format!("{name}{:08x}", rand::random::<u32>());
        let body = json!({"username": username, "password": "p", "auth": {"type": "m.login.dummy"}});
        let reply = anonymous.post("/_matrix/client/v3/register", body).await.ok();
        Self {
            user_id: reply["user_id"].as_str().unwrap().to_owned(),
            device_id: reply["device_id"].as_str().unwrap().to_owned(),
            matrix: Client::new(base, reply["access_token"].as_str().unwrap()),
        }
    }

    /// Another device of the same user.
    async fn login(&self) -> Self {
        let anonymous = Client::new(&self.matrix.base, "");
        let body = json!({"type": "m.login.password", "password": "p",
            "identifier": {"type": "m.id.user", "user": self.user_id}});
        let reply = anonymous.post("/_matrix/client/v3/login", body).await.ok();
        Self {
            user_id: self.user_id.clone(),
            device_id: reply["device_id"].as_str().unwrap().to_owned(),
            matrix: Client::new(&self.matrix.base, reply["access_token"].as_str().unwrap()),
        }
    }

    async fn create_room(&self, body: Value) -> String {
        let reply = self.matrix.post("/_matrix/client/v3/createRoom", body).await.ok();
        reply["room_id"].as_str().unwrap().to_owned()
    }

    async fn send(&self, room: &str, text: &str) -> String {
        let path = format!(
            "/_matrix/client/v3/rooms/{}/send/m.room.message/{:x}",
            segment(room),
            rand::random::<u64>()
        );
        let reply = self
            .matrix
            .request("PUT", &path, Some(json!({"msgtype": "m.text", "body": text})))
            .await
            .ok();
        reply["event_id"].as_str().unwrap().to_owned()
    }

    async fn put(&self, path: &str, body: Value) {
        self.matrix.request("PUT", path, Some(body)).await.ok();
    }

    async fn join(&self, room: &str) {
        self.matrix
            .post(&format!("/_matrix/client/v3/rooms/{}/join", segment(room)), json!({}))
            .await
            .ok();
    }

    fn sliding(&self, server: &Server) -> Client {
        Client::new(&server.base, &self.matrix.token)
    }
}

fn ids(value: &Value) -> Vec<&str> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_str().unwrap())
        .collect()
}

fn timeline_ids(room: &Value) -> Vec<&str> {
    room["timeline"]
        .as_array()
        .map(|events| events.iter().map(|event| event["event_id"].as_str().unwrap()).collect())
        .unwrap_or_default()
}

/// Polls until `done` accepts an answer; answers in between are given to `done` as well.
async fn poll_until(client: &Client, pos: &mut String, body: &Value, mut done: impl FnMut(&Value) -> bool) -> Duration {
    let began = Instant::now();
    loop {
        let answer = client.sync(Some(pos), 5_000, body.clone()).await.ok();
        *pos = answer["pos"].as_str().unwrap().to_owned();
        if done(&answer) {
            return began.elapsed();
        }
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "what was waited for did not come: {answer}"
        );
    }
}

async fn a_live_room_list(database: Database) {
    let Some(synapse) = synapse() else { return };
    let alice = Account::register(&synapse, "alice").await;
    let bob = Account::register(&synapse, "bob").await;

    let plain = alice
        .create_room(json!({"name": "Plain room", "preset": "private_chat", "invite": [bob.user_id]}))
        .await;
    let secret = alice
        .create_room(
            json!({"name": "Secret room", "invite": [bob.user_id], "initial_state": [
            {"type": "m.room.encryption", "state_key": "", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}]}),
        )
        .await;
    let direct = alice
        .create_room(json!({"preset": "trusted_private_chat", "is_direct": true, "invite": [bob.user_id]}))
        .await;
    let space = alice
        .create_room(json!({"name": "Space", "creation_content": {"type": "m.space"}, "invite": [bob.user_id]}))
        .await;
    let invited = alice
        .create_room(json!({"name": "Only invited", "invite": [bob.user_id]}))
        .await;
    for room in [&plain, &secret, &direct, &space] {
        bob.join(room).await;
    }
    bob.put(
        &format!(
            "/_matrix/client/v3/user/{}/account_data/m.direct",
            segment(&bob.user_id)
        ),
        json!({alice.user_id.clone(): [direct]}),
    )
    .await;
    bob.put(
        &format!(
            "/_matrix/client/v3/user/{}/rooms/{}/tags/m.favourite",
            segment(&bob.user_id),
            segment(&plain)
        ),
        json!({"order": 0.5}),
    )
    .await;
    let first_message = alice.send(&plain, "hello").await;

    let mut server = Server::start(&database, &synapse).await;
    let client = bob.sliding(&server);
    let body = json!({
        "lists": {
            "all": {"ranges": [[0, 19]], "sort": ["by_recency"], "timeline_limit": 5,
                    "required_state": [["m.room.name", ""], ["m.room.member", "$ME"], ["m.room.member", "$LAZY"]]},
            "dm": {"ranges": [[0, 9]], "filters": {"is_dm": true}},
            "encrypted": {"ranges": [[0, 9]], "filters": {"is_encrypted": true}},
            "spaces": {"ranges": [[0, 9]], "filters": {"room_types": ["m.space"]}},
            "invites": {"ranges": [[0, 9]], "filters": {"is_invite": true}},
            "favourites": {"ranges": [[0, 9]], "filters": {"tags": ["m.favourite"]}},
            "named": {"ranges": [[0, 9]], "sort": ["by_name"], "filters": {"room_name_like": "room"}},
        },
        "extensions": {"to_device": {"enabled": true}, "e2ee": {"enabled": true}, "account_data": {"enabled": true}},
    });
    let answer = client.sync(None, 10_000, body.clone()).await.ok();
    let mut pos = answer["pos"].as_str().unwrap().to_owned();
    let window = |answer: &Value, list: &str| -> Vec<String> {
        ids(&answer["lists"][list]["ops"][0]["room_ids"])
            .into_iter()
            .map(str::to_owned)
            .collect()
    };
    assert_eq!(answer["lists"]["all"]["count"], 5, "{answer}");
    assert_eq!(
        window(&answer, "all")[0],
        plain,
        "the newest room is on top: {answer:#}"
    );
    assert_eq!(window(&answer, "dm"), [&*direct]);
    assert_eq!(window(&answer, "encrypted"), [&*secret]);
    assert_eq!(window(&answer, "spaces"), [&*space]);
    assert_eq!(window(&answer, "invites"), [&*invited]);
    assert_eq!(window(&answer, "favourites"), [&*plain]);
    assert_eq!(
        window(&answer, "named"),
        [plain.clone(), secret.clone()],
        "by name, and no invites' details leak"
    );
    let room = &answer["rooms"][&plain];
    assert_eq!(room["name"], "Plain room");
    assert_eq!(room["initial"], true);
    assert_eq!(room["joined_count"], 2);
    assert_eq!(*timeline_ids(room).last().unwrap(), first_message);
    assert_eq!(answer["rooms"][&direct]["is_dm"], true);
    assert!(answer["rooms"][&invited]["invite_state"].is_array());
    let counts = &answer["extensions"]["e2ee"]["device_one_time_keys_count"];
    assert_eq!(counts["signed_curve25519"], 0, "{answer}");
    let account_data = answer["extensions"]["account_data"]["global"].as_array().unwrap();
    assert!(account_data.iter().any(|data| data["type"] == "m.direct"));

    // A message sent at the homeserver reaches a client that waits.
    let waiting = {
        let (client, pos, body) = (client.clone(), pos.clone(), body.clone());
        actix_rt::spawn(async move { client.sync(Some(&pos), 30_000, body).await.ok() })
    };
    let sent = alice.send(&secret, "are you there?").await;
    let answer = waiting.await.unwrap();
    pos = answer["pos"].as_str().unwrap().to_owned();
    assert!(timeline_ids(&answer["rooms"][&secret]).contains(&&*sent), "{answer}");
    assert_eq!(answer["rooms"][&secret]["num_live"], 1);
    let ops = answer["lists"]["all"]["ops"].as_array().unwrap();
    assert_eq!(ops.last().unwrap()["op"], "INSERT");
    assert_eq!(ops.last().unwrap()["index"], 0);

    // Repeating the request gives the same answer again.
    let again = client.sync(Some(&pos), 0, body.clone()).await.ok();
    let replay = client.sync(Some(&pos), 0, body.clone()).await.ok();
    assert_eq!(again, replay);
    pos = again["pos"].as_str().unwrap().to_owned();

    // To-device messages arrive, and stay until they are acknowledged.
    alice
        .put(
            &format!("/_matrix/client/v3/sendToDevice/m.test/{:x}", rand::random::<u64>()),
            json!({"messages": {bob.user_id.clone(): {bob.device_id.clone(): {"n": 1}}}}),
        )
        .await;
    let mut since = String::new();
    poll_until(&client, &mut pos, &body, |answer| {
        let to_device = &answer["extensions"]["to_device"];
        let found = to_device["events"]
            .as_array()
            .is_some_and(|events| events[0]["content"]["n"] == 1);
        if found {
            since = to_device["next_batch"].as_str().unwrap().to_owned();
        }
        found
    })
    .await;

    // Kill and restart: the connection is gone, nothing else is; the message is still there until acknowledged.
    server.kill();
    assert!(server.launch().await < Duration::from_secs(10));
    let lost = client.sync(Some(&pos), 0, body.clone()).await;
    assert_eq!(
        (lost.status, lost.body["errcode"].as_str()),
        (400, Some("M_UNKNOWN_POS"))
    );
    let anew = client.sync(None, 0, body.clone()).await.ok();
    assert_eq!(anew["lists"]["all"]["count"], 5);
    assert_eq!(anew["extensions"]["to_device"]["events"][0]["content"]["n"], 1);
    pos = anew["pos"].as_str().unwrap().to_owned();
    let mut acknowledging = body.clone();
    acknowledging["extensions"]["to_device"]["since"] = json!(since);
    let answer = client.sync(Some(&pos), 0, acknowledging.clone()).await.ok();
    assert!(answer["extensions"]["to_device"].get("events").is_none(), "{answer}");
    pos = answer["pos"].as_str().unwrap().to_owned();

    // Being kicked ends everything at once.
    let path = format!("/_matrix/client/v3/rooms/{}/kick", segment(&plain));
    alice.matrix.post(&path, json!({"user_id": bob.user_id})).await.ok();
    poll_until(&client, &mut pos, &acknowledging, |answer| {
        answer["lists"]["all"]["count"] == 4
    })
    .await;
    alice.send(&plain, "behind his back").await;
    let marker = alice.send(&secret, "marker").await;
    let mut seen = Vec::new();
    poll_until(&client, &mut pos, &acknowledging, |answer| {
        seen.push(answer.to_string());
        timeline_ids(&answer["rooms"][&secret]).contains(&&*marker)
    })
    .await;
    assert!(seen.iter().all(|text| !text.contains("behind his back")), "{seen:?}");
    let stopped = server.stop();
    assert!(stopped < Duration::from_secs(5), "stopping took {stopped:?}");
}

#[actix_rt::test]
async fn a_live_room_list_from_synapse_on_sqlite() {
    a_live_room_list(Database::sqlite()).await;
}

#[actix_rt::test]
async fn a_live_room_list_from_synapse_on_postgres() {
    if let Some(database) = Database::postgres() {
        a_live_room_list(database).await;
    }
}

#[actix_rt::test]
async fn two_devices_of_one_user_each_get_their_own_messages() {
    let Some(synapse) = synapse() else { return };
    let database = Database::sqlite();
    let alice = Account::register(&synapse, "alice").await;
    let phone = Account::register(&synapse, "bob").await;
    let laptop = phone.login().await;
    let room = alice.create_room(json!({"name": "R", "invite": [phone.user_id]})).await;
    phone.join(&room).await;
    let server = Server::start(&database, &synapse).await;
    let body = json!({"lists": [{"ranges": [[0, 5]], "timeline_limit": 3}],
        "extensions": {"to_device": {"enabled": true}}});
    for (device, n) in [(&phone, 1), (&laptop, 2)] {
        alice
            .put(
                &format!("/_matrix/client/v3/sendToDevice/m.test/{:x}", rand::random::<u64>()),
                json!({"messages": {phone.user_id.clone(): {device.device_id.clone(): {"n": n}}}}),
            )
            .await;
    }
    for (device, n) in [(&phone, 1), (&laptop, 2)] {
        let client = device.sliding(&server);
        let first = client.sync(None, 5_000, body.clone()).await.ok();
        assert!(first["lists"].is_array(), "an array is answered with an array: {first}");
        assert_eq!(first["lists"][0]["count"], 1);
        assert_eq!(ids(&first["lists"][0]["ops"][0]["room_ids"]), [&*room]);
        let events = first["extensions"]["to_device"]["events"].as_array().unwrap();
        assert_eq!(events.len(), 1, "{first}");
        assert_eq!(events[0]["content"]["n"], n);
    }
}
