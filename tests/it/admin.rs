//! What operators see.

use serde_json::json;

use crate::support::bodies::{joined, message, room_state};
use crate::support::client::Client;
use crate::support::database::Database;
use crate::support::homeserver::Homeserver;
use crate::support::server::Server;

#[actix_rt::test]
async fn metrics_actors_and_health_tell_what_goes_on_and_name_nobody() {
    let database = Database::sqlite();
    let homeserver = Homeserver::start();
    homeserver.register("token", "@alice:h", "PHONE");
    let timeline = vec![message("$0", "@alice:h", 10, "secret words")];
    homeserver.push(
        "token",
        joined("!r:h", room_state("!r:h", "Room", &["@alice:h"]), timeline, 1),
    );
    let settings = [("SYNCV3_DEBUG", "0")];
    let mut server = Server::start_with(&database, &homeserver.url(), &settings).await;
    let client = Client::new(&server.base, "token");
    client
        .sync(None, 5_000, json!({"lists": {"all": {"ranges": [[0, 9]]}}}))
        .await
        .ok();

    let admin = Client::new(&server.admin, "");
    let metrics = admin.request("GET", "/metrics", None).await.ok();
    let metrics = metrics.as_str().unwrap();
    for line in [
        "actor_alive{actor=\"poller\"} 1",
        "actor_alive{actor=\"session\"} 1",
        "actor_alive{actor=\"user_cache\"} 1",
        "actor_alive{actor=\"room_cache\"} 1",
        "actor_mailbox_depth{actor=\"fleet\"} 0",
        "actor_handle_seconds_count{actor=\"fleet\",message=\"EnsurePoller\"} 1",
        "sync_requests_total{protocol=\"msc3575\",status=\"200\"} 1",
        "upstream_seconds_count{status=\"200\"}",
        "store_commit_seconds_count",
    ] {
        assert!(metrics.contains(line), "{line} is missing in\n{metrics}");
    }
    let listing = admin.request("GET", "/actors", None).await.ok();
    let actors = listing["actors"].as_array().unwrap();
    let poller = actors.iter().find(|row| row["actor"] == "poller").unwrap();
    assert_eq!(poller["health"], "alive");
    assert_eq!(
        (&poller["state"]["phase"], &poller["state"]["has_synced"]),
        (&json!("polling"), &json!(true))
    );
    assert_eq!(poller["state"]["rooms_stored"], 1);
    for kind in ["fleet", "registry", "room_cache", "user_cache", "session"] {
        assert!(
            actors
                .iter()
                .any(|row| row["actor"] == kind && row["health"] == "alive"),
            "{kind}"
        );
    }
    for text in [metrics.to_owned(), listing.to_string()] {
        assert!(
            !text.contains("alice") && !text.contains("!r:h") && !text.contains("secret"),
            "{text}"
        );
    }
    assert_eq!(admin.request("GET", "/health", None).await.ok()["healthy"], true);
    assert_eq!(admin.request("GET", "/ready", None).await.ok()["ready"], true);
    let discovery = client.request("GET", "/client/server.json", None).await.ok();
    assert_eq!(discovery["server"], homeserver.url());
    server.stop();
}
