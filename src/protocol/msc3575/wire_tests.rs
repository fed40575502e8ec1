use super::*;

fn parse(body: &str) -> Result<Request, Refusal> {
    Request::parse(body.as_bytes(), Query::default())
}

fn refusal(body: &str) -> Refusal {
    parse(body).unwrap_err()
}

#[test]
fn an_empty_body_is_an_empty_request() {
    let request = parse("").unwrap();
    assert_eq!(request.body, parse("{}").unwrap().body);
    assert!(!request.has_pos() && request.conn_id().as_str().is_empty());
}

#[test]
fn what_is_no_json_is_told_from_wrong_types() {
    assert!(matches!(refusal("{"), Refusal::NotJson(_)));
    assert!(matches!(
        Request::parse(b"{\"txn_id\":\"\xff\"}", Query::default()).unwrap_err(),
        Refusal::NotJson(_)
    ));
    for (body, field) in [
        ("[]", "body"),
        (r#"{"lists":5}"#, "lists"),
        (r#"{"lists":{"a":{"ranges":"x"}}}"#, "lists.a.ranges"),
        (r#"{"lists":[{},{"timeline_limit":"x"}]}"#, "lists[1].timeline_limit"),
        (r#"{"lists":{"a":{"filters":{"is_dm":"x"}}}}"#, "lists.a.filters.is_dm"),
        (r#"{"room_subscriptions":{"!a:h":[]}}"#, "room_subscriptions.!a:h"),
        (r#"{"extensions":{"e2ee":{"enabled":1}}}"#, "extensions.e2ee.enabled"),
        (r#"{"txn_id":5}"#, "txn_id"),
    ] {
        let Refusal::BadJson(text) = refusal(body) else {
            panic!("{body}")
        };
        assert!(text.starts_with(&format!("{field}: ")), "{body}: {text}");
    }
}

#[test]
fn values_out_of_bounds_are_named_as_clients_know_them() {
    let long = "x".repeat(65);
    let lists: Vec<String> = (0..101).map(|i| format!(r#""{i}":{{}}"#)).collect();
    for (body, message) in [
        (
            r#"{"conn_id":"12345678901234567"}"#.to_owned(),
            "conn_id is too long: 17 > 16".to_owned(),
        ),
        (
            format!(r#"{{"txn_id":"{long}"}}"#),
            "txn_id is too long: 65 > 64".to_owned(),
        ),
        (
            r#"{"lists":{"name":{"ranges":[[5,2]]}}}"#.to_owned(),
            "list[name] invalid ranges [[5 2]]".to_owned(),
        ),
        (
            r#"{"lists":[{"ranges":[[5]]}]}"#.to_owned(),
            "list[0] invalid ranges [[5]]".to_owned(),
        ),
        (
            format!(r#"{{"lists":{{{}}}}}"#, lists.join(",")),
            "too many lists: 101 > 100".to_owned(),
        ),
        (
            format!(r#"{{"lists":{{"{long}":{{}}}}}}"#),
            "list name is too long: 65 > 64".to_owned(),
        ),
        (
            r#"{"lists":{"a":{"timeline_limit":-1}}}"#.to_owned(),
            "list[a] timeline_limit is negative: -1".to_owned(),
        ),
        (
            r#"{"room_subscriptions":{"!r:h":{"required_state":[["a"]]}}}"#.to_owned(),
            "room_subscriptions[!r:h] invalid required_state: entries are [event type, state key]".to_owned(),
        ),
    ] {
        assert_eq!(refusal(&body), Refusal::InvalidParam(message));
    }
}

#[test]
fn the_first_failed_check_wins() {
    let conn = r#""conn_id":"12345678901234567""#;
    let txn = format!(r#""txn_id":"{}""#, "x".repeat(65));
    let lists = r#""lists":{"a":{"ranges":[[5,2]],"timeline_limit":-1}}"#;
    assert!(matches!(
        refusal(&format!(r#"{{{lists},{conn},{txn},"unsubscribe_rooms":1}}"#)),
        Refusal::BadJson(_)
    ));
    assert!(
        refusal(&format!("{{{lists},{txn},{conn}}}"))
            .to_string()
            .starts_with("conn_id")
    );
    assert!(refusal(&format!("{{{lists},{txn}}}")).to_string().starts_with("txn_id"));
    assert!(refusal(&format!("{{{lists}}}")).to_string().contains("ranges"));
}

#[test]
fn unknown_keys_and_nulls_change_nothing() {
    let plain = parse(r#"{"lists":{"a":{"ranges":[[0,1]]}}}"#).unwrap().body;
    let noisy = r#"{"x":[{}],"delta_token":"d","unsubscribe_rooms":null,"extensions":{"typing":{"enabled":"?"},"zzz":5},
        "lists":{"b":null,"a":{"ranges":[[0,1]],"filters":null,"sort":null,"color":1}}}"#;
    assert_eq!(parse(noisy).unwrap().body, plain);
}

#[test]
fn bodies_are_the_same_whatever_their_txn_id() {
    let one = parse(r#"{"txn_id":"1","lists":{"a":{}},"conn_id":"c"}"#).unwrap();
    let two = parse(r#"{"lists":{"a":{}},"txn_id":"2","conn_id":"c"}"#).unwrap();
    assert_eq!(one.body, two.body);
    let since = |s: &str| {
        parse(&format!(r#"{{"extensions":{{"to_device":{{"since":"{s}"}}}}}}"#))
            .unwrap()
            .body
    };
    assert_ne!(since("1"), since("2"));
}

#[test]
fn timeouts_are_clamped_and_must_be_numbers() {
    let timeout = |text: &str| {
        let query = Query {
            pos: None,
            timeout: Some(text.to_owned()),
        };
        Request::parse(b"", query).unwrap().timeout_ms()
    };
    assert_eq!(parse("").unwrap().timeout_ms(), Ok(10_000));
    for (text, millis) in [
        ("0", 100),
        ("-5", 100),
        ("99", 100),
        ("30000", 30_000),
        ("999999999", 120_000),
    ] {
        assert_eq!(timeout(text), Ok(millis));
    }
    assert_eq!(
        timeout("1s"),
        Err(Refusal::InvalidParam("invalid timeout: 1s".to_owned()))
    );
}

#[test]
fn timelines_are_capped_and_zero_differs_from_absent() {
    let limit = |text: &str| {
        let body = parse(&format!(r#"{{"room_subscriptions":{{"!r:h":{{{text}}}}}}}"#))
            .unwrap()
            .body;
        body.room_subscriptions[&RoomId::from("!r:h")].timeline_limit
    };
    assert_eq!(limit(r#""timeline_limit":1000"#), Some(50));
    assert_eq!(limit(r#""timeline_limit":0"#), Some(0));
    assert_eq!(limit(""), None);
}
