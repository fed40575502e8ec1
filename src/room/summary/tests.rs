use super::*;

fn event(event_type: &str, content: &str) -> Event {
    let text = format!(r#"{{"type":"{event_type}","state_key":"","event_id":"$a","content":{content}}}"#);
    let received = Event::receive(&RawValue::from_string(text).unwrap()).unwrap();
    std::sync::Arc::into_inner(received.event).unwrap()
}

#[test]
fn each_field_follows_its_event_and_is_cleared_without_it() {
    let unknown = RoomSummary::unknown(RoomId::from("!r:h"));
    for (event_type, content) in [
        ("m.room.name", r#"{"name":"N"}"#),
        ("m.room.canonical_alias", r##"{"alias":"#a:h"}"##),
        ("m.room.avatar", r#"{"url":"mxc://h/a"}"#),
        ("m.room.encryption", "{}"),
        ("m.room.tombstone", r#"{"replacement_room":"!n:h"}"#),
        ("m.room.create", r#"{"room_version":"11"}"#),
        ("m.room.create", r#"{"type":"m.space"}"#),
        ("m.room.create", r#"{"predecessor":{"room_id":"!o:h"}}"#),
    ] {
        let mut summary = unknown.clone();
        let event = event(event_type, content);
        assert!(!apply(&mut summary, event_type, "other", Some(&event)));
        assert!(apply(&mut summary, event_type, "", Some(&event)), "{event_type}");
        assert!(
            !apply(&mut summary, event_type, "", Some(&event)),
            "the second time changes nothing"
        );
        assert_ne!(summary, unknown);
        assert!(apply(&mut summary, event_type, "", None));
        assert_eq!(summary, unknown);
    }
}

#[test]
fn empty_and_odd_values_are_no_values() {
    let mut summary = RoomSummary::unknown(RoomId::from("!r:h"));
    for content in [
        r#"{"name":""}"#,
        r#"{"name":5}"#,
        "[]",
        "null",
        r#"{"name":"\ud800"}"#,
        r#"{"name":"\u0000"}"#,
    ] {
        assert!(
            !apply(&mut summary, "m.room.name", "", Some(&event("m.room.name", content))),
            "{content}"
        );
    }
    let create = event(
        "m.room.create",
        r#"{"type":{"a":1e999},"room_version":12,"predecessor":"x"}"#,
    );
    assert!(!apply(&mut summary, "m.room.create", "", Some(&create)));
}

#[test]
fn a_member_with_odd_fields_is_still_a_member() {
    let member = |content: &str| member_content(&event("m.room.member", content));
    let odd = member(r#"{"membership":"join","displayname":["x"],"avatar_url":null,"x":1e999}"#).unwrap();
    assert_eq!(
        (odd.membership, odd.displayname, odd.avatar_url),
        (Membership::Join, None, None)
    );
    assert_eq!(
        member(r#"{"membership":"ban","displayname":"B"}"#)
            .unwrap()
            .displayname
            .as_deref(),
        Some("B")
    );
    assert_eq!(member(r#"{"membership":"teleport"}"#), None);
    assert_eq!(member("{}"), None);
}

#[test]
fn stripped_state_gives_everything_that_an_invited_user_may_know() {
    let events: Vec<Box<RawValue>> = [
        r#"{"type":"m.room.create","state_key":"","sender":"@b:h","content":{"type":"m.space"}}"#,
        r#"{"type":"m.room.name","state_key":"","sender":"@b:h","content":{"name":"N"}}"#,
        r#"{"type":"m.room.encryption","state_key":"","sender":"@b:h","content":{}}"#,
        r#"{"type":5}"#,
        r#""nonsense""#,
        r#"{"type":"m.room.member","state_key":"@b:h","sender":"@b:h","content":{"membership":"join"}}"#,
        r#"{"type":"m.room.member","state_key":"@c:h","sender":"@b:h","content":{"membership":"invite"}}"#,
        r#"{"type":"m.room.member","state_key":"@me:h","sender":"@b:h","origin_server_ts":7,
            "content":{"membership":"invite","is_direct":true}}"#,
        r#"{"type":"m.room.member","state_key":"@me:h","sender":"@b:h",
            "content":{"membership":"invite","is_direct":true}}"#,
    ]
    .map(|text| RawValue::from_string(text.to_owned()).unwrap())
    .into();
    let facts = stripped_facts(&events, &UserId::from("@me:h"));
    assert_eq!(
        facts,
        StrippedFacts {
            name: Some("N".to_owned()),
            room_type: Some("m.space".to_owned()),
            encrypted: true,
            is_direct: true,
            heroes: vec![Hero {
                user_id: UserId::from("@b:h"),
                displayname: None,
                avatar_url: None
            }],
            inviter: Some(UserId::from("@b:h")),
            own_member_ts: 7,
            has_own_member: true,
            own_membership: Some(Membership::Invite),
            ..StrippedFacts::default()
        }
    );
    assert!(!stripped_facts(&events, &UserId::from("@you:h")).has_own_member);
}
