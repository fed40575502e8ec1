//! What operators look at, on a listener of its own: health, metrics, the listing of actors.

use actix_web::{HttpResponse, web};
use serde_json::json;

use crate::actors::metrics::metrics;
use crate::actors::observe::Observatory;
use crate::store::Store;

/// What the admin listener shows.
#[derive(Clone)]
pub struct Admin {
    /// Every actor.
    pub observatory: Observatory,
    /// To know whether the writer lives.
    pub store: Store,
}

/// Adds the admin routes.
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/metrics", web::get().to(show_metrics))
        .route("/actors", web::get().to(actors))
        .route("/health", web::get().to(health))
        .route("/ready", web::get().to(ready));
}

async fn show_metrics() -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/plain; version=0.0.4")
        .body(metrics().render())
}

async fn actors(admin: web::Data<Admin>) -> HttpResponse {
    HttpResponse::Ok().json(json!({"actors": admin.observatory.survey().await}))
}

/// Whether the process works at all: an orchestrator restarts it if not.
async fn health(admin: web::Data<Admin>) -> HttpResponse {
    let store = admin.store.is_alive();
    let room_cache = admin.observatory.count("room_cache") > 0;
    let fleet = admin.observatory.count("fleet") > 0;
    let healthy = store && room_cache && fleet;
    let body = json!({"healthy": healthy, "store": store, "room_cache": room_cache, "fleet": fleet});
    if healthy {
        HttpResponse::Ok().json(body)
    } else {
        HttpResponse::ServiceUnavailable().json(body)
    }
}

/// Whether requests can be served now.
async fn ready(admin: web::Data<Admin>) -> HttpResponse {
    // Any read shows that the database answers; this one touches one row at most.
    let nobody = crate::ids::DeviceKey::new("", "");
    let readable = admin.store.is_alive() && admin.store.device(nobody).await.is_ok();
    if readable {
        HttpResponse::Ok().json(json!({"ready": true}))
    } else {
        HttpResponse::ServiceUnavailable().json(json!({"ready": false}))
    }
}
