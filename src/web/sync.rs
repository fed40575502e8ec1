//! The sync endpoint: whose request, which session, what answer. No decisions about rooms.

use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::CONTENT_TYPE;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use tokio::sync::{oneshot, watch};

use crate::actors::fleet::messages::{EnsurePoller, FleetError, Touch};
use crate::actors::mail;
use crate::actors::metrics::metrics;
use crate::actors::poller::messages::Progress;
use crate::actors::registry::messages::FindSession;
use crate::actors::session::messages::Serve;
use crate::protocol::Refusal;
use crate::protocol::msc3575::wire::{Query, Request};
use crate::web::auth::{self, Caller};
use crate::web::error::MatrixError;
use crate::web::{MAX_BODY, Services, Worker};

/// A client never waits longer for a first sync than this; it then gets what there is (architecture.md, section 4).
const FIRST_SYNC_PATIENCE: Duration = Duration::from_secs(18);
const ASK_TIMEOUT: Duration = Duration::from_secs(30);
/// Beyond what any client asks for, so that no request hangs for ever should an actor fail to answer.
const SERVE_TIMEOUT: Duration = Duration::from_secs(180);

#[derive(Deserialize)]
pub(crate) struct SyncQuery {
    pos: Option<String>,
    since: Option<String>,
    timeout: Option<String>,
}

/// `POST …/org.matrix.msc3575/sync`.
pub(crate) async fn msc3575(
    request: HttpRequest,
    query: web::Query<SyncQuery>,
    body: Result<web::Bytes, actix_web::Error>,
    services: web::Data<Services>,
    worker: web::Data<Worker>,
) -> Result<HttpResponse, MatrixError> {
    let body = readable(body)?;
    answer_msc3575(request, query, body, services, worker).await
}

/// Says what is wrong with a body that could not be taken in.
fn readable(body: Result<web::Bytes, actix_web::Error>) -> Result<web::Bytes, MatrixError> {
    body.map_err(|error| {
        if error.as_response_error().status_code() == StatusCode::PAYLOAD_TOO_LARGE {
            MatrixError::TooLarge(MAX_BODY)
        } else {
            MatrixError::Refused(Refusal::NotJson(error.to_string()))
        }
    })
}

async fn answer_msc3575(
    request: HttpRequest,
    query: web::Query<SyncQuery>,
    body: web::Bytes,
    services: web::Data<Services>,
    worker: web::Data<Worker>,
) -> Result<HttpResponse, MatrixError> {
    let result = serve_msc3575(&request, query.into_inner(), &body, &services, &worker).await;
    let status = match &result {
        Ok(_) => "200".to_owned(),
        Err(error) => actix_web::ResponseError::status_code(error).as_str().to_owned(),
    };
    metrics()
        .sync_requests_total
        .with_label_values(&["msc3575", &status])
        .inc();
    result
}

async fn serve_msc3575(
    request: &HttpRequest,
    query: SyncQuery,
    body: &[u8],
    services: &Services,
    worker: &Worker,
) -> Result<HttpResponse, MatrixError> {
    let query = Query {
        pos: query.pos.filter(|pos| !pos.is_empty()),
        timeout: query.timeout,
    };
    let sync = Request::parse(body, query)?;
    let token = auth::bearer(request)?;
    let caller = auth::resolve(token, &services.tokens, &services.store, &worker.homeserver).await?;
    let fresh = !sync.has_pos();
    if fresh {
        await_first_sync(services, &caller).await?;
    } else {
        keep_poller(services, &caller).await?;
    }
    let find = FindSession {
        device: caller.device,
        conn_id: sync.conn_id().clone(),
        fresh,
    };
    let session = mail::ask(&services.registry, find, ASK_TIMEOUT).await??;
    let (sender, receiver) = oneshot::channel();
    let serve = Serve {
        request: sync,
        reply: sender,
    };
    mail::ask(&session, serve, ASK_TIMEOUT).await?;
    let answer = match tokio::time::timeout(SERVE_TIMEOUT, receiver).await {
        Ok(Ok(answer)) => answer?,
        // The session ended while it worked: for the client that is a connection to begin anew.
        Ok(Err(_)) => return Err(MatrixError::Refused(Refusal::UnknownPos)),
        Err(_) => return Err(MatrixError::Busy),
    };
    Ok(HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, "application/json"))
        .body(answer.body.clone()))
}

/// `POST /_matrix/client/v3/sync`: told apart by query and body (streams.md, section 1).
pub(crate) async fn v3(
    request: HttpRequest,
    query: web::Query<SyncQuery>,
    body: Result<web::Bytes, actix_web::Error>,
    services: web::Data<Services>,
    worker: web::Data<Worker>,
) -> Result<HttpResponse, MatrixError> {
    let body = readable(body)?;
    match (&query.since, &query.pos) {
        (Some(_), Some(_)) => Err(MatrixError::InvalidParam(
            "since and pos belong to different APIs".to_owned(),
        )),
        (None, Some(_)) => answer_msc3575(request, query, body, services, worker).await,
        (None, None) if is_msc3575(&body)? => answer_msc3575(request, query, body, services, worker).await,
        (_, None) => Err(MatrixError::NotFound),
    }
}

/// Fields that only MSC3575 requests have.
const MSC3575_FIELDS: [&str; 6] = [
    "lists",
    "room_subscriptions",
    "unsubscribe_rooms",
    "extensions",
    "conn_id",
    "txn_id",
];

fn is_msc3575(body: &[u8]) -> Result<bool, MatrixError> {
    if body.is_empty() {
        return Ok(false);
    }
    let fields: std::collections::HashMap<String, serde::de::IgnoredAny> =
        serde_json::from_slice(body).map_err(|error| {
            let text = error.to_string();
            MatrixError::Refused(match error.classify() {
                serde_json::error::Category::Data => Refusal::BadJson(text),
                _ => Refusal::NotJson(text),
            })
        })?;
    Ok(fields.keys().any(|key| MSC3575_FIELDS.contains(&key.as_str())))
}

/// Has a poller run for the device and waits, within reason, until there is something to show.
async fn await_first_sync(services: &Services, caller: &Caller) -> Result<(), MatrixError> {
    let mut progress = ensure_poller(services, caller).await?;
    let wait = progress.wait_for(|progress| !matches!(progress, Progress::Starting));
    match tokio::time::timeout(FIRST_SYNC_PATIENCE, wait).await {
        Ok(Ok(now)) => match &*now {
            // An older token that still works shall not be refused for the newer one's sake.
            Progress::NoToken(problem) if caller.current => Err(MatrixError::Token(problem.clone())),
            _ => Ok(()),
        },
        // The poller is restarting, or the homeserver takes its time: what is stored is a valid answer.
        Ok(Err(_)) | Err(_) => Ok(()),
    }
}

async fn ensure_poller(services: &Services, caller: &Caller) -> Result<watch::Receiver<Progress>, MatrixError> {
    let ensure = EnsurePoller {
        device: caller.device.clone(),
        token: caller.token.clone(),
        current: caller.current,
    };
    mail::ask(&services.fleet, ensure, ASK_TIMEOUT)
        .await?
        .map_err(|error| match error {
            FleetError::Stopping => MatrixError::Busy,
            FleetError::Store(cause) => MatrixError::internal(cause),
        })
}

/// A request on an existing connection: its poller runs, or is started without waiting for it.
async fn keep_poller(services: &Services, caller: &Caller) -> Result<(), MatrixError> {
    if !caller.current {
        // Best effort; the next request says the same.
        mail::offer(&services.fleet, Touch(caller.device.clone()));
        return Ok(());
    }
    let progress = ensure_poller(services, caller).await?;
    match &*progress.borrow() {
        Progress::NoToken(problem) => Err(MatrixError::Token(problem.clone())),
        Progress::Starting | Progress::Visible | Progress::Synced => Ok(()),
    }
}
