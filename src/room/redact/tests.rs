use super::*;

fn event(text: &str) -> Event {
    let received = Event::receive(&RawValue::from_string(text.to_owned()).unwrap()).unwrap();
    std::sync::Arc::into_inner(received.event).unwrap()
}

fn redaction() -> Event {
    event(r#"{"type":"m.room.redaction","event_id":"$r","redacts":"$top","content":{"redacts":"$content"}}"#)
}

/// `content` after redaction.
fn content(event_type: &str, content: &str, room_version: &str) -> String {
    let text = format!(r#"{{"type":"{event_type}","event_id":"$a","content":{content}}}"#);
    let redacted = redacted(&event(&text), &redaction(), room_version);
    Fields::of(&redacted.raw).raw("content").unwrap().get().to_owned()
}

#[test]
fn the_target_stands_where_the_room_version_puts_it_or_else_in_the_other_place() {
    for (version, id) in [
        ("1", "$top"),
        ("10", "$top"),
        ("11", "$content"),
        ("12", "$content"),
        ("odd", "$top"),
    ] {
        assert_eq!(target(&redaction(), version), Some(EventId::from(id)), "{version}");
    }
    let old = event(r#"{"type":"m.room.redaction","event_id":"$r","redacts":"$top","content":{}}"#);
    assert_eq!(target(&old, "11"), Some(EventId::from("$top")));
    assert_eq!(
        target(&event(r#"{"type":"m.room.redaction","event_id":"$r"}"#), "11"),
        None
    );
}

#[test]
fn what_was_said_is_gone_and_why_is_told() {
    let event = event(
        r#"{"content":{"body":"secret"},"depth":9007199254740993,"event_id":"$a","extra":"secret","origin":"h",
            "origin_server_ts":5,"sender":"@a:h","type":"m.room.message","unsigned":{"prev_content":"secret"}}"#,
    );
    let raw = redacted(&event, &redaction(), "10").raw;
    assert_eq!(
        raw.get(),
        format!(
            r#"{{"content":{{}},"depth":9007199254740993,"event_id":"$a","origin":"h","origin_server_ts":5,"sender":"@a:h","type":"m.room.message","unsigned":{{"redacted_because":{}}}}}"#,
            redaction().raw.get()
        )
    );
    assert!(!redacted(&event, &redaction(), "11").raw.get().contains("origin\""));
    assert!(Event::receive(&raw).is_ok(), "a redacted event is an event");
}

#[test]
fn kept_content_depends_on_the_room_version() {
    let invite = r#"{"membership":"join","displayname":"x","join_authorised_via_users_server":"@a:h","third_party_invite":{"signed":{"a":1},"display_name":"x"}}"#;
    assert_eq!(content("m.room.member", invite, "8"), r#"{"membership":"join"}"#);
    assert_eq!(
        content("m.room.member", invite, "9"),
        r#"{"membership":"join","join_authorised_via_users_server":"@a:h"}"#
    );
    assert_eq!(
        content("m.room.member", invite, "11"),
        r#"{"membership":"join","join_authorised_via_users_server":"@a:h","third_party_invite":{"signed":{"a":1}}}"#
    );
    let create = r#"{"creator":"@a:h","room_version":"11"}"#;
    assert_eq!(content("m.room.create", create, "10"), r#"{"creator":"@a:h"}"#);
    assert_eq!(content("m.room.create", create, "11"), create);
    let rules = r#"{"join_rule":"restricted","allow":[]}"#;
    assert_eq!(
        content("m.room.join_rules", rules, "7"),
        r#"{"join_rule":"restricted"}"#
    );
    assert_eq!(content("m.room.join_rules", rules, "8"), rules);
    let levels = r#"{"ban":1,"invite":2,"notifications":{}}"#;
    assert_eq!(content("m.room.power_levels", levels, "10"), r#"{"ban":1}"#);
    assert_eq!(content("m.room.power_levels", levels, "11"), r#"{"ban":1,"invite":2}"#);
    let aliases = r##"{"aliases":["#a:h"]}"##;
    assert_eq!(content("m.room.aliases", aliases, "5"), aliases);
    assert_eq!(content("m.room.aliases", aliases, "6"), "{}");
    assert_eq!(content("m.room.name", r#"{"name":"x"}"#, "12"), "{}");
}

#[test]
fn nothing_of_an_event_with_odd_content_remains() {
    for odd in ["\"secret\"", "[\"secret\"]", "null"] {
        assert_eq!(content("m.room.member", odd, "11"), "{}");
    }
    let odd = event(r#"{"type":"m.room.message","event_id":"$a","content":{"body":"secret","\ud800":1}}"#);
    assert!(!redacted(&odd, &redaction(), "1").raw.get().contains("secret"));
}
