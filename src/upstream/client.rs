//! Requests to the homeserver. A [`Homeserver`] belongs to the thread that made it and owns its connections, so there is
//! one per arbiter, not one per poller. Nothing is repeated here except for a connection found dead in the pool;
//! redirects are never followed, because they could carry a token elsewhere.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use actix_tls::connect::{ConnectError as TlsConnectError, ConnectInfo, Connection};
use awc::error::{ConnectError, PayloadError, SendRequestError};
use awc::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use awc::http::{Method, Uri};
use bytes::Bytes;
use futures_util::StreamExt;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use secrecy::{ExposeSecret, SecretString};
use serde_json::value::RawValue;
use tokio::net::UnixStream;

use crate::config::{Config, Server};
use crate::ids::{DeviceKey, RoomId};
use crate::model::batch::StateKey;
use crate::model::event::{Event, ReceivedEvent};
use crate::upstream::error::{Error, ErrorKind};
use crate::upstream::into_batch::receive;
use crate::upstream::wire::{self, Fields, Skipped};

/// Time to connect, TLS included.
const CONNECT: Duration = Duration::from_secs(10);
/// A body of which nothing comes for so long is given up. There is no limit on the whole.
const BODY_PROGRESS: Duration = Duration::from_secs(60);
/// Longer than any long poll, so that a poller keeps its connection.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// A connection is replaced after so long, so that changes of the DNS are noticed.
const LIFETIME: Duration = Duration::from_secs(3600);
/// Most of a refusal's body that is read, in bytes.
const REFUSAL_LIMIT: u64 = 256 * 1024;
/// A buffer of at most so many bytes is set aside on the word of `Content-Length`.
const TRUSTED_LENGTH: u64 = 64 * 1024 * 1024;

/// Where the homeserver is and how long it may take.
#[derive(Clone, Debug)]
pub struct HomeserverOptions {
    /// Address.
    pub server: Server,
    /// Wait for response headers, beyond a long poll's own time.
    pub http_timeout: Duration,
    /// Wait for response headers of a sync without `since`.
    pub initial_timeout: Duration,
    /// Give up on a body of which nothing comes for so long.
    pub body_progress: Duration,
    /// Largest response, in bytes after decompression.
    pub max_body: u64,
    /// PEM file with further certificate authorities.
    pub ca_file: Option<PathBuf>,
    /// `User-Agent`.
    pub user_agent: String,
}

impl From<&Config> for HomeserverOptions {
    fn from(config: &Config) -> Self {
        Self {
            server: config.server.clone(),
            http_timeout: config.http_timeout,
            initial_timeout: config.http_initial_timeout,
            body_progress: BODY_PROGRESS,
            max_body: config.max_body,
            ca_file: config.ca_file.clone(),
            user_agent: concat!("syncv3/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// One v2 `/sync` request. Sent twice, it is the same to the byte, which is what the homeserver's response cache wants.
#[derive(Clone, Debug)]
pub struct SyncRequest {
    /// Access token.
    pub token: SecretString,
    /// `since`; `None` for a first sync.
    pub since: Option<String>,
    /// `timeout`, ms: how long the homeserver may wait for news.
    pub timeout_ms: u32,
    /// `filter`, one of [`crate::upstream::filter`].
    pub filter: &'static str,
    /// Grows with the bytes of the body as they arrive (after decompression), for whoever wants to show progress.
    pub progress: Option<Arc<AtomicU64>>,
}

/// The answer to a [`SyncRequest`]: status 200 and a body that begins like a JSON object.
#[derive(Debug)]
pub struct SyncAnswer {
    /// The body, decompressed.
    pub body: Vec<u8>,
    /// Time until the headers were in, ms.
    pub headers_ms: u64,
}

impl SyncAnswer {
    /// Returns the size of the body, decompressed.
    pub fn bytes(&self) -> usize {
        self.body.len()
    }
}

/// What the homeserver says it can do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Versions {
    /// `versions`.
    pub versions: Vec<String>,
    /// `unstable_features`.
    pub unstable_features: BTreeMap<String, bool>,
}

/// A client of the homeserver, bound to its thread. Clones share the connections.
#[derive(Clone)]
pub struct Homeserver {
    inner: Rc<Inner>,
}

struct Inner {
    client: awc::Client,
    base: String,
    options: HomeserverOptions,
}

/// One request, to be sent more than once if need be.
struct Request<'a> {
    method: Method,
    /// Path and query behind the base URL.
    path: String,
    token: Option<&'a str>,
    headers_within: Duration,
    with_since: bool,
    progress: Option<&'a AtomicU64>,
}

impl Homeserver {
    /// Returns a client for the calling thread. Fails if the file with certificate authorities cannot be used.
    pub fn new(options: &HomeserverOptions) -> Result<Self, Error> {
        let connector = awc::Connector::new()
            .limit(0)
            .timeout(CONNECT)
            .handshake_timeout(CONNECT)
            .conn_keep_alive(KEEP_ALIVE)
            .conn_lifetime(LIFETIME);
        let builder = awc::Client::builder()
            .disable_timeout()
            .disable_redirects()
            .add_default_header((awc::http::header::USER_AGENT, options.user_agent.clone()));
        let (client, base) = match &options.server {
            Server::Url(url) => {
                let connector = connector.rustls_0_23(tls(options)?);
                let base = url.as_str().trim_end_matches('/').to_owned();
                (builder.connector(connector).finish(), base)
            }
            Server::Unix(path) => {
                let path = path.clone();
                let connector = connector.connector(actix_web::dev::fn_service(move |info: ConnectInfo<Uri>| {
                    let path = path.clone();
                    async move {
                        let stream = UnixStream::connect(path).await.map_err(TlsConnectError::Io)?;
                        Ok::<_, TlsConnectError>(Connection::new(info.request().clone(), stream))
                    }
                }));
                (builder.connector(connector).finish(), "http://localhost".to_owned())
            }
        };
        Ok(Self {
            inner: Rc::new(Inner {
                client,
                base,
                options: options.clone(),
            }),
        })
    }

    /// Asks whose token this is. Fails with [`ErrorKind::NoDeviceId`] for users without devices.
    pub async fn whoami(&self, token: &str) -> Result<DeviceKey, Error> {
        let body = self.get("/_matrix/client/v3/account/whoami", Some(token)).await?;
        let answer = object(&body)?;
        let user_id = answer.get("user_id").and_then(wire::id);
        let user_id = user_id.ok_or_else(|| bad_json("whoami has no user_id"))?;
        match answer.get("device_id").and_then(wire::id) {
            Some(device_id) => Ok(DeviceKey::new(user_id, device_id)),
            None => Err(Error::new(ErrorKind::NoDeviceId, "the token belongs to no device")),
        }
    }

    /// Sends a `/sync` and waits for all of its answer. To be dropped when nobody wants it any more: that closes the
    /// connection.
    pub async fn sync(&self, request: &SyncRequest) -> Result<SyncAnswer, Error> {
        let wait = match request.since {
            Some(_) => Duration::from_millis(request.timeout_ms.into()) + self.inner.options.http_timeout,
            None => self.inner.options.initial_timeout,
        };
        let request = Request {
            method: Method::GET,
            path: sync_path(request),
            token: Some(request.token.expose_secret()),
            headers_within: wait,
            with_since: request.since.is_some(),
            progress: request.progress.as_deref(),
        };
        let (body, headers_ms) = self.send(&request).await?;
        Ok(SyncAnswer { body, headers_ms })
    }

    /// Fetches every member event of a room. Broken ones are left out.
    pub async fn members(&self, token: &str, room_id: &RoomId) -> Result<Vec<ReceivedEvent>, Error> {
        let path = format!("/_matrix/client/v3/rooms/{}/members", encode(room_id.as_str()));
        let body = self.get(&path, Some(token)).await?;
        let chunk = object(&body)?.get("chunk");
        let chunk = chunk.and_then(|chunk| wire::list(chunk, &mut Skipped::default()));
        let chunk = chunk.ok_or_else(|| bad_json("members has no chunk"))?;
        Ok(receive(chunk, &mut Skipped::default()))
    }

    /// Fetches one entry of a room's state; `None` if the homeserver has none.
    pub async fn state_entry(
        &self,
        token: &str,
        room_id: &RoomId,
        key: &StateKey,
    ) -> Result<Option<ReceivedEvent>, Error> {
        let path = format!(
            "/_matrix/client/v3/rooms/{}/state/{}/{}?format=event",
            encode(room_id.as_str()),
            encode(&key.event_type),
            encode(&key.state_key)
        );
        let body = match self.get(&path, Some(token)).await {
            Ok(body) => body,
            Err(error) if error.kind == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let is_it = |event: &Event| {
            event.event_type[..] == *key.event_type && event.state_key.as_deref() == Some(&key.state_key)
        };
        let entry = serde_json::from_slice::<&RawValue>(&body)
            .ok()
            .and_then(|raw| Event::receive(raw).ok());
        if let Some(entry) = entry.filter(|entry| is_it(&entry.event)) {
            return Ok(Some(entry));
        }
        // Not every homeserver knows `format`; without it only the content comes.
        let state = self.state(token, room_id).await?;
        Ok(state.into_iter().find(|entry| is_it(&entry.event)))
    }

    /// Fetches the whole state of a room. Broken events are left out.
    pub async fn state(&self, token: &str, room_id: &RoomId) -> Result<Vec<ReceivedEvent>, Error> {
        let path = format!("/_matrix/client/v3/rooms/{}/state", encode(room_id.as_str()));
        let body = self.get(&path, Some(token)).await?;
        let events = serde_json::from_slice::<Vec<&RawValue>>(&body).map_err(|_| bad_json("state is not a list"))?;
        Ok(receive(events, &mut Skipped::default()))
    }

    /// Fetches the rooms to which the user is joined.
    pub async fn joined_rooms(&self, token: &str) -> Result<Vec<RoomId>, Error> {
        let body = self.get("/_matrix/client/v3/joined_rooms", Some(token)).await?;
        let rooms = object(&body)?.get("joined_rooms");
        let rooms = rooms.and_then(|rooms| wire::list(rooms, &mut Skipped::default()));
        let rooms = rooms.ok_or_else(|| bad_json("joined_rooms has no joined_rooms"))?;
        let rooms = wire::strings(&rooms, &mut Skipped::default());
        Ok(rooms.into_iter().map(RoomId::from).collect())
    }

    /// Asks for the device's one-time key counts by uploading nothing, which changes nothing.
    pub async fn key_counts(&self, token: &str) -> Result<BTreeMap<String, i64>, Error> {
        let mut request = self.request("/_matrix/client/v3/keys/upload", Some(token));
        request.method = Method::POST;
        let (body, _) = self.send(&request).await?;
        let skipped = &mut Skipped::default();
        let counts = object(&body)?.section("one_time_key_counts", skipped);
        let counts = counts.ok_or_else(|| bad_json("keys/upload has no one_time_key_counts"))?;
        Ok(counts.counts(skipped))
    }

    /// Asks what the homeserver can do. Needs no token, so it also serves to see whether the homeserver is there.
    pub async fn versions(&self) -> Result<Versions, Error> {
        let body = self.get("/_matrix/client/versions", None).await?;
        let answer = object(&body)?;
        let skipped = &mut Skipped::default();
        let versions = answer.get("versions").and_then(|raw| wire::list(raw, skipped));
        let versions = versions.ok_or_else(|| bad_json("versions has no versions"))?;
        let features = answer.section("unstable_features", skipped).unwrap_or_default();
        let feature = |(key, value): &(&RawValue, &RawValue)| Some((wire::id(key)?, value.get() == "true"));
        Ok(Versions {
            versions: wire::strings(&versions, skipped),
            unstable_features: features.0.iter().filter_map(feature).collect(),
        })
    }

    async fn get(&self, path: &str, token: Option<&str>) -> Result<Vec<u8>, Error> {
        let (body, _) = self.send(&self.request(path, token)).await?;
        Ok(body)
    }

    fn request<'a>(&self, path: &str, token: Option<&'a str>) -> Request<'a> {
        Request {
            method: Method::GET,
            path: path.to_owned(),
            token,
            headers_within: self.inner.options.http_timeout,
            with_since: false,
            progress: None,
        }
    }

    /// Sends a request, once more if its connection turns out to be dead, and reads the answer.
    async fn send(&self, request: &Request<'_>) -> Result<(Vec<u8>, u64), Error> {
        let started = Instant::now();
        let mut sent = self.send_once(request).await;
        if sent.as_ref().is_err_and(is_dead_connection) {
            sent = self.send_once(request).await;
        }
        let response = sent.map_err(|error| connection_error(&error))?;
        let headers_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let body = self.read(response, request).await?;
        Ok((body, headers_ms))
    }

    async fn send_once(&self, request: &Request<'_>) -> Result<Answer, SendRequestError> {
        let url = format!("{}{}", self.inner.base, request.path);
        let mut sending = self
            .inner
            .client
            .request(request.method.clone(), url)
            .timeout(request.headers_within);
        if let Some(token) = request.token {
            sending = sending.bearer_auth(token);
        }
        if request.method == Method::POST {
            sending.content_type("application/json").send_body("{}").await
        } else {
            sending.send().await
        }
    }

    async fn read(&self, mut response: Answer, request: &Request<'_>) -> Result<Vec<u8>, Error> {
        let status = response.status().as_u16();
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let retry_after = header(RETRY_AFTER).map(str::to_owned);
        let is_html = header(CONTENT_TYPE).is_some_and(|kind| kind.trim_start().starts_with("text/html"));
        let is_encoded = header(CONTENT_ENCODING).is_some();
        let announced = header(CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
        if status != 200 {
            // Without its body a refusal is known by its status alone, which ends no token.
            let body = self.read_body(&mut response, None, REFUSAL_LIMIT, None).await;
            let body = body.unwrap_or_default();
            return Err(Error::from_answer(
                status,
                retry_after.as_deref(),
                &body,
                request.with_since,
            ));
        }
        if is_html {
            return Err(Error::from_answer(status, None, b"", false));
        }
        let limit = self.inner.options.max_body;
        if announced.is_some_and(|length| length > limit) {
            return Err(too_large(limit));
        }
        let body = self
            .read_body(&mut response, announced, limit, request.progress)
            .await?;
        // awc takes a connection that closes too early for the end of the body.
        let is_cut = |length| !is_encoded && length > body.len() as u64;
        match *body.trim_ascii() {
            [] if announced == Some(0) => Err(Error::from_answer(status, None, b"", false)),
            [] => Err(Error::new(ErrorKind::Truncated, "the response has no body")),
            [b'{', .., b'}'] | [b'[', .., b']'] if !announced.is_some_and(is_cut) => Ok(body),
            [b'{' | b'[', ..] => Err(Error::new(ErrorKind::Truncated, "the response ended too early")),
            _ => Err(Error::from_answer(status, None, b"", false)),
        }
    }

    /// Reads a body of at most `limit` bytes after decompression.
    async fn read_body(
        &self,
        response: &mut Answer,
        announced: Option<u64>,
        limit: u64,
        progress: Option<&AtomicU64>,
    ) -> Result<Vec<u8>, Error> {
        let room = announced.unwrap_or(0).min(limit).min(TRUSTED_LENGTH);
        let mut body = Vec::with_capacity(usize::try_from(room).unwrap_or(0));
        loop {
            let chunk = tokio::time::timeout(self.inner.options.body_progress, response.next()).await;
            let chunk = chunk.map_err(|_| Error::new(ErrorKind::Timeout, "the response stopped arriving"))?;
            let Some(chunk) = chunk else { return Ok(body) };
            let chunk: Bytes = chunk.map_err(|error| body_error(&error))?;
            if (body.len() + chunk.len()) as u64 > limit {
                return Err(too_large(limit));
            }
            body.extend_from_slice(&chunk);
            if let Some(progress) = progress {
                progress.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            }
        }
    }
}

type Answer = awc::ClientResponse<actix_web::dev::Decompress<actix_web::dev::Payload>>;

fn sync_path(request: &SyncRequest) -> String {
    let mut path = String::from("/_matrix/client/v3/sync?");
    if let Some(since) = &request.since {
        path.push_str(&format!("since={}&", encode(since)));
    }
    path.push_str(&format!(
        "timeout={}&filter={}&set_presence=offline&use_state_after=true&org.matrix.msc4222.use_state_after=true",
        request.timeout_ms,
        encode(request.filter)
    ));
    path
}

/// Percent-encodes everything but what RFC 3986 calls unreserved, for a path segment or a query value.
fn encode(text: &str) -> String {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut encoded = String::with_capacity(text.len() + 16);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            encoded.push('%');
            encoded.push(char::from(HEX[usize::from(byte >> 4)]));
            encoded.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    encoded
}

fn object(body: &[u8]) -> Result<Fields<'_>, Error> {
    serde_json::from_slice(body).map_err(|_| bad_json("the answer is not a JSON object"))
}

fn bad_json(message: &str) -> Error {
    Error::new(ErrorKind::BadJson, message)
}

fn too_large(limit: u64) -> Error {
    Error::new(
        ErrorKind::TooLarge,
        format!("the response is larger than {limit} bytes"),
    )
}

/// A connection of the pool that the homeserver had closed: the request was not acted on.
fn is_dead_connection(error: &SendRequestError) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof};
    match error {
        SendRequestError::Connect(ConnectError::Disconnected) => true,
        SendRequestError::Send(error) | SendRequestError::Connect(ConnectError::Io(error)) => matches!(
            error.kind(),
            BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof
        ),
        _ => false,
    }
}

fn connection_error(error: &SendRequestError) -> Error {
    let kind = match error {
        SendRequestError::Timeout | SendRequestError::Connect(ConnectError::Timeout) => ErrorKind::Timeout,
        SendRequestError::Response(_) => ErrorKind::Misrouted,
        _ => ErrorKind::Connection,
    };
    Error::new(kind, error.to_string())
}

fn body_error(error: &PayloadError) -> Error {
    Error::new(ErrorKind::Truncated, error.to_string())
}

/// TLS by the authorities of the system, Mozilla's list, and those of the operator's file.
fn tls(options: &HomeserverOptions) -> Result<Arc<rustls::ClientConfig>, Error> {
    let mut roots = rustls::RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    // What the system's store holds beside usable certificates is not ours to complain about.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = &options.ca_file {
        let unusable = |what: String| Error::new(ErrorKind::Connection, format!("{}: {what}", path.display()));
        let certificates = CertificateDer::pem_file_iter(path).map_err(|error| unusable(error.to_string()))?;
        for certificate in certificates {
            let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
            roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::new(ErrorKind::Connection, error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests;
