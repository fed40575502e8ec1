use serde_json::{Value, json};

use super::*;
use crate::upstream::error::ErrorKind;

fn device() -> DeviceKey {
    DeviceKey::new("@alice:hs", "PHONE")
}

fn batch_of_text(text: &str) -> (Batch, Skipped) {
    let response = Response::parse(text.as_bytes()).unwrap();
    response.into_batch(device(), Some("s0".to_owned()), Moment(1), Moment(2))
}

fn batch(body: &Value) -> (Batch, Skipped) {
    batch_of_text(&body.to_string())
}

/// The batch of a response with one joined room.
fn room(room: Value) -> (JoinedRoom, Skipped) {
    let (mut batch, skipped) = batch(&json!({"next_batch": "s1", "rooms": {"join": {"!a:hs": room}}}));
    (batch.joined.remove(0), skipped)
}

fn message(id: &str, ts: i64) -> Value {
    json!({"type": "m.room.message", "event_id": id, "sender": "@bob:hs", "origin_server_ts": ts,
           "content": {"body": "x"}})
}

fn ids(events: &[ReceivedEvent]) -> Vec<&str> {
    events.iter().map(|event| event.event.event_id.as_str()).collect()
}

const NOTHING: Skipped = Skipped {
    events: 0,
    rooms: 0,
    sections: 0,
};

#[test]
fn a_response_as_synapse_sends_it() {
    let (batch, skipped) = batch(&json!({
        "next_batch": "s72_1~2_3",
        "account_data": {"events": [{"type": "m.direct", "content": {"@bob:hs": ["!a:hs"]}}]},
        "presence": {"events": []},
        "device_one_time_keys_count": {"signed_curve25519": 50},
        "org.matrix.msc2732.device_unused_fallback_key_types": ["signed_curve25519"],
        "device_unused_fallback_key_types": [],
        "device_lists": {"changed": ["@bob:hs"], "left": ["@eve:hs"]},
        "to_device": {"events": [
            {"type": "m.room.encrypted", "sender": "@bob:hs", "content": {"x": 1}},
            {"type": "m.room_key_request", "sender": "@alice:hs", "content":
                {"action": "request", "requesting_device_id": "D", "request_id": "r"}},
            {"type": "m.room_key_request", "sender": "@alice:hs", "content":
                {"action": "request_cancellation", "requesting_device_id": "D", "request_id": "r"}},
        ]},
        "rooms": {
            "join": {"!a:hs": {
                "summary": {"m.heroes": ["@bob:hs"], "m.joined_member_count": 2, "m.invited_member_count": 0},
                "state": {"events": [
                    {"type": "m.room.create", "state_key": "", "event_id": "$c", "sender": "@bob:hs", "content": {}}]},
                "timeline": {"limited": true, "prev_batch": "t1", "events": [message("$1", 5), message("$2", 6)]},
                "ephemeral": {"events": [
                    {"type": "m.typing", "content": {"user_ids": ["@bob:hs"]}},
                    {"type": "m.receipt", "content": {"$1": {"m.read": {"@bob:hs": {"ts": 9, "thread_id": "main"}}}}}]},
                "account_data": {"events": [{"type": "m.tag", "content": {"tags": {}}}]},
                "unread_notifications": {"notification_count": 1, "highlight_count": 0},
                "unread_thread_notifications": {"$t": {"notification_count": 2, "highlight_count": 1}},
                "org.matrix.msc2654.unread_count": 7,
            }},
            "invite": {"!i:hs": {"invite_state": {"events": [{"type": "m.room.member", "state_key": "@alice:hs"}]}}},
            "knock": {"!k:hs": {"knock_state": {"events": []}}},
            "leave": {"!l:hs": {"timeline": {"events": [message("$3", 7)], "prev_batch": "t2"}}},
        },
    }));
    assert_eq!(skipped, NOTHING);
    assert_eq!(batch.next_batch.as_deref(), Some("s72_1~2_3"));
    assert_eq!(batch.since_in.as_deref(), Some("s0"));
    assert_eq!((batch.sent_at, batch.received_at), (Moment(1), Moment(2)));
    assert_eq!(batch.account_data[0].kind, "m.direct");
    assert_eq!(batch.one_time_keys.unwrap()["signed_curve25519"], 50);
    assert_eq!(batch.fallback_types, Some(Vec::new()));
    assert_eq!(batch.device_lists_changed[0].as_str(), "@bob:hs");
    assert_eq!(batch.device_lists_left[0].as_str(), "@eve:hs");
    assert_eq!(batch.to_device.len(), 3);
    assert_eq!(batch.to_device[0].key_request, None);
    let (asked, taken_back) = (&batch.to_device[1].key_request, &batch.to_device[2].key_request);
    assert_eq!(asked.as_ref().unwrap().key, taken_back.as_ref().unwrap().key);
    assert!(!asked.as_ref().unwrap().cancels && taken_back.as_ref().unwrap().cancels);
    let room = &batch.joined[0];
    assert_eq!((ids(&room.state), ids(&room.timeline)), (vec!["$c"], vec!["$1", "$2"]));
    assert!(room.limited && !room.state_after);
    assert_eq!(room.prev_batch.as_deref(), Some("t1"));
    assert_eq!(room.summary.joined_count, Some(2));
    assert_eq!(room.summary.invited_count, Some(0));
    assert_eq!(room.summary.heroes.as_ref().unwrap().len(), 1);
    assert_eq!(
        room.unread,
        Some(Unread {
            notification_count: 3,
            highlight_count: 1
        })
    );
    assert_eq!(room.typing.as_ref().unwrap().len(), 1);
    assert_eq!(
        room.receipts,
        [Receipt {
            user_id: "@bob:hs".into(),
            kind: "m.read".to_owned(),
            thread_id: Some("main".to_owned()),
            event_id: "$1".into(),
            ts: 9,
        }]
    );
    assert_eq!(room.account_data[0].kind, "m.tag");
    assert_eq!(batch.invited[0].events.len(), 1);
    assert_eq!(batch.knocked[0].room_id.as_str(), "!k:hs");
    assert_eq!(ids(&batch.left[0].timeline), ["$3"]);
}

#[test]
fn dendrite_leaves_out_whole_keys() {
    let (batch, skipped) = batch(
        &json!({"next_batch": "s1_2", "rooms": {"join": {"!a:hs": {}}, "peek": {}},
        "one_time_pseudoIDs_count": 0}),
    );
    assert_eq!(skipped, NOTHING);
    assert_eq!(batch.joined.len(), 1);
    assert_eq!(batch.joined[0].unread, None);
    assert_eq!(batch.joined[0].typing, None);
    assert_eq!(batch.one_time_keys, None);
    assert_eq!(batch.fallback_types, None);
}

#[test]
fn nothing_is_told_from_quiet() {
    let parsed = |value: Value| {
        let text = value.to_string();
        let response = Response::parse(text.as_bytes()).unwrap();
        (response.is_empty(), response.is_quiet())
    };
    assert_eq!(parsed(json!({"next_batch": "a"})), (true, true));
    assert_eq!(
        parsed(
            json!({"next_batch": "a", "rooms": {"join": {}, "leave": null}, "to_device": {"events": []},
                      "device_lists": {"changed": [], "left": null}, "account_data": null})
        ),
        (true, true)
    );
    assert_eq!(
        parsed(json!({"next_batch": "a", "device_one_time_keys_count": {"x": 1}})),
        (false, true)
    );
    for news in [
        json!({"next_batch": "a", "to_device": {"events": [{}]}}),
        json!({"next_batch": "a", "device_lists": {"left": ["@a:hs"]}}),
        json!({"next_batch": "a", "rooms": {"leave": {"!a:hs": {}}}}),
    ] {
        assert_eq!(parsed(news.clone()), (false, false), "{news}");
    }
}

#[test]
fn what_is_no_response_is_refused() {
    for text in [
        "",
        "[]",
        "null",
        "{",
        r#"{"next_batch":"s1""#,
        r#"{"rooms":{}}"#,
        r#"{"next_batch":null}"#,
        r#"{"next_batch":""}"#,
        r#"{"next_batch":{}}"#,
        r#"{"next_batch":"s1"} x"#,
        r#"{"next_batch":"s1","a":NaN}"#,
    ] {
        assert_eq!(
            Response::parse(text.as_bytes()).unwrap_err().kind,
            ErrorKind::BadJson,
            "{text}"
        );
    }
    assert!(Response::parse(b"{\"next_batch\":\"\xff\"}").is_err());
    assert_eq!(Response::parse(br#"{"next_batch":17}"#).unwrap().next_batch(), "17");
}

/// Replaces every value of a good response, one at a time, by every kind of nonsense.
#[test]
fn nonsense_anywhere_spoils_only_itself() {
    let good = json!({
        "next_batch": "s1",
        "account_data": {"events": [{"type": "m.direct", "content": {}}]},
        "device_one_time_keys_count": {"signed_curve25519": 50},
        "device_unused_fallback_key_types": ["signed_curve25519"],
        "device_lists": {"changed": ["@bob:hs"], "left": ["@eve:hs"]},
        "to_device": {"events": [{"type": "m.room_key_request", "sender": "@a:hs", "content":
            {"action": "request", "requesting_device_id": "D", "request_id": "r"}}]},
        "rooms": {
            "join": {"!a:hs": {
                "summary": {"m.heroes": ["@bob:hs"], "m.joined_member_count": 2},
                "state": {"events": [message("$0", 1)]},
                "timeline": {"limited": true, "prev_batch": "t1", "events": [message("$1", 5)]},
                "ephemeral": {"events": [
                    {"type": "m.typing", "content": {"user_ids": ["@bob:hs"]}},
                    {"type": "m.receipt", "content": {"$1": {"m.read": {"@bob:hs": {"ts": 9, "thread_id": "main"}}}}}]},
                "account_data": {"events": [{"type": "m.tag", "content": {}}]},
                "unread_notifications": {"notification_count": 1, "highlight_count": 0},
                "unread_thread_notifications": {"$t": {"notification_count": 2}},
            }, "!b:hs": {"timeline": {"events": [message("$b", 8)]}}},
            "invite": {"!i:hs": {"invite_state": {"events": [{"type": "m.room.member"}]}}},
            "leave": {"!l:hs": {"timeline": {"events": [message("$3", 7)]}}},
        },
    });
    let nonsense = [
        "null",
        "5",
        "-1",
        "1.5e3",
        "1e400",
        "9007199254740993",
        "99999999999999999999",
        "true",
        "\"x\"",
        "\"\"",
        "\"\\u0000\"",
        "\"\\ud800\"",
        "[]",
        "[null]",
        "{}",
        "{\"\\ud800\":1}",
        "{\"\\u0000\":{}}",
    ];
    let mut paths = Vec::new();
    collect(&good, String::new(), &mut paths);
    assert!(paths.len() > 60);
    for path in paths.iter().filter(|path| !path.is_empty() && *path != "/next_batch") {
        for text in nonsense {
            let mut body = good.clone();
            *body.pointer_mut(path).unwrap() = json!("@@here@@");
            let body = body.to_string().replace("\"@@here@@\"", text);
            let (batch, _) = batch_of_text(&body);
            assert_eq!(batch.next_batch.as_deref(), Some("s1"));
            let untouched = |prefix: &str| !prefix.starts_with(path) && !path.starts_with(prefix);
            if untouched("/rooms/join/!b:hs") {
                let other = batch.joined.iter().find(|room| room.room_id.as_str() == "!b:hs");
                assert_eq!(ids(&other.unwrap().timeline), ["$b"], "{path} = {text}");
            }
            if untouched("/rooms/join/!a:hs/timeline") {
                let room = batch.joined.iter().find(|room| room.room_id.as_str() == "!a:hs");
                assert_eq!(ids(&room.unwrap().timeline), ["$1"], "{path} = {text}");
            }
            if untouched("/rooms/leave") {
                assert_eq!(batch.left.len(), 1, "{path} = {text}");
            }
            if untouched("/to_device") {
                assert_eq!(batch.to_device.len(), 1, "{path} = {text}");
            }
            if untouched("/device_lists/left") {
                assert_eq!(batch.device_lists_left.len(), 1, "{path} = {text}");
            }
        }
    }
}

/// JSON pointers of every value. No key in the tests needs escaping.
fn collect(value: &Value, path: String, paths: &mut Vec<String>) {
    match value {
        Value::Object(map) => map
            .iter()
            .for_each(|(key, value)| collect(value, format!("{path}/{key}"), paths)),
        Value::Array(list) => list
            .iter()
            .enumerate()
            .for_each(|(index, value)| collect(value, format!("{path}/{index}"), paths)),
        _ => {}
    }
    paths.push(path);
}

#[test]
fn one_broken_event_loses_no_other() {
    let deep = format!("{}1{}", "[".repeat(5_000), "]".repeat(5_000));
    let long = "x".repeat(65_000);
    let text = format!(
        r#"{{"next_batch":"s1","rooms":{{"join":{{"!a:hs":{{"timeline":{{"events":[
            {{"type":"m.a","event_id":"$ok1","content":{{"body":"\u0000 \ud800","n":9007199254740993,"n":1.0e400}}}},
            {{"type":"\ud800","event_id":"$broken1"}},
            {{"type":"m.a","event_id":"$\u0000"}},
            {{"type":"m.a"}}, null, 5, "x", [],
            {{"type":"m.a","event_id":"$deep","content":{deep}}},
            {{"type":"m.a","event_id":"$long","content":{{"body":"{long}"}}}},
            {{"type":"m.a","event_id":"$ok1","content":{{}}}},
            {{"type":"m.a","event_id":"$ok2","sender":"@b:hs"}}
        ]}}}}}}}}}}"#
    );
    let (batch, skipped) = batch_of_text(&text);
    let timeline = &batch.joined[0].timeline;
    assert_eq!(ids(timeline), ["$ok1", "$deep", "$long", "$ok2"]);
    let raw = timeline[0].event.raw.get();
    assert!(
        raw.contains(r#""body":"\u0000 \ud800","n":9007199254740993,"n":1.0e400"#),
        "{raw}"
    );
    assert_eq!(skipped.events, 7);
    assert_eq!((skipped.rooms, skipped.sections), (0, 0));
}

#[test]
fn broken_rooms_are_counted() {
    let (batch, skipped) = batch_of_text(
        r#"{"next_batch":"s1","rooms":{"join":{"!a:hs":null,"\ud800":{},"":{},"!\u0000":{},"!b:hs":7,
            "!c:hs":{"timeline":[],"state":"x"},"!d:hs":{},"!d:hs":{"timeline":{"limited":true}}},
            "invite":[],"leave":null}}"#,
    );
    let rooms: Vec<&str> = batch.joined.iter().map(|room| room.room_id.as_str()).collect();
    assert_eq!(rooms, ["!c:hs", "!d:hs"]);
    assert!(batch.joined[1].limited);
    // `timeline`, `state` and `invite`.
    assert_eq!((skipped.rooms, skipped.sections), (6, 3));
}

#[test]
fn a_repeated_outer_key_counts_once() {
    let (batch, _) = batch_of_text(r#"{"next_batch":"s1","next_batch":"s2","to_device":{},"to_device":{"events":[]}}"#);
    assert_eq!(batch.next_batch.as_deref(), Some("s2"));
}

#[test]
fn state_after_is_known_by_its_key() {
    let entry = |id: &str| json!({"events": [{"type": "m.room.name", "state_key": "", "event_id": id}]});
    let (got, _) = room(json!({"state": entry("$old"), "state_after": entry("$new")}));
    assert_eq!((ids(&got.state), got.state_after), (vec!["$new"], true));
    let (got, _) = room(json!({"org.matrix.msc4222.state_after": {"events": []}, "timeline": {"events": []}}));
    assert_eq!((ids(&got.state), got.state_after), (vec![], true));
    let (got, _) = room(json!({"state": entry("$old"), "state_after": null}));
    assert_eq!((ids(&got.state), got.state_after), (vec!["$old"], false));
}

#[test]
fn an_event_may_be_in_both_blocks() {
    let create = json!({"type": "m.room.create", "state_key": "", "event_id": "$c", "content": {}});
    let (got, skipped) = room(json!({"state": {"events": [create]}, "timeline": {"events": [create]}}));
    assert_eq!((ids(&got.state), ids(&got.timeline)), (vec!["$c"], vec!["$c"]));
    assert_eq!(skipped, NOTHING);
}

#[test]
fn of_receipts_on_one_event_the_unthreaded_counts() {
    let receipt = |content: Value| json!({"type": "m.receipt", "content": content});
    let (got, skipped) = room(json!({"ephemeral": {"events": [
        receipt(json!({"$1": {"m.read": {"@a:hs": {"ts": 1, "thread_id": null}, "@b:hs": {"ts": 2, "thread_id": "$t"}},
                              "m.read.private": {"@a:hs": {"ts": "x"}}, "org.other": {"@a:hs": {}}}})),
        receipt(json!({"$1": {"m.read": {"@a:hs": {"ts": 3, "thread_id": "main"}, "@b:hs": {"ts": 4}}}})),
        receipt(json!({"$2": {"m.read": {"@a:hs": {"ts": 5, "thread_id": 7}, "@c:hs": 8}}, "$3": [], "": {}})),
    ]}}));
    let read: Vec<_> = got
        .receipts
        .iter()
        .map(|receipt| {
            (
                receipt.user_id.as_str(),
                &*receipt.kind,
                receipt.thread_id.as_deref(),
                receipt.ts,
            )
        })
        .collect();
    assert_eq!(
        read,
        [
            ("@a:hs", "m.read", None, 1),
            ("@b:hs", "m.read", None, 4),
            ("@a:hs", "m.read.private", None, 0),
        ]
    );
    assert_eq!((skipped.events, skipped.sections), (3, 1));
}

#[test]
fn nobody_typing_is_not_unchanged() {
    let typing = |content: Value| {
        room(json!({"ephemeral": {"events": [{"type": "m.typing", "content": content}]}}))
            .0
            .typing
    };
    assert_eq!(typing(json!({"user_ids": []})), Some(Vec::new()));
    assert_eq!(typing(json!({"user_ids": null})), None);
}

#[test]
fn counts_are_absent_when_nothing_is_said() {
    let unread = |value: Value| {
        room(value)
            .0
            .unread
            .map(|unread| (unread.notification_count, unread.highlight_count))
    };
    assert_eq!(unread(json!({"unread_notifications": {}})), None);
    assert_eq!(unread(json!({"unread_notifications": null})), None);
    assert_eq!(
        unread(json!({"unread_notifications": {"notification_count": 0}})),
        Some((0, 0))
    );
    assert_eq!(
        unread(json!({"unread_notifications": {"notification_count": -1, "highlight_count": 50.0}})),
        Some((0, 50))
    );
    assert_eq!(
        unread(json!({"org.matrix.msc3773.unread_thread_notifications": {"$t": {"notification_count": 2}}})),
        Some((2, 0))
    );
}

#[test]
fn key_fields_have_three_values() {
    let keys = |field: &str, value: Value| {
        let mut body = json!({"next_batch": "s1"});
        body[field] = value;
        let (batch, _) = batch(&body);
        (
            batch.one_time_keys.map(|keys| keys.len()),
            batch.fallback_types.map(|types| types.len()),
        )
    };
    assert_eq!(keys("device_one_time_keys_count", json!({})), (Some(0), None));
    assert_eq!(keys("device_one_time_keys_count", json!(null)), (None, None));
    assert_eq!(keys("device_unused_fallback_key_types", json!([])), (None, Some(0)));
    assert_eq!(keys("device_unused_fallback_key_types", json!(null)), (None, None));
    let unstable = "org.matrix.msc2732.device_unused_fallback_key_types";
    assert_eq!(keys(unstable, json!(["signed_curve25519"])), (None, Some(1)));
}

#[test]
fn account_data_comes_once_per_type_with_its_last_value() {
    let (batch, skipped) = batch(&json!({"next_batch": "s1", "account_data": {"events": [
        {"type": "a", "content": {"v": 1}}, {"type": "b\u{0}", "content": {}}, {"content": {}},
        {"type": "b", "content": {}}, {"type": "a", "content": {"v": 2}},
    ]}}));
    let kinds: Vec<&str> = batch.account_data.iter().map(|data| &*data.kind).collect();
    assert_eq!(kinds, ["a", "b"]);
    assert!(batch.account_data[0].raw.get().contains("2"));
    assert_eq!(skipped.events, 2);
}

#[test]
fn parts_bring_recent_rooms_first_and_the_position_last() {
    let mut rooms = serde_json::Map::new();
    for n in 0..10_i64 {
        // Room 7 is the latest, then 4, 1, 8, …
        let timeline =
            json!({"events": [message(&format!("$x{n}"), 99), message(&format!("$y{n}"), n * 3 % 10 + 100)]});
        rooms.insert(format!("!{n}:hs"), json!({"timeline": timeline}));
    }
    rooms.insert("!empty:hs".to_owned(), json!({}));
    let body = json!({"next_batch": "s1", "rooms": {"join": rooms, "invite": {"!i:hs": {}}, "leave": {"!l:hs": {}}},
        "account_data": {"events": [{"type": "m.direct", "content": {}}]},
        "to_device": {"events": [{"type": "m.x"}]}, "device_one_time_keys_count": {}})
    .to_string();
    let parts = Response::parse(body.as_bytes()).unwrap();
    let mut parts = parts.into_parts(device(), None, Moment(1), Moment(2), 4);
    assert_eq!(parts.rooms_left(), 11);
    let batches: Vec<Batch> = parts.by_ref().collect();
    let sizes: Vec<usize> = batches.iter().map(|batch| batch.joined.len()).collect();
    assert_eq!(sizes, [4, 4, 3]);
    let order: Vec<&str> = batches[0].joined.iter().map(|room| room.room_id.as_str()).collect();
    assert_eq!(order, ["!3:hs", "!6:hs", "!9:hs", "!2:hs"]);
    assert_eq!(batches[2].joined[2].room_id.as_str(), "!empty:hs");
    assert_eq!((batches[0].invited.len(), batches[0].account_data.len()), (1, 1));
    assert!(
        batches[1..]
            .iter()
            .all(|batch| batch.invited.is_empty() && batch.account_data.is_empty())
    );
    assert!(batches[..2].iter().all(|batch| {
        batch.next_batch.is_none()
            && batch.to_device.is_empty()
            && batch.one_time_keys.is_none()
            && batch.left.is_empty()
    }));
    let last = &batches[2];
    assert_eq!(
        (last.next_batch.as_deref(), last.to_device.len(), last.left.len()),
        (Some("s1"), 1, 1)
    );
    assert!(last.one_time_keys.is_some());
    assert!(parts.next().is_none());
    assert_eq!(parts.skipped(), NOTHING);
}

#[test]
fn an_account_without_rooms_is_one_part() {
    let response = Response::parse(br#"{"next_batch":"s1"}"#).unwrap();
    let batches: Vec<Batch> = response.into_parts(device(), None, Moment(1), Moment(2), 0).collect();
    assert_eq!(batches.len(), 1);
    assert_eq!(batches[0].next_batch.as_deref(), Some("s1"));
}

#[test]
fn a_part_with_many_events_ends_early() {
    let events: Vec<Value> = (0..1_500).map(|n| message(&format!("${n}"), n)).collect();
    let room = json!({"timeline": {"events": events}});
    let body = json!({"next_batch": "s1", "rooms": {"join": {"!1": room, "!2": room, "!3": room}}}).to_string();
    let response = Response::parse(body.as_bytes()).unwrap();
    let sizes: Vec<usize> = response
        .into_parts(device(), None, Moment(1), Moment(2), 100)
        .map(|batch| batch.joined.len())
        .collect();
    assert_eq!(sizes, [2, 1]);
}

/// Prints how long a first sync takes to read. Run alone, in release: `cargo test --release -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
#[expect(clippy::print_stdout, reason = "the point of it")]
fn time_of_a_large_first_sync() {
    let mut rooms = serde_json::Map::new();
    for room in 0..1_000 {
        let state: Vec<Value> = (0..60)
            .map(|n| {
                json!({"type": "m.room.member", "state_key": format!("@user{n}:hs"), "sender": format!("@user{n}:hs"),
                       "event_id": format!("$state-{room}-{n}-abcdefghijklmnopqrstuvwxyz012345"),
                       "origin_server_ts": 1_700_000_000_000_i64 + n,
                       "content": {"membership": "join", "displayname": "Somebody", "avatar_url": "mxc://hs/abcdefgh"},
                       "unsigned": {"age": 12345}})
            })
            .collect();
        let timeline: Vec<Value> = (0..20)
            .map(|n| {
                json!({"type": "m.room.encrypted", "sender": format!("@user{n}:hs"),
                       "event_id": format!("$timeline-{room}-{n}-abcdefghijklmnopqrstuvwxyz01"),
                       "origin_server_ts": 1_700_000_000_000_i64 + room * 100 + n,
                       "content": {"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "A".repeat(700)},
                       "unsigned": {"age": 12345, "membership": "join"}})
            })
            .collect();
        rooms.insert(
            format!("!{room}:hs"),
            json!({"state": {"events": state}, "timeline": {"events": timeline, "limited": true}}),
        );
    }
    let body = json!({"next_batch": "s1", "rooms": {"join": rooms}}).to_string();
    let started = std::time::Instant::now();
    let response = Response::parse(body.as_bytes()).unwrap();
    let outer = started.elapsed();
    let mut parts = response.into_parts(device(), None, Moment(1), Moment(2), 50);
    let sorted = started.elapsed();
    let first = parts.next().unwrap();
    let to_first = started.elapsed();
    let rest = parts.count();
    println!(
        "{} MB: outer {outer:?}, sorted {sorted:?}, first part ({} rooms) {to_first:?}, all {} parts {:?}",
        body.len() / 1_000_000,
        first.joined.len(),
        rest + 1,
        started.elapsed()
    );
}
