//! A homeserver that is slow, broken or lying, and clients that do not know what they ask.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::bodies::{joined, message, room_state, state};
use crate::support::client::Client;
use crate::support::database::Database;
use crate::support::homeserver::{Concerns, Fault, Homeserver};
use crate::support::server::Server;

const ROOM: &str = "!r:h";

fn body() -> Value {
    json!({"lists": {"all": {"ranges": [[0, 9]], "timeline_limit": 20}}})
}

fn whoami_count(homeserver: &Homeserver) -> usize {
    homeserver
        .all_requests()
        .iter()
        .filter(|seen| seen.path.contains("whoami"))
        .count()
}

async fn until_event(client: &Client, pos: &mut String, event_id: &str) -> Value {
    let began = Instant::now();
    loop {
        let answer = client.sync(Some(pos), 2_000, body()).await.ok();
        *pos = answer["pos"].as_str().unwrap().to_owned();
        if answer["rooms"].to_string().contains(event_id) {
            return answer;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{event_id} does not arrive");
    }
}

async fn begun(database: &Database, settings: &[(&str, &str)]) -> (Homeserver, String, Server, Client, String) {
    let homeserver = Homeserver::start();
    let token = "token".to_owned();
    homeserver.register(&token, "@a:h", "A");
    let timeline = vec![message("$0", "@a:h", 10, "zero")];
    homeserver.push(
        &token,
        joined(ROOM, room_state(ROOM, "Room", &["@a:h", "@b:h"]), timeline, 2),
    );
    let server = Server::start_with(database, &homeserver.url(), settings).await;
    let client = Client::new(&server.base, &token);
    let first = client.sync(None, 5_000, body()).await.ok();
    assert_eq!(first["lists"]["all"]["count"], 1, "{first}");
    let pos = first["pos"].as_str().unwrap().to_owned();
    (homeserver, token, server, client, pos)
}

async fn upstream_failures_reach_nobody(database: Database) {
    let (homeserver, token, _server, client, mut pos) = begun(&database, &[("SYNCV3_HTTP_TIMEOUT_SECS", "1")]).await;
    let faults = [
        Fault::error(500, "M_UNKNOWN"),
        Fault::answer(503, &json!({})),
        Fault::limited(300),
        Fault::error(403, "M_FORBIDDEN"),
        Fault::error(403, "M_RESOURCE_LIMIT_EXCEEDED"),
        Fault::answer(401, &json!({"error": "no errcode: some proxy"})),
        Fault::answer(404, &json!("not here")),
        Fault::Html,
        Fault::Redirect("http://127.0.0.1:1/".to_owned()),
        Fault::Truncated,
        Fault::Cut,
    ];
    for (n, fault) in faults.into_iter().enumerate() {
        // It meets the request that follows the next response.
        homeserver.fault(Concerns::sync().of(&token), fault);
        let began = Instant::now();
        // The client's polls are answered in time whatever happens behind.
        let empty = client.sync(Some(&pos), 200, body()).await.ok();
        assert!(began.elapsed() < Duration::from_secs(3), "fault {n} delays the client");
        pos = empty["pos"].as_str().unwrap().to_owned();
        let event_id = format!("$after{n}");
        homeserver.push(
            &token,
            joined(ROOM, vec![], vec![message(&event_id, "@b:h", 100, "x")], 2),
        );
        until_event(&client, &mut pos, &event_id).await;
    }
}

#[actix_rt::test]
async fn upstream_failures_reach_nobody_on_sqlite() {
    upstream_failures_reach_nobody(Database::sqlite()).await;
}

#[actix_rt::test]
async fn upstream_failures_reach_nobody_on_postgres() {
    if let Some(database) = Database::postgres() {
        upstream_failures_reach_nobody(database).await;
    }
}

#[actix_rt::test]
async fn a_malformed_event_between_good_ones_is_skipped_alone() {
    let database = Database::sqlite();
    let (homeserver, token, _server, client, mut pos) = begun(&database, &[]).await;
    let mut bad = message("$bad", "@b:h", 100, "x");
    bad["type"] = json!(5);
    let timeline = vec![
        message("$good1", "@b:h", 100, "x"),
        bad,
        json!("not even an object"),
        message("$good2", "@b:h", 100, "x"),
    ];
    let mut response = joined(ROOM, vec![], timeline, 2);
    response["rooms"]["join"]["!broken:h"] = json!("no room");
    response["account_data"] = json!({"events": [{"type": "m.direct", "content": {}}]});
    homeserver.push(&token, response);
    let answer = until_event(&client, &mut pos, "$good2").await;
    let text = answer.to_string();
    assert!(text.contains("$good1") && !text.contains("$bad"), "{answer}");
}

#[actix_rt::test]
async fn a_new_token_is_swapped_in_and_the_connection_survives() {
    let database = Database::sqlite();
    let (homeserver, token, server, client, pos) = begun(&database, &[]).await;
    let waiting = {
        let (client, pos) = (client.clone(), pos.clone());
        actix_rt::spawn(async move { client.sync(Some(&pos), 20_000, body()).await })
    };
    tokio::time::sleep(Duration::from_millis(200)).await;
    let next = "refreshed".to_owned();
    homeserver.register(&next, "@a:h", "A");
    homeserver.fault(Concerns::path("/").of(&token).always(), Fault::unknown_token(true));
    homeserver.push(&token, json!({}));
    let told = waiting.await.unwrap();
    assert_eq!(
        (told.status, &told.body["errcode"], &told.body["soft_logout"]),
        (401, &json!("M_UNKNOWN_TOKEN"), &json!(true))
    );
    let again = client.sync(Some(&pos), 0, body()).await;
    assert_eq!(again.status, 401, "the old token stays refused");

    let mut pos = pos;
    let refreshed = Client::new(&server.base, &next);
    homeserver.push(
        &next,
        joined(ROOM, vec![], vec![message("$later", "@b:h", 100, "x")], 2),
    );
    until_event(&refreshed, &mut pos, "$later").await;
    // The position at the homeserver survived as well: nothing was fetched from the beginning.
    assert!(
        homeserver
            .requests(&next)
            .iter()
            .filter(|seen| seen.is_sync())
            .all(|seen| seen.parameter("since").is_some())
    );
}

#[actix_rt::test]
async fn a_logout_ends_the_sessions_and_only_the_errcode_decides() {
    let database = Database::sqlite();
    let (homeserver, token, _server, client, pos) = begun(&database, &[]).await;
    let waiting = {
        let (client, pos) = (client.clone(), pos.clone());
        actix_rt::spawn(async move { client.sync(Some(&pos), 20_000, body()).await })
    };
    tokio::time::sleep(Duration::from_millis(200)).await;
    homeserver.fault(Concerns::path("/").of(&token).always(), Fault::unknown_token(false));
    homeserver.push(&token, json!({}));
    let told = waiting.await.unwrap();
    assert_eq!((told.status, &told.body["errcode"]), (401, &json!("M_UNKNOWN_TOKEN")));
    assert_eq!(told.body.get("soft_logout"), None);
    let count = whoami_count(&homeserver);
    for _ in 0..5 {
        assert_eq!(client.sync(None, 0, body()).await.status, 401);
    }
    assert!(
        whoami_count(&homeserver) <= count + 1,
        "a refused token is not asked about again and again"
    );
}

#[actix_rt::test]
async fn requests_that_are_no_sync_start_no_poller_and_say_why() {
    let database = Database::sqlite();
    let homeserver = Homeserver::start();
    let token = "token".to_owned();
    homeserver.register(&token, "@a:h", "A");
    let server = Server::start(&database, &homeserver.url()).await;
    let client = Client::new(&server.base, &token);
    let path = "/_matrix/client/unstable/org.matrix.msc3575/sync";
    for method in ["GET", "PUT", "DELETE"] {
        let reply = client.request(method, path, None).await;
        assert_eq!(
            (reply.status, &reply.body["errcode"]),
            (405, &json!("M_UNRECOGNIZED")),
            "{method}"
        );
    }
    assert_eq!(client.request("OPTIONS", path, None).await.status, 200);
    assert_eq!(
        client.request("GET", "/nowhere", None).await.body["errcode"],
        "M_UNRECOGNIZED"
    );
    let http = awc::Client::default();
    // Plain, because this client cannot make sense of a compressed body that a HEAD does not have.
    let head = http
        .head(format!("{}{path}", server.base))
        .no_decompress()
        .bearer_auth(&token);
    assert_eq!(head.send().await.unwrap().status(), 405);
    let raw = |text: String| {
        let request = http.post(format!("{}{path}", server.base)).bearer_auth(&token);
        async move {
            let mut response = request.send_body(text).await.unwrap();
            assert_eq!(response.headers().get("Access-Control-Allow-Origin").unwrap(), "*");
            let body: Value = response.json().await.unwrap();
            (response.status().as_u16(), body["errcode"].as_str().unwrap().to_owned())
        }
    };
    assert_eq!(raw("{".to_owned()).await, (400, "M_NOT_JSON".to_owned()));
    assert_eq!(raw(r#"{"lists": 5}"#.to_owned()).await, (400, "M_BAD_JSON".to_owned()));
    assert_eq!(
        raw(r#"{"lists": {"a": {"ranges": [[5, 2]]}}}"#.to_owned()).await,
        (400, "M_INVALID_PARAM".to_owned())
    );
    assert_eq!(
        raw(format!("\"{}\"", "x".repeat(3 << 20))).await,
        (413, "M_TOO_LARGE".to_owned())
    );
    let anonymous = Client::new(&server.base, "");
    let reply = anonymous.post(path, json!({})).await;
    assert_eq!((reply.status, &reply.body["errcode"]), (401, &json!("M_MISSING_TOKEN")));
    let stranger = Client::new(&server.base, "nonsense");
    let reply = stranger.post(path, json!({})).await;
    assert_eq!((reply.status, &reply.body["errcode"]), (401, &json!("M_UNKNOWN_TOKEN")));
    assert!(homeserver.requests(&token).iter().all(|seen| !seen.is_sync()));
    let v3 = client.post("/_matrix/client/v3/sync?pos=x&since=y", json!({})).await;
    assert_eq!((v3.status, &v3.body["errcode"]), (400, &json!("M_INVALID_PARAM")));
    let v3 = client.post("/_matrix/client/v3/sync?pos=x", json!({})).await;
    assert_eq!((v3.status, &v3.body["errcode"]), (400, &json!("M_UNKNOWN_POS")));
    assert_eq!(
        client
            .post("/_matrix/client/v3/sync", json!({"lists": {}}))
            .await
            .status,
        200
    );
}

#[actix_rt::test]
async fn wrong_settings_and_wrong_secrets_refuse_to_start() {
    let database = Database::sqlite();
    let (_homeserver, _token, mut server, _client, _pos) = begun(&database, &[]).await;
    let (code, text) = server.try_second(|_| ());
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("in use") || text.contains("another"), "{text}");
    server.stop();
    let (code, text) = server.try_second(|command| {
        command.env("SYNCV3_SECRET", "another secret");
    });
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("secret"), "{text}");
    let (code, text) = server.try_second(|command| {
        command.env_remove("SYNCV3_SERVER").env("SYNCV3_LOG_LEVEL", "loud");
    });
    assert_eq!(code, Some(1));
    assert!(
        text.contains("SYNCV3_SERVER") && text.contains("SYNCV3_LOG_LEVEL"),
        "{text}"
    );
    server.launch().await;
}

#[actix_rt::test]
async fn a_slow_first_sync_gets_a_valid_empty_answer_and_grows() {
    let database = Database::sqlite();
    let homeserver = Homeserver::start();
    let token = "token".to_owned();
    homeserver.register(&token, "@a:h", "A");
    homeserver.push(
        &token,
        joined(
            ROOM,
            room_state(ROOM, "Room", &["@a:h"]),
            vec![message("$0", "@a:h", 10, "x")],
            1,
        ),
    );
    homeserver.fault(Concerns::sync().of(&token), Fault::Delay(Duration::from_secs(21)));
    let server = Server::start(&database, &homeserver.url()).await;
    let client = Client::new(&server.base, &token);
    let began = Instant::now();
    let first = client.sync(None, 0, body()).await.ok();
    assert!(began.elapsed() < Duration::from_secs(20), "took {:?}", began.elapsed());
    assert_eq!(first["lists"]["all"]["count"], 0);
    let mut pos = first["pos"].as_str().unwrap().to_owned();
    let answer = until_event(&client, &mut pos, "$0").await;
    assert_eq!(answer["lists"]["all"]["count"], 1);
}

#[actix_rt::test]
async fn a_whole_member_list_is_fetched_once_when_a_client_needs_it() {
    let database = Database::sqlite();
    let (homeserver, _token, _server, client, _pos) = begun(&database, &[]).await;
    let members: Vec<_> = ["@a:h", "@b:h", "@c:h", "@d:h"]
        .iter()
        .map(|user| {
            state(
                &format!("$m{user}"),
                user,
                5,
                "m.room.member",
                user,
                json!({"membership": "join"}),
            )
        })
        .collect();
    homeserver.room_state(ROOM, members);
    let all = json!({"lists": {"all": {"ranges": [[0, 9]], "timeline_limit": 1,
        "required_state": [["m.room.member", "*"]]}}});
    for _ in 0..3 {
        let answer = client.sync(None, 0, all.clone()).await.ok();
        let state = answer["rooms"][ROOM]["required_state"].as_array().unwrap();
        assert_eq!(state.len(), 4, "{answer}");
    }
    let fetches = homeserver
        .all_requests()
        .iter()
        .filter(|seen| seen.path.contains("/members"))
        .count();
    assert_eq!(fetches, 1);
}
