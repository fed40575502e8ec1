//! The extensions `to_device`, `e2ee` and `account_data`.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::protocol::fixtures::{Brings, account_data};

fn tick(client: &mut Client) -> Changed {
    client.world.commit(&[])
}

fn to_device(since: Option<&str>) -> Value {
    json!({"extensions": {"to_device": {"enabled": true, "since": since}}})
}

fn queue(client: &mut Client, seq: i64) -> Changed {
    client.world.to_device.push((seq, json!({"n": seq})));
    client.world.facts.to_device_seq = seq;
    tick(client)
}

#[test]
fn to_device_messages_repeat_until_their_token_comes_back() {
    let mut client = Client::new(World::new());
    let answer = client.ask(None, &to_device(None), &[]).unwrap();
    let zero = answer["extensions"]["to_device"]["next_batch"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(answer["extensions"]["to_device"], json!({"next_batch": zero}));

    let changes = [queue(&mut client, 4), queue(&mut client, 7)];
    let sent = client.next(&json!({}), &changes)["extensions"]["to_device"].clone();
    assert_eq!(sent["events"], json!([{"n": 4}, {"n": 7}]));
    assert_eq!(
        client.next(&json!({"txn_id": "1"}), &[])["extensions"]["to_device"],
        sent
    );
    assert!(client.acknowledged.is_empty());

    let token = sent["next_batch"].as_str().unwrap().to_owned();
    let answer = client.next(&to_device(Some(&token)), &[]);
    assert_eq!(answer["extensions"]["to_device"], json!({"next_batch": token}));
    assert_eq!(client.acknowledged, [Acknowledgement::ToDevice { up_to: 7 }]);
    client.next(&to_device(Some(&token)), &[]);
    assert_eq!(client.acknowledged.len(), 1, "idle polls acknowledge nothing");
    let old = client.next(&to_device(Some(&zero)), &[]);
    assert_eq!(old["extensions"]["to_device"]["events"].as_array().unwrap().len(), 2);
    assert_eq!(client.acknowledged.len(), 1);
}

#[test]
fn foreign_to_device_tokens_count_as_none() {
    let mut client = Client::new(World::new());
    queue(&mut client, 3);
    let sent = client.ask(None, &to_device(None), &[]).unwrap();
    let token = sent["extensions"]["to_device"]["next_batch"]
        .as_str()
        .unwrap()
        .to_owned();
    let other_epoch = token.replacen("epoch", "other", 1);
    let other_device = token.replacen("epoch.", "epoch.0", 1);
    for since in [
        "41",
        "",
        "nonsense",
        &other_epoch,
        &other_device,
        &format!("{token}0x"),
        &token.replace(".3", ".-3"),
    ] {
        let answer = client.ask(None, &to_device(Some(since)), &[]).unwrap();
        assert_eq!(
            answer["extensions"]["to_device"]["events"],
            json!([{"n": 3}]),
            "{since}"
        );
    }
    assert!(client.acknowledged.is_empty());
}

#[test]
fn to_device_messages_come_in_portions() {
    let mut client = Client::new(World::new());
    for seq in 1..=5 {
        queue(&mut client, seq);
    }
    let mut body = json!({"extensions": {"to_device": {"enabled": true, "limit": 2}}});
    let mut seen = Vec::new();
    let mut answer = client.ask(None, &body, &[]).unwrap();
    while let Some(events) = answer["extensions"]["to_device"]["events"].as_array() {
        seen.extend(events.iter().map(|event| event["n"].as_i64().unwrap()));
        body = to_device(answer["extensions"]["to_device"]["next_batch"].as_str());
        answer = client.next(&body, &[]);
    }
    assert_eq!(seen, [1, 2, 3, 4, 5]);
}

#[test]
fn device_lists_are_acknowledged_by_the_next_position() {
    let mut client = Client::new(World::new());
    let body = json!({"extensions": {"e2ee": {"enabled": true}}});
    client.world.device_lists = vec![(1, "@a:h".into(), false), (2, "@b:h".into(), true)];
    client.world.facts.device_list_seq = 2;
    client.world.facts.one_time_keys = Some(Arc::new(BTreeMap::from([("curve".to_owned(), 5)])));
    client.world.facts.fallback_types = Some(Arc::from([]));
    tick(&mut client);
    let answer = client.ask(None, &body, &[]).unwrap();
    let lists = json!({"changed": ["@a:h"], "left": ["@b:h"]});
    assert_eq!(
        answer["extensions"]["e2ee"],
        json!({"device_one_time_keys_count": {"curve": 5}, "device_unused_fallback_key_types": [], "device_lists": lists})
    );
    // A new connection proves nothing.
    assert_eq!(
        client.ask(None, &body, &[]).unwrap()["extensions"]["e2ee"]["device_lists"],
        lists
    );
    assert!(client.acknowledged.is_empty());

    client.world.device_lists.clear();
    let answer = client.next(&body, &[]);
    assert_eq!(client.acknowledged, [Acknowledgement::DeviceLists { up_to: 2 }]);
    assert_eq!(answer["extensions"], json!({}));

    client.world.device_lists = vec![(3, "@c:h".into(), false)];
    client.world.facts.device_list_seq = 3;
    client.world.facts.one_time_keys = Some(Arc::new(BTreeMap::from([("curve".to_owned(), 4)])));
    let change = tick(&mut client);
    let answer = client.live(&change);
    assert_eq!(
        answer["extensions"]["e2ee"],
        json!({"device_one_time_keys_count": {"curve": 4}, "device_lists": {"changed": ["@c:h"], "left": []}})
    );
    client.world.device_lists.clear();
    client.next(&json!({"txn_id": "x"}), &[]);
    client.next(&json!({"txn_id": "y"}), &[]);
    assert_eq!(client.acknowledged.len(), 2, "idle polls acknowledge nothing");
}

#[test]
fn global_account_data_is_complete_the_first_time_and_then_changes() {
    let mut client = Client::new(World::new());
    client.world.account_data = vec![account_data("m.a", json!(1)), account_data("m.b", json!(1))];
    client.ask(None, &json!({}), &[]).unwrap();
    let global = |answer: &Value| answer["extensions"]["account_data"]["global"].clone();
    let all = client.next(&json!({"extensions": {"account_data": {"enabled": true}}}), &[]);
    assert_eq!(global(&all).as_array().unwrap().len(), 2);
    let mut changes = [tick(&mut client), tick(&mut client)];
    changes[0].account_data = vec![account_data("m.a", json!(2))];
    changes[1].account_data = vec![account_data("m.a", json!(3))];
    let answer = client.next(&json!({}), &changes);
    assert_eq!(global(&answer), json!([{"type": "m.a", "content": 3}]));
    assert_eq!(client.next(&json!({"txn_id": "x"}), &[])["extensions"], json!({}));
}

#[test]
fn account_data_of_rooms_follows_the_scope() {
    let mut client = Client::new(World::with_rooms("ab"));
    client
        .world
        .room_account_data
        .insert("!a:h".into(), vec![account_data("m.tag", json!(1))]);
    client
        .world
        .room_account_data
        .insert("!b:h".into(), vec![account_data("m.tag", json!(1))]);
    let body = json!({"lists": {"one": {"ranges": [[0, 0]], "sort": ["by_name"]}},
        "room_subscriptions": {"!b:h": {}},
        "extensions": {"account_data": {"enabled": true, "lists": ["one"], "rooms": []}}});
    let rooms = |answer: &Value| answer["extensions"]["account_data"]["rooms"].clone();
    let answer = client.ask(None, &body, &[]).unwrap();
    assert_eq!(keys(&rooms(&answer)), ["!a:h"]);
    let tag = |client: &mut Client, id: &str| {
        let brings = Brings {
            account_data: vec![account_data("m.tag", json!(2))],
            ..Brings::default()
        };
        let change = client.world.commit(&[(id, Some(brings))]);
        client.live(&change)
    };
    let answer = tag(&mut client, "!a:h");
    assert_eq!(rooms(&answer), json!({"!a:h": [{"type": "m.tag", "content": 2}]}));
    assert_eq!(answer["rooms"], json!({}));
    assert_eq!(tag(&mut client, "!b:h")["extensions"], json!({}));
    client.next(&json!({"extensions": {"account_data": {"rooms": ["*"]}}}), &[]);
    assert_eq!(keys(&rooms(&tag(&mut client, "!b:h"))), ["!b:h"]);
    client.next(
        &json!({"extensions": {"account_data": {"rooms": ["!x:h", "*"], "lists": []}}}),
        &[],
    );
    assert_eq!(tag(&mut client, "!b:h")["extensions"], json!({}));
}
