//! What is said of rooms: snapshots, live updates, subscriptions, membership.

use super::*;
use crate::ids::{EventId, RoomId, UserId};
use crate::model::room::{Hero, Membership};
use crate::protocol::fixtures::{Brings, ME, Room, event, member, message};

fn brings(events: &[&str]) -> Option<Brings> {
    Some(Brings {
        events: events.iter().map(|id| message(id, "@you:h")).collect(),
        ..Brings::default()
    })
}

fn one(event: std::sync::Arc<crate::model::event::Event>) -> Option<Brings> {
    Some(Brings {
        events: vec![event],
        ..Brings::default()
    })
}

fn started(letters: &str, body: &Value) -> Client {
    let mut client = Client::new(World::with_rooms(letters));
    client.ask(None, body, &[]).unwrap();
    client
}

#[test]
fn a_snapshot_has_exactly_its_fields() {
    let mut client = Client::new(World::with_rooms("a"));
    client.world.change("!a:h", |room| room.is_dm = true);
    client
        .world
        .commit(&[("!a:h", one(event("$t", ME, "m.room.topic", Some(""), json!({}))))]);
    let body =
        json!({"lists": {"a": {"ranges": [[0, 9]], "timeline_limit": 1, "required_state": [["m.room.topic", ""]]}}});
    let answer = client.ask(None, &body, &[]).unwrap();
    let room = &answer["rooms"]["!a:h"];
    let mut expected = vec![
        "name",
        "avatar",
        "initial",
        "is_dm",
        "required_state",
        "timeline",
        "prev_batch",
        "notification_count",
        "highlight_count",
        "joined_count",
        "invited_count",
        "timestamp",
    ];
    expected.sort_unstable();
    let mut found = keys(room);
    found.sort_unstable();
    assert_eq!(found, expected);
    assert_eq!((&room["avatar"], ids(&room["timeline"])), (&Value::Null, vec!["$t"]));
    assert_eq!(ids(&room["required_state"]), ["$t"]);
}

#[test]
fn a_live_event_has_exactly_its_fields() {
    let mut client = started("ab", &window(0, 1));
    let change = client.world.bump("!b:h", "$1");
    let answer = client.live(&change);
    let room = &answer["rooms"]["!b:h"];
    let mut found = keys(room);
    found.sort_unstable();
    let expected = [
        "highlight_count",
        "notification_count",
        "num_live",
        "prev_batch",
        "timeline",
        "timestamp",
    ];
    assert_eq!(found, expected);
    assert_eq!(
        (&room["num_live"], &room["prev_batch"]),
        (&json!(1), &json!("before$1"))
    );
    assert_eq!(keys(&answer["rooms"]), ["!b:h"]);
}

#[test]
fn changed_facts_are_sent_and_others_not() {
    let mut client = started("ab", &window(0, 1));
    client.world.change("!a:h", |room| room.unread.notification_count = 3);
    let change = client.world.commit(&[("!a:h", None)]);
    let room = client.live(&change)["rooms"]["!a:h"].clone();
    assert_eq!(room, json!({"notification_count": 3, "highlight_count": 0}));

    client.world.change("!a:h", |room| {
        (room.joined, room.invited, room.name) = (0, 1, "new".into());
        room.avatar = Some("mxc://h/a".into());
    });
    let change = client.world.commit(&[("!a:h", None)]);
    let room = client.live(&change)["rooms"]["!a:h"].clone();
    assert_eq!(
        room,
        json!({"name": "new", "avatar": "mxc://h/a", "joined_count": 0, "invited_count": 1,
            "notification_count": 3, "highlight_count": 0})
    );
    client.world.change("!a:h", |room| room.avatar = None);
    let change = client.world.commit(&[("!a:h", None)]);
    assert_eq!(client.live(&change)["rooms"]["!a:h"]["avatar"], Value::Null);
}

#[test]
fn rooms_out_of_sight_are_silent() {
    let mut client = started(
        "abc",
        &json!({"lists": {"a": {"ranges": [[0, 0]], "sort": ["by_name"]}}}),
    );
    let change = client.world.bump("!c:h", "$1");
    let query = Query {
        pos: client.pos.clone(),
        timeout: None,
    };
    let request = Request::parse(b"{}", query).unwrap();
    client.connection.accept(request, &client.world.view).unwrap();
    client.connection.apply(&change);
    assert!(client.connection.plan().is_empty() && !client.connection.has_news());
}

#[test]
fn a_room_bumped_into_the_window_comes_whole_with_the_live_events_counted() {
    let mut client = started("abc", &window(0, 0));
    let changes = [client.world.bump("!c:h", "$1"), client.world.bump("!c:h", "$2")];
    let answer = client.next(&json!({}), &changes);
    let room = &answer["rooms"]["!c:h"];
    assert_eq!(ids(&room["timeline"]), ["$first!c:h", "$1", "$2"]);
    assert_eq!((&room["num_live"], &room["initial"]), (&json!(2), &json!(true)));
}

#[test]
fn live_events_that_a_short_snapshot_leaves_out_are_not_appended_behind_it() {
    let short = json!({"lists": {"a": {"ranges": [[0, 0]], "timeline_limit": 1}}});
    let mut client = started("abc", &short);
    let changes = [client.world.bump("!c:h", "$1"), client.world.bump("!c:h", "$2")];
    let room = client.next(&json!({}), &changes)["rooms"]["!c:h"].clone();
    assert_eq!((ids(&room["timeline"]), &room["num_live"]), (vec!["$2"], &json!(1)));
}

#[test]
fn events_after_the_snapshot_are_appended_once() {
    let mut client = started("abc", &window(0, 0));
    let query = Query {
        pos: client.pos.clone(),
        timeout: None,
    };
    let first = client.world.bump("!c:h", "$1");
    client
        .connection
        .accept(Request::parse(b"{}", query).unwrap(), &client.world.view)
        .unwrap();
    client.connection.apply(&first);
    client.load();
    let second = client.world.bump("!c:h", "$2");
    client.connection.apply(&second);
    client.connection.apply(&second);
    client.load();
    let answer: Value = serde_json::from_slice(&client.connection.render().body).unwrap();
    let room = &answer["rooms"]["!c:h"];
    assert_eq!(ids(&room["timeline"]), ["$first!c:h", "$1", "$2"]);
    assert_eq!(room["num_live"], 2);
}

#[test]
fn a_list_without_timeline_still_streams_live_events() {
    let mut client = started("ab", &json!({"lists": {"a": {"ranges": [[0, 0]]}}}));
    let change = client.world.bump("!b:h", "$1");
    let room = client.live(&change)["rooms"]["!b:h"].clone();
    assert_eq!((ids(&room["timeline"]), &room["initial"]), (vec!["$1"], &json!(true)));
}

#[test]
fn a_refresh_sends_the_changed_part_only() {
    let mut client = Client::new(World::with_rooms("a"));
    client
        .world
        .commit(&[("!a:h", one(event("$t", ME, "m.room.topic", Some(""), json!({}))))]);
    client
        .ask(
            None,
            &json!({"lists": {"a": {"ranges": [[0, 0]], "include_heroes": true}}}),
            &[],
        )
        .unwrap();
    let room = |answer: Value| answer["rooms"]["!a:h"].clone();
    let limit = room(client.next(&json!({"lists": {"a": {"timeline_limit": 1}}}), &[]));
    assert_eq!((&limit["initial"], ids(&limit["timeline"])), (&json!(true), vec!["$t"]));
    assert!(limit.get("required_state").is_none() && limit.get("num_live").is_none());
    let change = client.world.bump("!a:h", "$2");
    let state = json!({"lists": {"a": {"required_state": [["m.room.topic", ""]]}}});
    let state = room(client.next(&state, &[change]));
    assert_eq!(
        (ids(&state["required_state"]), ids(&state["timeline"])),
        (vec!["$t"], vec!["$2"])
    );
    let both = json!({"lists": {"a": {"required_state": [["*", "*"]], "timeline_limit": 2}}});
    let both = room(client.next(&both, &[]));
    assert_eq!(
        (ids(&both["required_state"]), ids(&both["timeline"])),
        (vec!["$t"], vec!["$t", "$2"])
    );
}

#[test]
fn members_are_sent_lazily_and_once() {
    let mut client = Client::new(World::with_rooms("a"));
    for user in ["@you:h", "@ada:h", "@bob:h"] {
        client
            .world
            .commit(&[("!a:h", one(member(&format!("$m{user}"), user, user, "join")))]);
    }
    client.world.bump("!a:h", "$0");
    let body = json!({"lists": {"a": {"ranges": [[0, 0]], "timeline_limit": 1,
        "required_state": [["m.room.member", "$LAZY"]]}}});
    let answer = client.ask(None, &body, &[]).unwrap();
    assert_eq!(ids(&answer["rooms"]["!a:h"]["required_state"]), ["$m@you:h"]);
    let say = |client: &mut Client, id: &str, user: &str| {
        let change = client.world.commit(&[("!a:h", one(message(id, user)))]);
        client.live(&change)["rooms"]["!a:h"].clone()
    };
    assert!(say(&mut client, "$1", "@you:h").get("required_state").is_none());
    assert_eq!(ids(&say(&mut client, "$2", "@ada:h")["required_state"]), ["$m@ada:h"]);
    assert!(say(&mut client, "$3", "@ada:h").get("required_state").is_none());
    assert!(say(&mut client, "$4", "@gone:h").get("required_state").is_none());
}

#[test]
fn heroes_are_named_on_request_if_they_made_the_name() {
    let mut client = Client::new(World::with_rooms("ab"));
    client.world.change("!a:h", |room| {
        room.from_heroes = true;
        room.heroes = vec![Hero {
            user_id: UserId::from("@ada:h"),
            displayname: Some("Ada".into()),
            avatar_url: None,
        }];
    });
    client.world.commit(&[("!a:h", None)]);
    let body = json!({"lists": {"a": {"ranges": [[0, 1]], "include_heroes": true}}});
    let answer = client.ask(None, &body, &[]).unwrap();
    assert_eq!(
        answer["rooms"]["!a:h"]["heroes"],
        json!([{"user_id": "@ada:h", "displayname": "Ada"}])
    );
    assert!(answer["rooms"]["!b:h"].get("heroes").is_none());
    let answer = client.ask(None, &window(0, 1), &[]).unwrap();
    assert!(answer["rooms"]["!a:h"].get("heroes").is_none());
}

#[test]
fn a_gap_is_told_and_what_lies_before_it_is_left_to_paging() {
    let mut client = started("a", &window(0, 0));
    let before = client.world.bump("!a:h", "$1");
    let after = client.world.commit(&[(
        "!a:h",
        Some(Brings {
            events: vec![message("$9", "@you:h")],
            limited: true,
            prev_batch: Some("gap".into()),
            ..Brings::default()
        }),
    )]);
    let room = client.next(&json!({}), &[before, after])["rooms"]["!a:h"].clone();
    assert_eq!((ids(&room["timeline"]), &room["limited"]), (vec!["$9"], &json!(true)));
    assert_eq!((&room["prev_batch"], &room["num_live"]), (&json!("gap"), &json!(1)));
}

#[test]
fn transaction_ids_are_for_the_sending_device() {
    let mut client = started("a", &window(0, 0));
    let sent = |id: &str, sender: &str| Brings {
        events: vec![message(id, sender)],
        transaction_ids: [(EventId::from(id), "t1".to_owned())].into(),
        ..Brings::default()
    };
    let own = client.world.commit(&[("!a:h", Some(sent("$1", ME)))]);
    let mut other_device = client.world.commit(&[("!a:h", Some(sent("$2", ME)))]);
    other_device.device_id = Some("LAPTOP".into());
    let other_user = client.world.commit(&[("!a:h", Some(sent("$3", "@you:h")))]);
    let room = client.next(&json!({}), &[own, other_device, other_user])["rooms"]["!a:h"].clone();
    let shown: Vec<&Value> = (0..3)
        .map(|i| &room["timeline"][i]["unsigned"]["transaction_id"])
        .collect();
    assert_eq!(shown, [&json!("t1"), &Value::Null, &Value::Null]);
}

#[test]
fn subscriptions_live_from_join_to_leave_and_again() {
    let mut client = Client::new(World::with_rooms("ab"));
    client.world.change("!x:h", |room| room.membership = Membership::Invite);
    client.world.commit(&[("!x:h", None)]);
    let subscribe = |limit: usize, room: &str| json!({"room_subscriptions": {room: {"timeline_limit": limit}}});
    let mut body = subscribe(1, "!a:h");
    body["room_subscriptions"]["!x:h"] = json!({"timeline_limit": 9});
    body["room_subscriptions"]["!forged:h"] = json!({});
    let answer = client.ask(None, &body, &[]).unwrap();
    assert_eq!((&answer["lists"], keys(&answer["rooms"])), (&json!({}), vec!["!a:h"]));
    assert_eq!(client.next(&body, &[])["rooms"], json!({}));
    assert_eq!(
        client.next(&subscribe(2, "!a:h"), &[])["rooms"]["!a:h"]["initial"],
        true
    );

    for round in 0..2 {
        client.world.change("!x:h", |room| {
            (room.membership, room.joined_ts) = (Membership::Join, 10 + round)
        });
        let join = client
            .world
            .commit(&[("!x:h", one(member(&format!("$j{round}"), ME, ME, "join")))]);
        let room = client.live(&join)["rooms"]["!x:h"].clone();
        assert_eq!((&room["initial"], &room["num_live"]), (&json!(true), &json!(1)));
        client.world.change("!x:h", |room| room.membership = Membership::Leave);
        let leave = client
            .world
            .commit(&[("!x:h", one(member(&format!("$l{round}"), ME, ME, "leave")))]);
        let room = client.live(&leave)["rooms"]["!x:h"].clone();
        assert_eq!((ids(&room["timeline"]).len(), room.get("initial")), (1, None));
    }

    let mut gone = subscribe(2, "!a:h");
    gone["unsubscribe_rooms"] = json!(["!a:h", "!unknown:h"]);
    client.next(&gone, &[]);
    let change = client.world.bump("!a:h", "$1");
    assert_eq!(client.live(&change)["rooms"], json!({}));
    assert_eq!(
        client.next(&subscribe(2, "!a:h"), &[])["rooms"]["!a:h"]["initial"],
        true
    );
}

#[test]
fn several_reasons_for_one_snapshot_are_combined() {
    let mut client = Client::new(World::with_rooms("a"));
    client.world.bump("!a:h", "$1");
    client
        .world
        .commit(&[("!a:h", one(event("$t", ME, "m.room.topic", Some(""), json!({}))))]);
    let body = json!({"lists": {"a": {"ranges": [[0, 0]], "timeline_limit": 2}},
        "room_subscriptions": {"!a:h": {"timeline_limit": 1, "required_state": [["m.room.topic", ""]]}}});
    let room = client.ask(None, &body, &[]).unwrap()["rooms"]["!a:h"].clone();
    assert_eq!(
        (ids(&room["timeline"]), ids(&room["required_state"])),
        (vec!["$1", "$t"], vec!["$t"])
    );
}

#[test]
fn an_invite_shows_its_stripped_state_and_nothing_else() {
    let mut client = started("a", &window(0, 9));
    let stripped = json!({"type": "m.room.name", "state_key": "", "sender": "@you:h", "content": {"name": "I"}});
    client.world.change("!i:h", |room| {
        *room = Room::new("I", 2_000_000);
        (room.membership, room.joined, room.is_dm) = (Membership::Invite, 77, true);
        room.invite = vec![stripped.clone()];
    });
    let invite = client.world.commit(&[("!i:h", None)]);
    let room = client.live(&invite)["rooms"]["!i:h"].clone();
    assert_eq!(
        room,
        json!({"name": "I", "avatar": null, "initial": true, "is_dm": true, "invite_state": [stripped],
            "notification_count": 0, "highlight_count": 1, "joined_count": 1, "invited_count": 1, "timestamp": 2_000_000})
    );
    client.world.change("!i:h", |room| room.membership = Membership::Join);
    let join = client.world.commit(&[("!i:h", one(member("$j", ME, ME, "join")))]);
    let answer = client.live(&join);
    let room = &answer["rooms"]["!i:h"];
    assert_eq!((&room["initial"], &room["joined_count"]), (&json!(true), &json!(77)));
    assert_eq!(
        (&room["highlight_count"], ids(&room["timeline"])),
        (&json!(0), vec!["$j"])
    );
    assert!(answer["lists"]["a"].get("ops").is_none() && room.get("invite_state").is_none());
}

#[test]
fn a_rejected_invite_goes_with_its_leave_event() {
    let mut client = Client::new(World::with_rooms("a"));
    client.world.change("!i:h", |room| room.membership = Membership::Invite);
    client.world.commit(&[("!i:h", None)]);
    client.ask(None, &window(0, 9), &[]).unwrap();
    client.world.change("!i:h", |room| room.membership = Membership::Leave);
    let leave = client.world.commit(&[("!i:h", one(member("$l", ME, ME, "leave")))]);
    let answer = client.live(&leave);
    assert_eq!(
        answer["lists"]["a"],
        json!({"count": 1, "ops": [{"op": "DELETE", "index": 1}]})
    );
    let mut found = keys(&answer["rooms"]["!i:h"]);
    found.sort_unstable();
    assert_eq!(found, ["highlight_count", "notification_count", "num_live", "timeline"]);
}

#[test]
fn a_kick_is_delivered_once_whoever_reports_it_first() {
    let mut client = started("ab", &window(0, 9));
    client.world.change("!a:h", |room| room.membership = Membership::Leave);
    let ended = client.world.commit(&[("!a:h", None)]);
    let answer = client.live(&ended);
    assert_eq!(
        (&answer["lists"]["a"]["count"], &answer["rooms"]),
        (&json!(1), &json!({}))
    );
    let kick = client
        .world
        .commit(&[("!a:h", one(member("$k", "@mod:h", ME, "leave")))]);
    let room = client.live(&kick)["rooms"]["!a:h"].clone();
    assert_eq!((ids(&room["timeline"]), &room["num_live"]), (vec!["$k"], &json!(1)));
    let again = client
        .world
        .commit(&[("!a:h", one(member("$k", "@mod:h", ME, "leave")))]);
    assert_eq!(client.live(&again)["rooms"], json!({}));
    let after = client.world.commit(&[("!a:h", brings(&["$secret"]))]);
    assert_eq!(client.live(&after)["rooms"], json!({}));
    let answer = client.next(
        &json!({"lists": {"new": {"ranges": [[0, 9]], "sort": ["by_name"]}}}),
        &[],
    );
    assert_eq!(answer["lists"]["new"]["ops"][0]["room_ids"], json!(["!b:h"]));
}

#[test]
fn a_ban_from_a_room_never_shown_is_silent() {
    let mut client = started("a", &window(0, 9));
    client.world.change("!z:h", |room| room.membership = Membership::Ban);
    let ban = client.world.commit(&[("!z:h", one(member("$b", "@mod:h", ME, "ban")))]);
    let answer = client.live(&ban);
    assert_eq!(
        (&answer["rooms"], &answer["lists"]["a"]),
        (&json!({}), &json!({"count": 1}))
    );
}

#[test]
fn revoking_leaves_nothing_pending_but_the_leave_event() {
    let mut client = started("ab", &window(0, 1));
    let query = Query {
        pos: client.pos.clone(),
        timeout: None,
    };
    let body = json!({"lists": {"a": {"timeline_limit": 9, "required_state": [["*", "*"]]}}});
    let request = Request::parse(body.to_string().as_bytes(), query).unwrap();
    client.connection.accept(request, &client.world.view).unwrap();
    let secret = client.world.bump("!a:h", "$secret");
    client.connection.apply(&secret);
    client.load();
    client.world.change("!a:h", |room| room.membership = Membership::Leave);
    let mut events = brings(&["$also"]).unwrap();
    events.events.push(member("$l", "@mod:h", ME, "leave"));
    let leave = client.world.commit(&[("!a:h", Some(events))]);
    client.connection.apply(&leave);
    client.connection.revoke(&RoomId::from("!a:h"));
    client.load();
    let answer: Value = serde_json::from_slice(&client.connection.render().body).unwrap();
    let room = &answer["rooms"]["!a:h"];
    assert_eq!((ids(&room["timeline"]), room.get("initial")), (vec!["$l"], None));
    assert_eq!(answer["rooms"]["!b:h"]["initial"], true);
}

#[test]
fn joining_the_successor_takes_the_old_room_out_of_the_list() {
    let mut client = Client::new(World::with_rooms("vk"));
    client
        .world
        .change("!v:h", |room| room.replacement = Some("!w:h".into()));
    client.world.commit(&[("!v:h", None)]);
    client.ask(None, &window(0, 1), &[]).unwrap();
    client.world.change("!w:h", |room| {
        (room.recency, room.predecessor) = (2_000_000, Some("!v:h".into()))
    });
    let join = client.world.commit(&[("!w:h", one(member("$j", ME, ME, "join")))]);
    let answer = client.live(&join);
    let op = |op: &str, index: usize| json!({"op": op, "index": index});
    let insert = |index: usize, room: &str| json!({"op": "INSERT", "index": index, "room_id": room});
    let ops = json!([op("DELETE", 1), insert(0, "!w:h"), op("DELETE", 1), insert(1, "!k:h")]);
    assert_eq!(answer["lists"]["a"], json!({"count": 2, "ops": ops}));
    assert_eq!(answer["rooms"]["!k:h"]["initial"], true);
}
