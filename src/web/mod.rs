//! HTTP: routes, headers and limits. One process serves clients on one listener and operators on another.

pub mod admin;
pub mod auth;
pub mod error;
mod sync;

use actix::Addr;
use actix_web::middleware::{Compress, DefaultHeaders};
use actix_web::{HttpResponse, ResponseError, web};
use serde_json::json;

use crate::actors::fleet::Fleet;
use crate::actors::registry::Registry;
use crate::store::Store;
use crate::upstream::client::Homeserver;
use crate::web::auth::Tokens;
use crate::web::error::MatrixError;

/// The largest request body.
pub const MAX_BODY: usize = 2 * 1024 * 1024;

/// What all web workers share.
#[derive(Clone)]
pub struct Services {
    /// To resolve tokens.
    pub store: Store,
    /// Known tokens.
    pub tokens: Tokens,
    /// Pollers.
    pub fleet: Addr<Fleet>,
    /// Sessions.
    pub registry: Addr<Registry>,
    /// The homeserver's address as configured, for discovery.
    pub server: String,
}

/// What one web worker has for itself: the HTTP client cannot be shared between threads.
pub struct Worker {
    /// To ask whose token it is.
    pub homeserver: Homeserver,
}

/// Headers of every answer (msc3575.md, section 2).
pub fn cors() -> DefaultHeaders {
    DefaultHeaders::new()
        .add(("Access-Control-Allow-Origin", "*"))
        .add(("Access-Control-Allow-Methods", "GET, POST, PUT, DELETE, OPTIONS"))
        .add((
            "Access-Control-Allow-Headers",
            "Origin, X-Requested-With, Content-Type, Accept, Authorization",
        ))
}

/// Compresses answers for clients that want it; a reverse proxy that compresses itself asks for plain ones.
pub fn compress() -> Compress {
    Compress::default()
}

/// Adds the client routes. Anything that is no sync starts no poller.
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .app_data(web::PayloadConfig::new(MAX_BODY))
        .app_data(
            web::QueryConfig::default().error_handler(|error, _| MatrixError::InvalidParam(error.to_string()).into()),
        )
        .service(
            web::resource("/_matrix/client/unstable/org.matrix.msc3575/sync")
                .route(web::post().to(sync::msc3575))
                .route(web::method(actix_web::http::Method::OPTIONS).to(options))
                .default_service(web::to(method_not_allowed)),
        )
        .service(
            web::resource("/_matrix/client/v3/sync")
                .route(web::post().to(sync::v3))
                .route(web::method(actix_web::http::Method::OPTIONS).to(options))
                .default_service(web::to(method_not_allowed)),
        )
        .service(
            web::resource("/client/server.json")
                .route(web::get().to(server_json))
                .route(web::head().to(server_json))
                .route(web::method(actix_web::http::Method::OPTIONS).to(options))
                .default_service(web::to(method_not_allowed)),
        )
        .default_service(web::to(not_found));
}

async fn options() -> HttpResponse {
    HttpResponse::Ok().finish()
}

async fn method_not_allowed() -> HttpResponse {
    MatrixError::MethodNotAllowed.error_response()
}

async fn not_found() -> HttpResponse {
    MatrixError::NotFound.error_response()
}

async fn server_json(services: web::Data<Services>) -> HttpResponse {
    HttpResponse::Ok().json(json!({
        "server": services.server,
        "version": env!("CARGO_PKG_VERSION"),
    }))
}
