//! What each of two users of one room may see.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::bodies::{joined, message, room_state, state};
use crate::support::client::Client;
use crate::support::database::Database;
use crate::support::homeserver::{Concerns, Fault, Homeserver};
use crate::support::server::Server;

const ROOM: &str = "!r:h";

fn body() -> Value {
    json!({"lists": {"all": {"ranges": [[0, 9]], "timeline_limit": 50}}})
}

async fn until(client: &Client, pos: &mut String, mut done: impl FnMut(&Value) -> bool) {
    let began = Instant::now();
    loop {
        let answer = client.sync(Some(pos), 2_000, body()).await.ok();
        *pos = answer["pos"].as_str().unwrap().to_owned();
        if done(&answer) {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "it does not come: {answer}");
    }
}

async fn each_sees_what_their_own_homeserver_answers_allow(database: Database) {
    let homeserver = Homeserver::start();
    let alice = "token_A".to_owned();
    homeserver.register(&alice, "@a:h", "A");
    let bob = "token_B".to_owned();
    homeserver.register(&bob, "@b:h", "B");
    let first = vec![
        message("$secret1", "@a:h", 10, "before bob"),
        message("$both", "@a:h", 20, "x"),
    ];
    homeserver.push(
        &alice,
        joined(ROOM, room_state(ROOM, "Room", &["@a:h", "@b:h"]), first, 2),
    );
    homeserver.push(
        &bob,
        joined(
            ROOM,
            room_state(ROOM, "Room", &["@a:h", "@b:h"]),
            vec![message("$both", "@a:h", 20, "x")],
            2,
        ),
    );
    let server = Server::start(&database, &homeserver.url()).await;
    let (a, b) = (Client::new(&server.base, &alice), Client::new(&server.base, &bob));
    let for_alice = a.sync(None, 0, body()).await.ok();
    let for_bob = b.sync(None, 0, body()).await.ok();
    assert!(for_alice.to_string().contains("$secret1"));
    assert!(!for_bob.to_string().contains("$secret1"), "{for_bob}");
    let mut pos_a = for_alice["pos"].as_str().unwrap().to_owned();
    let mut pos_b = for_bob["pos"].as_str().unwrap().to_owned();

    // What only Alice's poller brings is Alice's alone; her transaction ID and private receipt too.
    let mut own = message("$only_a", "@a:h", 30, "x");
    own["unsigned"] = json!({"transaction_id": "txn_marker", "age": 5, "membership": "join"});
    let mut response = joined(ROOM, vec![], vec![own], 2);
    response["rooms"]["join"][ROOM]["ephemeral"] = json!({"events": [{"type": "m.receipt", "content":
        {"$both": {"m.read.private": {"@a:h": {"ts": 1}}}}}]});
    homeserver.push(&alice, response);
    let mut transaction_id = Value::Null;
    until(&a, &mut pos_a, |answer| {
        let event = &answer["rooms"][ROOM]["timeline"][0];
        transaction_id = event["unsigned"]["transaction_id"].clone();
        event["event_id"] == "$only_a"
    })
    .await;
    assert_eq!(transaction_id, "txn_marker");
    homeserver.push(&bob, joined(ROOM, vec![], vec![message("$only_b", "@b:h", 40, "x")], 2));
    let mut seen = String::new();
    until(&b, &mut pos_b, |answer| {
        seen.push_str(&answer.to_string());
        answer.to_string().contains("$only_b")
    })
    .await;
    assert!(!seen.contains("$only_a") && !seen.contains("txn_marker"), "{seen}");
    // Both bring the other's event later: the same final order for both.
    homeserver.push(
        &bob,
        joined(
            ROOM,
            vec![],
            vec![message("$only_a", "@a:h", 30, "x"), message("$z", "@b:h", 50, "x")],
            2,
        ),
    );
    until(&b, &mut pos_b, |answer| {
        seen.push_str(&answer.to_string());
        answer.to_string().contains("$z")
    })
    .await;
    assert!(!seen.contains("txn_marker"));

    // Alice's poller reports that Bob was kicked, with more behind it; Bob's own poller lags.
    let kick = state(
        "$kick",
        "@a:h",
        60,
        "m.room.member",
        "@b:h",
        json!({"membership": "leave"}),
    );
    let renamed = state("$rename", "@a:h", 70, "m.room.name", "", json!({"name": "Without bob"}));
    homeserver.push(
        &alice,
        joined(
            ROOM,
            vec![],
            vec![kick, renamed, message("$hidden", "@a:h", 80, "x")],
            1,
        ),
    );
    until(&a, &mut pos_a, |answer| answer.to_string().contains("$hidden")).await;
    let mut after = String::new();
    until(&b, &mut pos_b, |answer| {
        after.push_str(&answer.to_string());
        answer["lists"]["all"]["count"] == 0
    })
    .await;
    let anew = b.sync(None, 0, body()).await.ok();
    after.push_str(&anew.to_string());
    assert_eq!(anew["lists"]["all"]["count"], 0);
    assert!(!after.contains("$hidden") && !after.contains("Without bob"), "{after}");
}

#[actix_rt::test]
async fn each_sees_what_their_own_homeserver_answers_allow_on_sqlite() {
    each_sees_what_their_own_homeserver_answers_allow(Database::sqlite()).await;
}

#[actix_rt::test]
async fn each_sees_what_their_own_homeserver_answers_allow_on_postgres() {
    if let Some(database) = Database::postgres() {
        each_sees_what_their_own_homeserver_answers_allow(database).await;
    }
}

#[actix_rt::test]
async fn a_room_that_was_left_while_nobody_polled_is_not_shown_for_ever() {
    let database = Database::sqlite();
    let homeserver = Homeserver::start();
    let alice = "token".to_owned();
    homeserver.register(&alice, "@a:h", "A");
    homeserver.push(
        &alice,
        joined(
            ROOM,
            room_state(ROOM, "Room", &["@a:h"]),
            vec![message("$1", "@a:h", 1, "x")],
            1,
        ),
    );
    homeserver.push(
        &alice,
        joined("!other:h", room_state("!other:h", "Other", &["@a:h"]), vec![], 1),
    );
    let server = Server::start(&database, &homeserver.url()).await;
    let client = Client::new(&server.base, &alice);
    let first = client.sync(None, 5_000, body()).await.ok();
    let mut pos = first["pos"].as_str().unwrap().to_owned();
    until(&client, &mut pos, |answer| answer["lists"]["all"]["count"] == 2).await;
    // The homeserver no longer knows our position, and its new first response does not mention the other room.
    homeserver.fault(
        Concerns::path("joined_rooms").of(&alice),
        Fault::answer(200, &json!({"joined_rooms": [ROOM]})),
    );
    homeserver.fault(Concerns::sync().of(&alice), Fault::error(400, "M_UNKNOWN"));
    homeserver.push(&alice, json!({}));
    until(&client, &mut pos, |answer| answer["lists"]["all"]["count"] == 1).await;
}
