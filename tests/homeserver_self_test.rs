//! Tests of the scripted homeserver itself, so that other tests may believe it.

mod support;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::bodies::{account, account_room, member, message, state, v2};
use support::homeserver::{Concerns, Fault, Handed, Homeserver};

const TOKEN: &str = "token";

fn homeserver() -> Homeserver {
    let homeserver = Homeserver::start();
    homeserver.register(TOKEN, "@alice:hs", "PHONE");
    homeserver
}

async fn get(homeserver: &Homeserver, path: &str) -> Result<(u16, Vec<u8>), String> {
    let client = awc::Client::builder().disable_redirects().finish();
    let request = client
        .get(format!("{}/_matrix/client/{path}", homeserver.url()))
        .bearer_auth(TOKEN);
    let mut response = request.send().await.map_err(|error| error.to_string())?;
    let body = response
        .body()
        .limit(1 << 30)
        .await
        .map_err(|error| error.to_string())?;
    // awc takes the end of the connection for the end of the body.
    let length = response
        .headers()
        .get("content-length")
        .and_then(|length| length.to_str().ok()?.parse().ok());
    if length.is_some_and(|length: usize| length != body.len()) {
        return Err("the body is too short".to_owned());
    }
    Ok((response.status().as_u16(), body.to_vec()))
}

async fn json(homeserver: &Homeserver, path: &str) -> (u16, Value) {
    let (status, body) = get(homeserver, path).await.expect("an answer");
    (status, serde_json::from_slice(&body).expect("JSON"))
}

fn sync_path(since: Option<&str>, timeout: u64) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("timeout", &timeout.to_string());
    if let Some(since) = since {
        query.append_pair("since", since);
    }
    format!("v3/sync?{}", query.finish())
}

async fn sync(homeserver: &Homeserver, since: Option<&str>, timeout: u64) -> Value {
    let (status, body) = json(homeserver, &sync_path(since, timeout)).await;
    assert_eq!(status, 200, "{body}");
    body
}

fn next(body: &Value) -> Option<&str> {
    body["next_batch"].as_str()
}

#[actix_web::test]
async fn the_same_position_gives_the_same_response_and_a_later_one_acknowledges() {
    let homeserver = homeserver();
    homeserver.push(TOKEN, v2().to_device("m1", "@bob:hs", "m.room_key", json!({})));
    homeserver.push(
        TOKEN,
        v2().join("!a:hs", |room| room.timeline([message("$1", "@bob:hs", 1, "x")])),
    );
    let first = sync(&homeserver, None, 0).await;
    assert_eq!(first, sync(&homeserver, None, 0).await);
    assert_eq!(next(&first), Some("s1&+%/=_é"));
    let handed = |acknowledged| Handed { times: 2, acknowledged };
    assert_eq!(homeserver.ledger(TOKEN)["m1"], handed(false));
    let second = sync(&homeserver, next(&first), 0).await;
    assert_eq!(
        second["rooms"]["join"]["!a:hs"]["timeline"]["events"][0]["event_id"],
        "$1"
    );
    assert_eq!(homeserver.ledger(TOKEN)["m1"], handed(true));
    let third = sync(&homeserver, next(&second), 0).await;
    assert_eq!(third, json!({"next_batch": next(&second)}));
    let sinces: Vec<_> = homeserver
        .requests(TOKEN)
        .iter()
        .map(|seen| seen.parameter("since").map(str::to_owned))
        .collect();
    assert_eq!(
        sinces,
        [
            None,
            None,
            next(&first).map(str::to_owned),
            next(&second).map(str::to_owned)
        ]
    );
}

#[actix_web::test]
async fn a_long_poll_waits_for_the_script_to_go_on() {
    let homeserver = homeserver();
    let first = sync(&homeserver, None, 30_000).await;
    let waiting = sync(&homeserver, next(&first), 30_000);
    let pushing = async {
        homeserver.until(|homeserver| homeserver.waiting(TOKEN) == 1).await;
        homeserver.push(TOKEN, v2().account_data("m.x", json!({"a": 1})));
    };
    let (second, ()) = futures_util::future::join(waiting, pushing).await;
    assert_eq!(second["account_data"]["events"][0]["content"]["a"], 1);
    homeserver.until(|homeserver| homeserver.waiting(TOKEN) == 0).await;
    let before = Instant::now();
    assert_eq!(next(&sync(&homeserver, next(&second), 50).await), next(&second));
    assert!(before.elapsed() >= Duration::from_millis(50));
}

#[actix_web::test]
async fn an_unknown_position_and_an_unknown_token_are_refused() {
    let homeserver = homeserver();
    assert_eq!(json(&homeserver, &sync_path(Some("nonsense"), 0)).await.0, 400);
    homeserver.revoke(TOKEN);
    let (status, body) = json(&homeserver, "v3/account/whoami").await;
    assert_eq!((status, body["errcode"].as_str()), (401, Some("M_UNKNOWN_TOKEN")));
}

#[actix_web::test]
async fn two_tokens_of_a_device_share_its_script() {
    let homeserver = homeserver();
    homeserver.register("newer", "@alice:hs", "PHONE");
    homeserver.push("newer", v2().device_lists(&["@bob:hs"], &[]));
    assert_eq!(
        sync(&homeserver, None, 0).await["device_lists"]["changed"][0],
        "@bob:hs"
    );
}

#[actix_web::test]
async fn faults_happen_as_often_as_asked_and_then_all_is_well() {
    let homeserver = homeserver();
    homeserver.push(
        TOKEN,
        v2().account_data("m.x", json!({"text": "long enough to be cut"})),
    );
    for (fault, status) in [
        (Fault::limited(5), 429),
        (Fault::error(503, "M_UNKNOWN"), 503),
        (Fault::unknown_token(true), 401),
        (Fault::error(403, "M_RESOURCE_LIMIT_EXCEEDED"), 403),
        (Fault::Redirect("http://127.0.0.1:9/".to_owned()), 302),
        (Fault::Html, 200),
        (Fault::Truncated, 200),
    ] {
        homeserver.fault(Concerns::sync().of(TOKEN), fault.clone());
        let (got, body) = get(&homeserver, &sync_path(None, 0)).await.unwrap();
        assert_eq!(got, status);
        let is_json = serde_json::from_slice::<Value>(&body).is_ok();
        assert_eq!(
            is_json,
            !matches!(fault, Fault::Redirect(_) | Fault::Html | Fault::Truncated),
            "{fault:?}"
        );
    }
    homeserver.fault(Concerns::sync(), Fault::Cut);
    assert!(get(&homeserver, &sync_path(None, 0)).await.is_err());
    homeserver.fault(Concerns::sync().of("somebody else"), Fault::Cut);
    homeserver.fault(Concerns::sync(), Fault::Delay(Duration::from_millis(50)));
    let before = Instant::now();
    sync(&homeserver, None, 0).await;
    assert!(before.elapsed() >= Duration::from_millis(50));
    homeserver.fault(Concerns::path("whoami").always(), Fault::error(500, "M_UNKNOWN"));
    for _ in 0..3 {
        assert_eq!(json(&homeserver, "v3/account/whoami").await.0, 500);
    }
    homeserver.heal();
    let (_, whoami) = json(&homeserver, "v3/account/whoami").await;
    assert_eq!(whoami, json!({"user_id": "@alice:hs", "device_id": "PHONE"}));
}

#[actix_web::test]
async fn an_endless_body_does_not_end() {
    let homeserver = homeserver();
    homeserver.fault(Concerns::sync(), Fault::Endless);
    let path = sync_path(None, 0);
    let result = tokio::time::timeout(Duration::from_millis(300), get(&homeserver, &path)).await;
    assert!(result.is_err(), "{result:?}");
}

#[actix_web::test]
async fn state_members_and_joined_rooms_follow_the_script() {
    let homeserver = homeserver();
    let name = state("$n", "@a:hs", 1, "m.room.name", "", json!({"name": "N"}));
    let events = [name.clone(), member("$m", "@a:hs", 2, "join", "A")];
    homeserver.push(TOKEN, v2().join("!a/b:hs", |room| room.state(events)));
    assert_eq!(
        json(&homeserver, "v3/joined_rooms").await.1,
        json!({"joined_rooms": ["!a/b:hs"]})
    );
    let room = "v3/rooms/%21a%2Fb%3Ahs";
    assert_eq!(
        json(&homeserver, &format!("{room}/state/m.room.name/?format=event"))
            .await
            .1,
        name
    );
    assert_eq!(
        json(&homeserver, &format!("{room}/state/m.room.name")).await.1,
        json!({"name": "N"})
    );
    assert_eq!(json(&homeserver, &format!("{room}/state/m.room.topic/")).await.0, 404);
    assert_eq!(
        json(&homeserver, &format!("{room}/state"))
            .await
            .1
            .as_array()
            .map(Vec::len),
        Some(2)
    );
    assert_eq!(
        json(&homeserver, &format!("{room}/members")).await.1["chunk"][0]["event_id"],
        "$m"
    );
    assert_eq!(json(&homeserver, "versions").await.0, 200);
}

#[actix_web::test]
async fn a_response_can_be_pushed_over_http() {
    let homeserver = homeserver();
    let url = format!("{}/_control/push/{TOKEN}", homeserver.url());
    let response = awc::Client::new()
        .post(url)
        .send_json(&json!({"to_device": {"events": [{"type": "m.x"}]}}))
        .await;
    assert_eq!(response.unwrap().status(), 200);
    assert_eq!(
        sync(&homeserver, None, 0).await["to_device"]["events"][0]["type"],
        "m.x"
    );
    assert_eq!(homeserver.ledger(TOKEN)["0:0"].times, 1);
}

#[actix_web::test]
async fn a_large_account_is_valid_of_the_wanted_size_and_always_the_same() {
    let body = account(7, 100, 2_000_000);
    assert_eq!(body, account(7, 100, 2_000_000));
    assert_ne!(body, account(8, 100, 2_000_000));
    assert!((1_600_000..2_400_000).contains(&body.len()), "{}", body.len());
    let homeserver = homeserver();
    homeserver.push_rendered(TOKEN, body, (0..100).map(account_room));
    let first = sync(&homeserver, None, 0).await;
    let rooms = first["rooms"]["join"].as_object().unwrap();
    assert_eq!(rooms.len(), 100);
    assert!(
        rooms
            .values()
            .all(|room| room["timeline"]["events"].as_array().map(Vec::len) == Some(20))
    );
    assert_eq!(next(&first), Some("s1&+%/=_é"));
}
