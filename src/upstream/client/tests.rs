use std::time::Duration;

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use futures_util::stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use url::Url;

use super::*;
use crate::upstream::filter;

fn options(base: &str) -> HomeserverOptions {
    HomeserverOptions {
        server: Server::Url(Url::parse(base).unwrap()),
        http_timeout: Duration::from_secs(5),
        initial_timeout: Duration::from_secs(5),
        body_progress: Duration::from_millis(300),
        max_body: 100_000,
        ca_file: None,
        user_agent: "syncv3/test".to_owned(),
    }
}

fn request(since: Option<&str>) -> SyncRequest {
    SyncRequest {
        token: SecretString::from("secret"),
        since: since.map(str::to_owned),
        timeout_ms: 0,
        filter: filter::LATER,
        progress: None,
    }
}

/// Serves one handler for every path, by TCP and by a Unix socket, in this thread's runtime.
async fn serve<F, R>(handler: F) -> String
where
    F: Fn(HttpRequest, web::Bytes) -> R + Clone + Send + 'static,
    R: Future<Output = HttpResponse> + 'static,
{
    let server = HttpServer::new(move || App::new().default_service(web::to(handler.clone())))
        .workers(1)
        .disable_signals()
        .bind("127.0.0.1:0")
        .unwrap();
    let base = format!("http://{}", server.addrs()[0]);
    actix_rt::spawn(server.run());
    base
}

/// Serves fixed bytes to one connection after the other; the connection is closed after them.
async fn serve_bytes(answers: Vec<&'static [u8]>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    actix_rt::spawn(async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await;
            stream.write_all(answer).await.unwrap();
        }
    });
    base
}

fn client(base: &str) -> Homeserver {
    Homeserver::new(&options(base)).unwrap()
}

async fn sync_error(base: &str) -> Error {
    client(base).sync(&request(Some("s1"))).await.unwrap_err()
}

#[actix_rt::test]
async fn every_parameter_arrives_as_it_was_meant() {
    let base = serve(|request: HttpRequest, _| async move {
        let pairs: Vec<(String, String)> = url::form_urlencoded::parse(request.query_string().as_bytes())
            .into_owned()
            .collect();
        let header = |name| {
            request
                .headers()
                .get(name)
                .map(|value| value.to_str().unwrap().to_owned())
        };
        HttpResponse::Ok().json(serde_json::json!({
            "path": request.path(), "pairs": pairs,
            "authorization": header("authorization"), "agent": header("user-agent"),
        }))
    })
    .await;
    let since = "s1&+%/= é#?";
    let answer = client(&base).sync(&request(Some(since))).await.unwrap();
    assert!(answer.bytes() > 0);
    let seen: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(seen["path"], "/_matrix/client/v3/sync");
    assert_eq!(seen["authorization"], "Bearer secret");
    assert_eq!(seen["agent"], "syncv3/test");
    assert_eq!(
        seen["pairs"],
        serde_json::json!([
            ["since", since],
            ["timeout", "0"],
            ["filter", filter::LATER],
            ["set_presence", "offline"],
            ["use_state_after", "true"],
            ["org.matrix.msc4222.use_state_after", "true"],
        ])
    );
    assert_eq!(
        sync_path(&request(Some(since))),
        sync_path(&request(Some(since)).clone())
    );
    assert!(!sync_path(&request(None)).contains("since"));
}

#[actix_rt::test]
async fn a_base_url_may_have_a_path() {
    let base = serve(|request: HttpRequest, _| async move {
        HttpResponse::Ok().json(serde_json::json!({"versions": [request.path()]}))
    })
    .await;
    let versions = client(&format!("{base}/base/")).versions().await.unwrap();
    assert_eq!(versions.versions, ["/base/_matrix/client/versions"]);
}

#[actix_rt::test]
async fn refusals_are_told_apart() {
    let base = serve(|request: HttpRequest, _| async move {
        let query = request.query_string();
        let json = |status: u16, body: &'static str| {
            HttpResponse::build(actix_web::http::StatusCode::from_u16(status).unwrap())
                .content_type("application/json")
                .body(body)
        };
        if query.contains("since=redirect&") {
            HttpResponse::Found().insert_header(("location", "/elsewhere")).finish()
        } else if query.contains("since=html&") {
            HttpResponse::Ok().content_type("text/html").body("<html>{}</html>")
        } else if query.contains("since=text&") {
            HttpResponse::Ok().body("hello")
        } else if query.contains("since=slow&") {
            json(429, r#"{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":2500}"#)
        } else if query.contains("since=soft&") {
            json(
                401,
                r#"{"errcode":"M_UNKNOWN_TOKEN","soft_logout":true,"error":"expired"}"#,
            )
        } else if query.contains("since=hard&") {
            json(401, r#"{"errcode":"M_UNKNOWN_TOKEN","error":"gone"}"#)
        } else if query.contains("since=bare&") {
            json(401, "")
        } else if query.contains("since=bad&") {
            json(400, r#"{"errcode":"M_UNKNOWN","error":"invalid stream token"}"#)
        } else {
            HttpResponse::BadGateway()
                .insert_header(("retry-after", "9"))
                .body("<html>nginx</html>")
        }
    })
    .await;
    let homeserver = client(&base);
    for (since, kind) in [
        ("redirect", ErrorKind::Misrouted),
        ("html", ErrorKind::Misrouted),
        ("text", ErrorKind::Misrouted),
        ("slow", ErrorKind::RateLimited),
        ("soft", ErrorKind::SoftLogout),
        ("hard", ErrorKind::LoggedOut),
        ("bare", ErrorKind::Misrouted),
        ("bad", ErrorKind::InvalidSince),
        ("other", ErrorKind::ServerError),
    ] {
        let error = homeserver.sync(&request(Some(since))).await.unwrap_err();
        assert_eq!(error.kind, kind, "{since}: {error}");
        match since {
            "slow" => assert_eq!(error.retry_after, Some(Duration::from_millis(2500))),
            "other" => assert_eq!(error.retry_after, Some(Duration::from_secs(9))),
            "soft" => assert!(error.body.unwrap().contains("\"soft_logout\":true")),
            _ => {}
        }
    }
}

#[actix_rt::test]
async fn headers_that_do_not_come_are_a_timeout() {
    let base = serve(|_, _| std::future::pending::<HttpResponse>()).await;
    let mut options = options(&base);
    options.http_timeout = Duration::from_millis(200);
    let homeserver = Homeserver::new(&options).unwrap();
    let error = homeserver.sync(&request(Some("s1"))).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Timeout, "{error}");
}

#[actix_rt::test]
async fn nobody_listening_is_a_connection_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    assert_eq!(sync_error(&base).await.kind, ErrorKind::Connection);
}

#[actix_rt::test]
async fn a_cut_body_is_noticed() {
    const CUT: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n{\"next_";
    let base = serve_bytes(vec![CUT]).await;
    assert_eq!(sync_error(&base).await.kind, ErrorKind::Truncated);
    const CHUNK: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{\"nex\r\n";
    let base = serve_bytes(vec![CHUNK]).await;
    assert_eq!(sync_error(&base).await.kind, ErrorKind::Truncated);
}

#[actix_rt::test]
async fn a_connection_that_closes_before_the_answer_is_tried_once_more() {
    const GOOD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 18\r\n\r\n{\"next_batch\":\"a\"}";
    let base = serve_bytes(vec![b"", GOOD]).await;
    let answer = client(&base).sync(&request(Some("s1"))).await.unwrap();
    assert_eq!(answer.bytes(), 18);
    let base = serve_bytes(vec![b"", b"", GOOD]).await;
    assert_eq!(sync_error(&base).await.kind, ErrorKind::Connection);
}

#[actix_rt::test]
async fn a_body_that_stops_is_given_up_and_a_slow_one_is_not() {
    let body = |chunks: usize, pause: u64| {
        stream::unfold(0, move |n| async move {
            if n >= chunks {
                return None;
            }
            actix_rt::time::sleep(Duration::from_millis(pause)).await;
            let bytes: &[u8] = if n + 1 == chunks { b"         }" } else { b"{         " };
            Some((Ok::<_, actix_web::Error>(Bytes::from_static(bytes)), n + 1))
        })
    };
    let slow = serve(move |_, _| async move { HttpResponse::Ok().streaming(Box::pin(body(8, 100))) }).await;
    let mut request = request(Some("s1"));
    let progress = Arc::new(AtomicU64::new(0));
    request.progress = Some(progress.clone());
    // All of it takes longer than the wait for one chunk.
    let answer = client(&slow).sync(&request).await.unwrap();
    assert_eq!(answer.bytes(), 80);
    assert_eq!(progress.load(Ordering::Relaxed), 80);
    let stopped = serve(move |_, _| async move { HttpResponse::Ok().streaming(Box::pin(body(2, 2_000))) }).await;
    assert_eq!(sync_error(&stopped).await.kind, ErrorKind::Timeout);
}

#[actix_rt::test]
async fn large_bodies_are_refused_by_their_decompressed_size() {
    let announced = serve(|_, _| async { HttpResponse::Ok().body("{".repeat(100_001)) }).await;
    assert_eq!(sync_error(&announced).await.kind, ErrorKind::TooLarge);
    let endless = serve(|_, _| async {
        let chunk = || Ok::<_, actix_web::Error>(Bytes::from_static(&[b'{'; 1000]));
        HttpResponse::Ok().streaming(stream::repeat_with(chunk))
    })
    .await;
    assert_eq!(sync_error(&endless).await.kind, ErrorKind::TooLarge);
    for size in [90_000, 100_001] {
        let server = HttpServer::new(move || {
            App::new()
                .wrap(actix_web::middleware::Compress::default())
                .default_service(web::to(move || async move {
                    HttpResponse::Ok().body(format!("{{{}}}", "{".repeat(size - 2)))
                }))
        });
        let server = server.workers(1).disable_signals().bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", server.addrs()[0]);
        actix_rt::spawn(server.run());
        let answer = client(&base).sync(&request(Some("s1"))).await;
        match answer {
            Ok(answer) => assert_eq!(answer.bytes(), 90_000),
            Err(error) => assert_eq!((error.kind, size), (ErrorKind::TooLarge, 100_001)),
        }
    }
}

#[actix_rt::test]
async fn compressed_bodies_are_not_measured_by_their_announced_length() {
    const WHOLE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 35\r\n\r\n\
        \x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\xab\x56\x2a\x4b\x2d\x2a\xce\xcc\xcf\x2b\x56\xb2\x8a\x8e\xad\x05\x00\x7f\xe8\x4a\xf8\x0f\x00\x00\x00";
    let base = serve_bytes(vec![WHOLE]).await;
    assert!(client(&base).versions().await.is_ok());
    let base = serve_bytes(vec![&WHOLE[..WHOLE.len() - 14]]).await;
    assert_eq!(client(&base).versions().await.unwrap_err().kind, ErrorKind::Truncated);
}

#[actix_rt::test]
async fn a_token_without_a_device_is_told() {
    let base = serve(|request: HttpRequest, _| async move {
        let authorization = request.headers().get("authorization").unwrap().to_str().unwrap();
        HttpResponse::Ok().body(match authorization {
            "Bearer device" => r#"{"user_id":"@a:hs","device_id":"D"}"#,
            "Bearer none" => r#"{"user_id":"@a:hs","device_id":null}"#,
            _ => "{}",
        })
    })
    .await;
    let homeserver = client(&base);
    assert_eq!(homeserver.whoami("device").await.unwrap(), DeviceKey::new("@a:hs", "D"));
    assert_eq!(homeserver.whoami("none").await.unwrap_err().kind, ErrorKind::NoDeviceId);
    assert_eq!(homeserver.whoami("odd").await.unwrap_err().kind, ErrorKind::BadJson);
}

#[actix_rt::test]
async fn rooms_are_asked_about() {
    let base = serve(|request: HttpRequest, body: web::Bytes| async move {
        let path = request.uri().path().to_owned();
        let member = r#"{"type":"m.room.member","state_key":"@b:hs","event_id":"$m","sender":"@b:hs","content":{}}"#;
        let answer = |text: String| HttpResponse::Ok().body(text);
        if path.ends_with("/members") {
            answer(format!(r#"{{"chunk":[{member},null,{{"type":"broken"}}]}}"#))
        } else if path.ends_with("/state") {
            answer(format!("[{member}]"))
        } else if path.ends_with("/state/m.room.member/%40b%3Ahs") {
            // Content alone, as from a homeserver that does not know `format`.
            answer(r#"{"membership":"join"}"#.to_owned())
        } else if path.ends_with("/state/m.room.name/") {
            assert_eq!(request.query_string(), "format=event");
            answer(r#"{"type":"m.room.name","state_key":"","event_id":"$n","content":{}}"#.to_owned())
        } else if path.ends_with("/joined_rooms") {
            answer(r#"{"joined_rooms":["!a:hs",5]}"#.to_owned())
        } else if path.ends_with("/keys/upload") {
            assert_eq!((request.method().as_str(), &body[..]), ("POST", &b"{}"[..]));
            answer(r#"{"one_time_key_counts":{"signed_curve25519":7}}"#.to_owned())
        } else if path.ends_with("/versions") {
            assert!(request.headers().get("authorization").is_none());
            answer(r#"{"versions":["v1.16"],"unstable_features":{"a":true,"b":false,"c":5}}"#.to_owned())
        } else {
            HttpResponse::NotFound().body(r#"{"errcode":"M_NOT_FOUND"}"#)
        }
    })
    .await;
    let homeserver = client(&base);
    let room = RoomId::from("!a/b%:hs");
    let key = |event_type: &str, state_key: &str| StateKey {
        event_type: event_type.to_owned(),
        state_key: state_key.to_owned(),
    };
    assert_eq!(homeserver.members("t", &room).await.unwrap().len(), 1);
    assert_eq!(homeserver.state("t", &room).await.unwrap().len(), 1);
    let entry = homeserver
        .state_entry("t", &room, &key("m.room.name", ""))
        .await
        .unwrap();
    assert_eq!(entry.unwrap().event.event_id.as_str(), "$n");
    let entry = homeserver
        .state_entry("t", &room, &key("m.room.member", "@b:hs"))
        .await
        .unwrap();
    assert_eq!(entry.unwrap().event.event_id.as_str(), "$m");
    let entry = homeserver
        .state_entry("t", &room, &key("m.room.topic", "x/y"))
        .await
        .unwrap();
    assert!(entry.is_none());
    assert_eq!(homeserver.joined_rooms("t").await.unwrap(), [RoomId::from("!a:hs")]);
    assert_eq!(homeserver.key_counts("t").await.unwrap()["signed_curve25519"], 7);
    let versions = homeserver.versions().await.unwrap();
    assert_eq!((versions.versions.len(), versions.unstable_features["a"]), (1, true));
    assert!(!versions.unstable_features["c"]);
}

#[actix_rt::test]
async fn a_homeserver_may_listen_at_a_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hs.sock");
    let handler = || async { HttpResponse::Ok().body(r#"{"versions":["v1.1"]}"#) };
    let server = HttpServer::new(move || App::new().default_service(web::to(handler)));
    actix_rt::spawn(server.workers(1).disable_signals().bind_uds(&path).unwrap().run());
    let mut options = options("http://unused");
    options.server = Server::Unix(path);
    let homeserver = Homeserver::new(&options).unwrap();
    assert_eq!(homeserver.versions().await.unwrap().versions, ["v1.1"]);
}

#[test]
fn everything_but_unreserved_characters_is_encoded() {
    assert_eq!(encode("!a:hs/é %~-._"), "%21a%3Ahs%2F%C3%A9%20%25~-._");
}

#[actix_rt::test]
async fn an_unusable_authority_file_is_an_error() {
    let mut options = options("https://hs");
    assert!(Homeserver::new(&options).is_ok());
    options.ca_file = Some("/nonexistent/ca.pem".into());
    assert!(Homeserver::new(&options).is_err());
}
