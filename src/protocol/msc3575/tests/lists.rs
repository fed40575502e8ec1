//! Lists in both shapes, changes of parameters, and random updates replayed by a model client.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::protocol::msc3575::ops::tests::Client as Model;
use crate::protocol::sliding::list::ListIndexes;

#[test]
fn a_list_without_ranges_has_a_count_only() {
    let mut client = Client::new(World::with_rooms("abc"));
    let answer = client.ask(None, &json!({"lists": {"a": {}}}), &[]).unwrap();
    assert_eq!(answer["lists"], json!({"a": {"count": 3}}));
    assert_eq!((&answer["rooms"], &answer["extensions"]), (&json!({}), &json!({})));
}

#[test]
fn arrays_are_answered_by_arrays_of_the_same_length() {
    let mut client = Client::new(World::with_rooms("abc"));
    let both = json!({"lists": [{"ranges": [[0, 1]]}, {"filters": {"is_dm": true}}]});
    let answer = client.ask(None, &both, &[]).unwrap();
    let sync = json!([{"op": "SYNC", "range": [0, 1], "room_ids": ["!a:h", "!b:h"]}]);
    assert_eq!(answer["lists"], json!([{"count": 3, "ops": sync}, {"count": 0}]));
    assert_eq!(
        client.next(&json!({"lists": [{}, {}]}), &[])["lists"],
        json!([{"count": 3}, {"count": 0}])
    );
    assert_eq!(
        client.next(&json!({"txn_id": "x"}), &[])["lists"],
        json!([{"count": 3}, {"count": 0}])
    );
    assert_eq!(
        client.next(&json!({"lists": [{}]}), &[])["lists"],
        json!([{"count": 3}])
    );
    let pos = client.pos.clone();
    let refusal = client.ask(pos.as_deref(), &window(0, 1), &[]).unwrap_err();
    assert!(matches!(refusal, Refusal::InvalidParam(_)));
    assert_eq!(client.next(&json!({"lists": []}), &[])["lists"], json!([]));
}

#[test]
fn maps_stay_maps_and_lists_go_only_when_deleted() {
    let mut client = Client::new(World::with_rooms("ab"));
    client.ask(None, &window(0, 1), &[]).unwrap();
    let pos = client.pos.clone();
    let refusal = client.ask(pos.as_deref(), &json!({"lists": [{}]}), &[]).unwrap_err();
    assert!(matches!(refusal, Refusal::InvalidParam(_)));
    let answer = client.next(&json!({"lists": {"b": {}, "c": {"deleted": true}}}), &[]);
    assert_eq!(answer["lists"], json!({"a": {"count": 2}, "b": {"count": 2}}));
    let answer = client.next(&json!({"lists": {"a": {"deleted": true}}}), &[]);
    assert_eq!(answer["lists"], json!({"b": {"count": 2}}));
    let answer = client.next(&window(0, 0), &[]);
    assert_eq!(answer["lists"]["a"]["ops"][0]["op"], "SYNC");
}

#[test]
fn lists_of_all_requests_together_are_limited() {
    let mut client = Client::new(World::new());
    let named = |from: usize| json!({"lists": (from..from + 60).map(|i| (i.to_string(), json!({}))).collect::<BTreeMap<_, _>>()});
    client.ask(None, &named(0), &[]).unwrap();
    let pos = client.pos.clone();
    let refusal = client.ask(pos.as_deref(), &named(60), &[]).unwrap_err();
    assert_eq!(refusal, Refusal::InvalidParam("too many lists: 120 > 100".into()));
    assert_eq!(client.next(&json!({}), &[])["lists"].as_object().unwrap().len(), 60);
}

#[test]
fn each_change_of_parameters_sends_what_it_should() {
    let mut client = Client::new(World::with_rooms("abcd"));
    let list = |fields: Value| json!({"lists": {"a": fields}});
    client.ask(None, &window(0, 1), &[]).unwrap();

    let same = client.next(&window(0, 1), &[]);
    assert_eq!(
        (&same["lists"]["a"], &same["rooms"]),
        (&json!({"count": 4}), &json!({}))
    );

    let wider = client.next(&list(json!({"ranges": [[1, 2]]})), &[]);
    let ops = json!([{"op": "INVALIDATE", "range": [0, 0]}, {"op": "SYNC", "range": [2, 2], "room_ids": ["!c:h"]}]);
    assert_eq!(wider["lists"]["a"]["ops"], ops);
    assert_eq!(keys(&wider["rooms"]), ["!c:h"]);

    let filters = client.next(&list(json!({"filters": {}})), &[]);
    assert_eq!(filters["lists"]["a"], json!({"count": 4}));
    let sort = client.next(&list(json!({"sort": []})), &[]);
    assert_eq!(sort["lists"]["a"], json!({"count": 4}));

    let filters = client.next(&list(json!({"filters": {"room_name_like": "C"}})), &[]);
    let ops = json!([{"op": "INVALIDATE", "range": [1, 2]}]);
    assert_eq!(filters["lists"]["a"], json!({"count": 1, "ops": ops}));
    let sorted = client.next(&list(json!({"filters": {}, "sort": ["by_name"]})), &[]);
    let ops = json!([{"op": "SYNC", "range": [1, 2], "room_ids": ["!b:h", "!c:h"]}]);
    assert_eq!(sorted["lists"]["a"], json!({"count": 4, "ops": ops}));
    assert_eq!(keys(&sorted["rooms"]), ["!b:h", "!c:h"]);

    let none = client.next(&list(json!({"ranges": []})), &[]);
    assert_eq!(
        none["lists"]["a"]["ops"],
        json!([{"op": "INVALIDATE", "range": [1, 2]}])
    );
}

#[test]
fn slow_lists_show_every_room_and_never_move() {
    let mut client = Client::new(World::with_rooms("abc"));
    let body = json!({"lists": {"a": {"slow_get_all_rooms": true, "ranges": [[0, 0]]}}});
    let answer = client.ask(None, &body, &[]).unwrap();
    assert_eq!(answer["lists"]["a"]["ops"][0]["range"], json!([0, 2]));
    assert_eq!(keys(&answer["rooms"]), ["!a:h", "!b:h", "!c:h"]);
    let change = client.world.bump("!c:h", "$1");
    let answer = client.live(&change);
    assert_eq!(answer["lists"]["a"], json!({"count": 3}));
    assert_eq!(ids(&answer["rooms"]["!c:h"]["timeline"]), ["$1"]);
    let answer = client.next(&json!({"lists": {"a": {"slow_get_all_rooms": false}}}), &[]);
    let ops = json!([{"op": "INVALIDATE", "range": [0, 2]}, {"op": "SYNC", "range": [0, 0], "room_ids": ["!c:h"]}]);
    assert_eq!(answer["lists"]["a"]["ops"], ops);
}

#[test]
fn sorted_lists_are_taken_over_if_they_stand_at_the_same_position() {
    let world = World::with_rooms("abc");
    let mut client = Client::new(world);
    client.ask(None, &window(0, 1), &[]).unwrap();
    let built = client.connection.built_indexes();
    assert_eq!(built.len(), 1);
    assert!(client.connection.built_indexes().is_empty());
    let (_, list, position) = built.into_iter().next().unwrap();
    let mut indexes = ListIndexes::new(position);
    indexes.insert(list);
    client.connection.with_indexes(indexes.clone());
    let answer = client.ask(None, &window(0, 1), &[]).unwrap();
    assert_eq!(answer["lists"]["a"]["count"], 3);
    assert!(client.connection.built_indexes().is_empty());
    client.world.bump("!c:h", "$1");
    client.connection.with_indexes(indexes);
    let answer = client.ask(None, &window(0, 1), &[]).unwrap();
    assert_eq!(answer["lists"]["a"]["ops"][0]["room_ids"], json!(["!c:h", "!a:h"]));
    assert_eq!(client.connection.built_indexes().len(), 1);
}

/// Plays answers into a model client and compares it with the server after each.
#[derive(Default)]
struct Replayed {
    lists: BTreeMap<String, Model>,
    visible: BTreeSet<String>,
}

impl Replayed {
    fn take(&mut self, client: &Client, answer: &Value) {
        for (name, result) in answer["lists"].as_object().unwrap() {
            let model = self.lists.entry(name.clone()).or_default();
            for op in result["ops"].as_array().into_iter().flatten() {
                let at = |key: &str| serde_json::from_value::<usize>(op[key].clone()).unwrap();
                let range = || serde_json::from_value::<[usize; 2]>(op["range"].clone()).unwrap();
                match op["op"].as_str().unwrap() {
                    "SYNC" => {
                        let rooms: Vec<String> = serde_json::from_value(op["room_ids"].clone()).unwrap();
                        assert_eq!(rooms.len(), range()[1] - range()[0] + 1);
                        model.sync(range(), &rooms);
                    }
                    "INVALIDATE" => model.invalidate(range()),
                    "DELETE" => model.delete(at("index")),
                    "INSERT" => model.insert(at("index"), op["room_id"].as_str().unwrap()),
                    other => panic!("{other}"),
                }
            }
            model.finish(serde_json::from_value(result["count"].clone()).unwrap());
        }
        let mut visible = BTreeSet::new();
        for (name, list) in &client.connection.state.lists {
            let mut expected = BTreeMap::new();
            for index in 0..list.sorted.len() {
                let room_id = list.sorted.get(index).unwrap();
                if list.shows(room_id) {
                    expected.insert(index, room_id.to_string());
                }
            }
            assert_eq!(self.lists[name].entries, expected, "{answer}");
            visible.extend(expected.into_values());
        }
        for room_id in visible.difference(&self.visible) {
            assert_eq!(
                answer["rooms"][room_id]["initial"], true,
                "{room_id} came into view in {answer}"
            );
        }
        for (room_id, room) in answer["rooms"].as_object().unwrap() {
            let live = room["num_live"].as_u64().unwrap_or(0);
            assert!(live <= ids(&room["timeline"]).len() as u64, "{room_id}: {room}");
            let events = ids(&room["timeline"]);
            assert_eq!(events.iter().collect::<BTreeSet<_>>().len(), events.len(), "{room}");
        }
        self.visible = visible;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn a_client_that_follows_random_updates_has_the_servers_windows(
        layouts in prop::collection::vec(prop::sample::subsequence(vec![0_usize, 2, 4, 6], 0..3), 3),
        batches in prop::collection::vec(prop::collection::vec((0_usize..9, 0_u8..7), 0..6), 1..12),
        ranges in prop::collection::vec(prop::option::of((0_usize..6, 0_usize..4)), 12),
    ) {
        let mut client = Client::new(World::with_rooms("abcdefgh"));
        let windows = |starts: &[usize]| -> Vec<[usize; 2]> { starts.iter().map(|start| [*start, start + 1]).collect() };
        let body = json!({"lists": {
            "all": {"ranges": windows(&layouts[0]), "timeline_limit": 2},
            "people": {"ranges": windows(&layouts[1]), "filters": {"is_dm": true}, "timeline_limit": 1},
            "names": {"ranges": windows(&layouts[2]), "sort": ["by_notification_level", "by_name"]},
        }});
        let mut replayed = Replayed::default();
        let answer = client.ask(None, &body, &[]).unwrap();
        replayed.take(&client, &answer);
        let mut number = 0;
        for (round, batch) in batches.iter().enumerate() {
            let mut queued = Vec::new();
            for (index, kind) in batch {
                let id = format!("!{}:h", char::from(b'a' + u8::try_from(*index).unwrap()));
                number += 1;
                client.world.change(&id, |room| match kind {
                    0 => room.is_dm = !room.is_dm,
                    1 => room.unread.highlight_count = 1 - room.unread.highlight_count,
                    2 => room.membership = crate::model::room::Membership::Leave,
                    3 => room.membership = crate::model::room::Membership::Invite,
                    4 => room.recency -= 3,
                    5 => room.name = format!("{number}"),
                    _ => room.membership = crate::model::room::Membership::Join,
                });
                let joined = client.world.rooms[&id].membership == crate::model::room::Membership::Join;
                queued.push(if joined && *kind > 4 {
                    client.world.bump(&id, &format!("${number}"))
                } else {
                    client.world.commit(&[(&id, None)])
                });
            }
            let body = match ranges[round] {
                Some((start, length)) => json!({"lists": {"all": {"ranges": [[start, start + length]]}}}),
                None => json!({"txn_id": "x"}),
            };
            let answer = client.next(&body, &queued);
            replayed.take(&client, &answer);
        }
    }
}
