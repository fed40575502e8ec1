//! Positions, retries and failures (msc3575.md 5.2, 5.3).

use super::*;
use crate::ids::RoomId;
use crate::model::load::Loaded;

fn position(number: u64) -> String {
    format!("n0nce_{number}")
}

fn body(name: &str) -> Value {
    json!({"lists": {name: {}}})
}

#[test]
fn the_trace_of_retries_runs_as_written() {
    let mut client = Client::new(World::new());
    // position, body, whether it is processed, position of the answer
    let trace = [
        (0, "a", true, 1),
        (1, "a", true, 2),
        (1, "a", false, 2),
        (1, "b", true, 2),
        (1, "c", true, 2),
        (2, "c", false, 3),
        (3, "c", false, 4),
        (4, "c", true, 5),
        (4, "c", false, 5),
        (2, "c", false, 0),
        (5, "a", true, 6),
    ];
    for (row, (at, name, processed, returned)) in trace.into_iter().enumerate() {
        let pos = (at > 0).then(|| position(at));
        let answer = client.ask(pos.as_deref(), &body(name), &[]);
        if returned == 0 {
            assert_eq!(answer, Err(Refusal::UnknownPos), "row {row}");
        } else {
            assert_eq!(answer.unwrap()["pos"], position(returned), "row {row}");
            assert_eq!(client.processed, processed, "row {row}");
        }
    }
}

#[test]
fn a_lost_answer_comes_first_and_no_parameters_are_lost() {
    let mut client = Client::new(World::with_rooms("ab"));
    let ask = |client: &mut Client, at: u64, txn_id: &str, list: Value| {
        let pos = (at > 0).then(|| position(at));
        let body = json!({"txn_id": txn_id, "lists": {"l": list}});
        let answer = client.ask(pos.as_deref(), &body, &[]).unwrap();
        (answer["pos"].clone(), answer["txn_id"].clone())
    };
    let is = |at: u64, txn_id: &str| (json!(position(at)), json!(txn_id));
    let sort = || json!({"sort": ["by_name"]});
    let ranges = || json!({"ranges": [[0, 1]]});
    assert_eq!(ask(&mut client, 0, "A", json!({})), is(1, "A"));
    assert_eq!(ask(&mut client, 1, "B", sort()), is(2, "B"));
    assert_eq!(ask(&mut client, 1, "C", ranges()), is(2, "B"));
    assert_eq!(ask(&mut client, 2, "D", ranges()), is(3, "C"));
    assert_eq!(ask(&mut client, 3, "E", ranges()), is(4, "E"));
}

#[test]
fn a_retry_gets_the_same_bytes_whatever_happened_since() {
    let mut client = Client::new(World::with_rooms("ab"));
    client.ask(None, &window(0, 1), &[]).unwrap();
    let first = client.pos.clone();
    let change = client.world.bump("!b:h", "$1");
    client
        .ask(first.as_deref(), &json!({"txn_id": "one"}), &[change])
        .unwrap();
    let bytes = client.body.clone();
    let change = client.world.bump("!a:h", "$2");
    client
        .ask(first.as_deref(), &json!({"txn_id": "two"}), &[change])
        .unwrap();
    assert_eq!(client.body, bytes);
}

#[test]
fn foreign_and_malformed_positions_are_unknown_and_harmless() {
    let mut client = Client::new(World::new());
    client.ask(None, &json!({}), &[]).unwrap();
    for pos in [
        "0",
        "1",
        "n0nce_0",
        "n0nce_01",
        "n0nce_+1",
        "n0nce_2",
        "other_1",
        "n0nce_99999999999999999999",
    ] {
        assert_eq!(
            client.ask(Some(pos), &json!({}), &[]),
            Err(Refusal::UnknownPos),
            "{pos}"
        );
    }
    assert!(client.ask(Some("n0nce_1"), &json!({}), &[]).is_ok());
    assert_eq!(Refusal::UnknownPos.to_string(), "session expired");
}

#[test]
fn a_client_that_never_takes_answers_is_turned_away_until_it_does() {
    let mut client = Client::new(World::new());
    client.ask(None, &json!({}), &[]).unwrap();
    let refused = (0..100).find(|i| client.ask(Some("n0nce_1"), &body(&i.to_string()), &[]).is_err());
    let refused = refused.unwrap();
    assert!(refused < 40);
    let latest = position(refused + 1);
    assert!(client.ask(Some(&latest), &json!({}), &[]).is_ok());
}

#[test]
fn waiting_is_cut_short_while_an_answer_is_unseen() {
    let mut client = Client::new(World::new());
    client.ask(None, &json!({}), &[]).unwrap();
    client.ask(Some("n0nce_1"), &body("a"), &[]).unwrap();
    let query = Query {
        pos: Some(position(1)),
        timeout: Some("30000".into()),
    };
    let request = Request::parse(body("b").to_string().as_bytes(), query).unwrap();
    let accepted = client.connection.accept(request, &client.world.view).unwrap();
    assert!(matches!(
        accepted,
        Accepted::Process {
            timeout_ms: 100,
            drain: true,
            answer_at_once: false
        }
    ));
}

#[test]
fn a_failed_request_leaves_nothing_behind_and_loses_no_change() {
    let mut client = Client::new(World::with_rooms("abc"));
    client.ask(None, &window(0, 2), &[]).unwrap();
    let pos = client.pos.clone();
    let change = client.world.bump("!c:h", "$1");
    let mut other = window(0, 0);
    other["lists"]["new"] = json!({"ranges": [[0, 0]]});
    let query = Query {
        pos: pos.clone(),
        timeout: None,
    };
    let request = Request::parse(other.to_string().as_bytes(), query).unwrap();
    client.connection.accept(request, &client.world.view).unwrap();
    client.connection.apply(&change);
    client.connection.plan();
    client.connection.roll_back();

    let answer = client.ask(pos.as_deref(), &json!({}), &[]).unwrap();
    assert_eq!(keys(&answer["lists"]), ["a"]);
    assert_eq!(
        answer["lists"]["a"]["ops"],
        json!([{"op": "DELETE", "index": 2}, {"op": "INSERT", "index": 0, "room_id": "!c:h"}])
    );
    assert_eq!(ids(&answer["rooms"]["!c:h"]["timeline"]), ["$1"]);
}

#[test]
fn what_could_not_be_read_in_time_comes_with_the_next_answer() {
    let mut client = Client::new(World::with_rooms("a"));
    let request = Request::parse(window(0, 0).to_string().as_bytes(), Query::default()).unwrap();
    client.connection.accept(request, &client.world.view).unwrap();
    let first: Value = serde_json::from_slice(&client.connection.render().body).unwrap();
    assert_eq!(first["rooms"], json!({}));
    client.pos = Some(position(1));
    let second = client.next(&json!({}), &[]);
    assert_eq!(second["rooms"]["!a:h"]["initial"], true);
}

#[test]
fn a_planned_room_that_does_not_come_back_is_dropped() {
    let mut client = Client::new(World::with_rooms("a"));
    let request = Request::parse(window(0, 0).to_string().as_bytes(), Query::default()).unwrap();
    client.connection.accept(request, &client.world.view).unwrap();
    assert_eq!(client.connection.plan().rooms[0].room_id, RoomId::from("!a:h"));
    client.connection.absorb(Loaded::default());
    let answer: Value = serde_json::from_slice(&client.connection.render().body).unwrap();
    assert_eq!(answer["rooms"], json!({}));
}
