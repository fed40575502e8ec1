//! A homeserver that follows a script: what each device is told, in which order, and what goes wrong on the way.
//!
//! It runs on a thread of its own and is steered through [`Homeserver`]. Each device has a list of v2 responses; the
//! position token after the n-th one makes it give the next, the same one each time it is asked with the same token. A
//! request with a later token acknowledges the to-device messages of all earlier responses, as real homeservers do.

#![allow(dead_code, reason = "no test binary uses everything")]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use actix_web::http::StatusCode;
use actix_web::http::header::{AUTHORIZATION, ContentType, LOCATION};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use serde_json::{Value, json};
use tokio::sync::Notify;

/// Handle to a running scripted homeserver; dropping it stops the server.
pub struct Homeserver {
    shared: Arc<Shared>,
    address: SocketAddr,
    server: actix_web::dev::ServerHandle,
}

/// One request as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    /// When.
    pub at: Instant,
    /// Method.
    pub method: String,
    /// Path, not decoded.
    pub path: String,
    /// Query, decoded, in order.
    pub query: Vec<(String, String)>,
    /// Access token; empty if there was none.
    pub token: String,
}

impl Seen {
    /// Returns a parameter of the query.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// Returns whether this is a v2 sync request.
    pub fn is_sync(&self) -> bool {
        self.path.ends_with("/sync")
    }
}

/// What became of a to-device message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handed {
    /// How often it was in a response.
    pub times: u32,
    /// Whether a request with a later position arrived, upon which a homeserver forgets the message.
    pub acknowledged: bool,
}

/// Something that goes wrong.
#[derive(Clone, Debug)]
pub enum Fault {
    /// An answer of its own.
    Answer {
        /// Status.
        status: u16,
        /// Body.
        body: String,
        /// Headers; without a content type the body is JSON.
        headers: Vec<(String, String)>,
    },
    /// The headers come late, everything else is right.
    Delay(Duration),
    /// The connection ends in the middle of the body.
    Cut,
    /// The body ends in the middle, and its length says so.
    Truncated,
    /// A web page with status 200.
    Html,
    /// A body that comes byte by byte and never ends.
    Endless,
    /// A redirect to this address.
    Redirect(String),
}

impl Fault {
    /// Returns a Matrix error.
    pub fn error(status: u16, errcode: &str) -> Self {
        Self::answer(status, &json!({"errcode": errcode, "error": "scripted"}))
    }

    /// Returns an answer with a JSON body.
    pub fn answer(status: u16, body: &Value) -> Self {
        Fault::Answer {
            status,
            body: body.to_string(),
            headers: Vec::new(),
        }
    }

    /// Returns 429 with a time to wait.
    pub fn limited(retry_after_ms: u64) -> Self {
        Self::answer(
            429,
            &json!({"errcode": "M_LIMIT_EXCEEDED", "error": "scripted", "retry_after_ms": retry_after_ms}),
        )
    }

    /// Returns 401 `M_UNKNOWN_TOKEN`.
    pub fn unknown_token(soft_logout: bool) -> Self {
        Self::answer(
            401,
            &json!({"errcode": "M_UNKNOWN_TOKEN", "error": "scripted", "soft_logout": soft_logout}),
        )
    }
}

/// Which requests a fault concerns.
#[derive(Clone, Debug)]
pub struct Concerns {
    token: Option<String>,
    path: String,
    left: Option<u32>,
}

impl Concerns {
    /// Returns: the next v2 sync request of anybody.
    pub fn sync() -> Self {
        Self::path("/sync")
    }

    /// Returns: the next request of anybody whose path contains this.
    pub fn path(part: &str) -> Self {
        Self {
            token: None,
            path: part.to_owned(),
            left: Some(1),
        }
    }

    /// Only with this token.
    pub fn of(mut self, token: &str) -> Self {
        self.token = Some(token.to_owned());
        self
    }

    /// So many requests instead of one.
    pub fn times(mut self, times: u32) -> Self {
        self.left = Some(times);
        self
    }

    /// All requests until [`Homeserver::heal`].
    pub fn always(mut self) -> Self {
        self.left = None;
        self
    }
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// What surrounds the number in a position token.
    position: (String, String),
    tokens: HashMap<String, usize>,
    devices: Vec<Device>,
    rooms: HashMap<String, BTreeMap<(String, String), Value>>,
    faults: Vec<(Concerns, Fault)>,
    seen: Vec<Seen>,
}

#[derive(Default)]
struct Device {
    user_id: String,
    device_id: String,
    script: Vec<Scripted>,
    ledger: BTreeMap<String, Handed>,
    joined: BTreeSet<String>,
    waiting: usize,
}

struct Scripted {
    body: Bytes,
    to_device: Vec<String>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A test that failed while it held the lock has reported that already.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.notify_waiters();
        result
    }
}

impl State {
    fn device(&mut self, token: &str) -> &mut Device {
        let index = *self.tokens.get(token).expect("the token is registered");
        &mut self.devices[index]
    }

    fn position(&self, n: usize) -> String {
        format!("{}{n}{}", self.position.0, self.position.1)
    }

    fn index(&self, position: &str) -> Option<usize> {
        let number = position
            .strip_prefix(&self.position.0)?
            .strip_suffix(&self.position.1)?;
        number.parse().ok()
    }

    fn fault(&mut self, token: &str, path: &str) -> Option<Fault> {
        let concerned = |concerns: &Concerns| {
            concerns.left != Some(0)
                && path.contains(&concerns.path)
                && concerns.token.as_deref().is_none_or(|wanted| wanted == token)
        };
        let (concerns, fault) = self.faults.iter_mut().find(|(concerns, _)| concerned(concerns))?;
        concerns.left = concerns.left.map(|left| left - 1);
        Some(fault.clone())
    }

    /// Keeps what other endpoints need to know of a response.
    fn learn(&mut self, token: &str, body: &Value) {
        let sections = |name: &str| body["rooms"][name].as_object().cloned().unwrap_or_default();
        for (room_id, room) in sections("join") {
            let entries = self.rooms.entry(room_id.clone()).or_default();
            let blocks = [&room["state"]["events"], &room["timeline"]["events"]];
            for event in blocks.into_iter().filter_map(Value::as_array).flatten() {
                if let (Some(event_type), Some(state_key)) = (event["type"].as_str(), event["state_key"].as_str()) {
                    entries.insert((event_type.to_owned(), state_key.to_owned()), event.clone());
                }
            }
            self.device(token).joined.insert(room_id);
        }
        for (room_id, _) in sections("leave") {
            self.device(token).joined.remove(&room_id);
        }
    }
}

impl Homeserver {
    /// Starts one on a free port of the loopback interface.
    pub fn start() -> Self {
        Self::start_on(0)
    }

    /// Starts one on this port.
    pub fn start_on(port: u16) -> Self {
        let shared = Arc::new(Shared::default());
        shared.lock().position = ("s".to_owned(), "&+%/=_é".to_owned());
        let (ready, started) = mpsc::channel();
        let data = web::Data::from(shared.clone());
        std::thread::spawn(move || {
            actix_web::rt::System::new().block_on(async move {
                let app = move || {
                    App::new()
                        .app_data(data.clone())
                        .app_data(web::PayloadConfig::new(1 << 30))
                        .default_service(web::to(answer))
                };
                let server = HttpServer::new(app)
                    .workers(1)
                    .disable_signals()
                    .shutdown_timeout(0)
                    .bind((Ipv4Addr::LOCALHOST, port))
                    .expect("the port is free");
                let address = server.addrs()[0];
                let server = server.run();
                ready
                    .send((address, server.handle()))
                    .expect("somebody waits for the address");
                server.await.expect("the server runs until it is stopped");
            });
        });
        let (address, server) = started.recv().expect("the server starts");
        Self {
            shared,
            address,
            server,
        }
    }

    /// Returns the base address, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Sets what surrounds the number in position tokens. To be called before the first request.
    pub fn position_format(&self, before: &str, after: &str) {
        self.shared
            .change(|state| state.position = (before.to_owned(), after.to_owned()));
    }

    /// Makes a token valid. Several tokens may belong to one device and then share its script.
    pub fn register(&self, token: &str, user_id: &str, device_id: &str) {
        self.shared.change(|state| {
            let same = |device: &Device| device.user_id == user_id && device.device_id == device_id;
            let index = state.devices.iter().position(same).unwrap_or_else(|| {
                state.devices.push(Device {
                    user_id: user_id.to_owned(),
                    device_id: device_id.to_owned(),
                    ..Device::default()
                });
                state.devices.len() - 1
            });
            state.tokens.insert(token.to_owned(), index);
        });
    }

    /// Makes a token invalid: it gets 401 without `soft_logout`.
    pub fn revoke(&self, token: &str) {
        self.shared.change(|state| state.tokens.remove(token));
    }

    /// Appends a v2 response (without `next_batch`) to the script of the token's device.
    pub fn push(&self, token: &str, body: impl Into<Value>) {
        push(&self.shared, token, &body.into());
    }

    /// Appends a response that is rendered already and may be large. `joined` is for `/joined_rooms`.
    pub fn push_rendered(&self, token: &str, body: Bytes, joined: impl IntoIterator<Item = String>) {
        assert!(body.starts_with(b"{"), "a response is an object");
        self.shared.change(|state| {
            let device = state.device(token);
            device.joined.extend(joined);
            device.script.push(Scripted {
                body,
                to_device: Vec::new(),
            });
        });
    }

    /// Sets entries of a room's state beyond what the responses contain.
    pub fn room_state(&self, room_id: &str, events: impl IntoIterator<Item = Value>) {
        self.shared.change(|state| {
            let entries = state.rooms.entry(room_id.to_owned()).or_default();
            for event in events {
                let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
                entries.insert((text("type"), text("state_key")), event);
            }
        });
    }

    /// Lets something go wrong. Of several faults that concern a request the first one takes place.
    pub fn fault(&self, concerns: Concerns, fault: Fault) {
        self.shared.change(|state| state.faults.push((concerns, fault)));
    }

    /// Ends all faults.
    pub fn heal(&self) {
        self.shared.change(|state| state.faults.clear());
    }

    /// Returns what became of each to-device message of the token's device that was handed out, by message ID.
    pub fn ledger(&self, token: &str) -> BTreeMap<String, Handed> {
        self.shared.lock().device(token).ledger.clone()
    }

    /// Returns all requests made with this token.
    pub fn requests(&self, token: &str) -> Vec<Seen> {
        let state = self.shared.lock();
        state.seen.iter().filter(|seen| seen.token == token).cloned().collect()
    }

    /// Returns all requests.
    pub fn all_requests(&self) -> Vec<Seen> {
        self.shared.lock().seen.clone()
    }

    /// Returns how many long-polls of the token's device wait for news at this moment.
    pub fn waiting(&self, token: &str) -> usize {
        self.shared.lock().device(token).waiting
    }

    /// Waits until something that requests bring about is the case.
    pub async fn until(&self, holds: impl Fn(&Self) -> bool) {
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if holds(self) {
                return;
            }
            changed.await;
        }
    }
}

impl Drop for Homeserver {
    fn drop(&mut self) {
        // The command is sent by the call; nobody has to wait for its effect.
        drop(self.server.stop(false));
    }
}

fn push(shared: &Shared, token: &str, body: &Value) {
    assert!(body.is_object(), "a response is an object");
    shared.change(|state| {
        state.learn(token, body);
        let device = state.device(token);
        let nth = device.script.len();
        let messages = body["to_device"]["events"].as_array().cloned().unwrap_or_default();
        let to_device = messages.iter().enumerate().map(|(i, message)| {
            let id = message["content"]["message_id"].as_str();
            id.map_or_else(|| format!("{nth}:{i}"), str::to_owned)
        });
        device.script.push(Scripted {
            body: Bytes::from(body.to_string()),
            to_device: to_device.collect(),
        });
    });
}

async fn answer(request: HttpRequest, shared: web::Data<Shared>, body: Bytes) -> HttpResponse {
    let path: Vec<String> = request.path().split('/').skip(1).map(decode).collect();
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    if let ["_control", "push", token] = path[..] {
        let registered = shared.lock().tokens.contains_key(token);
        return match serde_json::from_slice::<Value>(&body) {
            Ok(body) if body.is_object() && registered => {
                push(&shared, token, &body);
                ok(&json!({}))
            }
            _ => error(400, "M_BAD_JSON"),
        };
    }
    let token = bearer(&request);
    let query = url::form_urlencoded::parse(request.query_string().as_bytes())
        .into_owned()
        .collect();
    let seen = Seen {
        at: Instant::now(),
        method: request.method().to_string(),
        path: request.path().to_owned(),
        query,
        token: token.clone(),
    };
    let (fault, known) = shared.change(|state| {
        state.seen.push(seen.clone());
        (state.fault(&token, &seen.path), state.tokens.contains_key(&token))
    });
    match &fault {
        Some(Fault::Delay(delay)) => tokio::time::sleep(*delay).await,
        Some(Fault::Cut | Fault::Truncated) | None => {}
        Some(fault) => return faulty(fault),
    }
    if let ["_matrix", "client", "versions"] = path[..] {
        return ok(&json!({"versions": ["v1.11"], "unstable_features": {}}));
    }
    if !known {
        return error(401, "M_UNKNOWN_TOKEN");
    }
    match &path[..] {
        ["_matrix", "client", _, "sync"] => sync(&shared, &seen, fault.as_ref()).await,
        ["_matrix", "client", _, "account", "whoami"] => {
            let mut state = shared.lock();
            let device = state.device(&token);
            ok(&json!({"user_id": device.user_id, "device_id": device.device_id}))
        }
        ["_matrix", "client", _, "joined_rooms"] => ok(&json!({"joined_rooms": shared.lock().device(&token).joined})),
        ["_matrix", "client", _, "keys", "upload"] => ok(&json!({"one_time_key_counts": {}})),
        ["_matrix", "client", _, "rooms", room_id, rest @ ..] => room(&shared, room_id, rest, &seen),
        _ => error(404, "M_UNRECOGNIZED"),
    }
}

fn room(shared: &Shared, room_id: &str, rest: &[&str], seen: &Seen) -> HttpResponse {
    let state = shared.lock();
    let Some(entries) = state.rooms.get(room_id) else {
        return error(403, "M_FORBIDDEN");
    };
    match rest {
        ["members"] => {
            let members = entries
                .iter()
                .filter(|((event_type, _), _)| event_type == "m.room.member");
            ok(&json!({"chunk": members.map(|(_, event)| event).collect::<Vec<_>>()}))
        }
        ["state"] => ok(&json!(entries.values().collect::<Vec<_>>())),
        ["state", event_type, key @ ..] => {
            let key = (event_type.to_string(), key.concat());
            match entries.get(&key) {
                Some(event) if seen.parameter("format") == Some("event") => ok(event),
                Some(event) => ok(&event["content"]),
                None => error(404, "M_NOT_FOUND"),
            }
        }
        _ => error(404, "M_UNRECOGNIZED"),
    }
}

/// Counts a long-poll as waiting, also when the client goes away.
struct Waiting<'a>(&'a Shared, usize);

impl<'a> Waiting<'a> {
    fn begin(shared: &'a Shared, device: usize) -> Self {
        shared.change(|state| state.devices[device].waiting += 1);
        Self(shared, device)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.change(|state| state.devices[self.1].waiting -= 1);
    }
}

async fn sync(shared: &Shared, seen: &Seen, fault: Option<&Fault>) -> HttpResponse {
    let since = seen.parameter("since");
    let (device, at) = {
        let mut state = shared.lock();
        let at = match since.map(|since| state.index(since)) {
            None => 0,
            Some(Some(at)) => at,
            Some(None) => return error(400, "M_UNKNOWN"),
        };
        let Some(&index) = state.tokens.get(&seen.token) else {
            return error(401, "M_UNKNOWN_TOKEN");
        };
        let device = &mut state.devices[index];
        if at > device.script.len() {
            return error(400, "M_UNKNOWN");
        }
        for message_id in device.script[..at].iter().flat_map(|scripted| &scripted.to_device) {
            if let Some(handed) = device.ledger.get_mut(message_id) {
                handed.acknowledged = true;
            }
        }
        (index, at)
    };
    shared.changed.notify_waiters();
    // A first sync never waits.
    let timeout = seen
        .parameter("timeout")
        .filter(|_| since.is_some())
        .and_then(|ms| ms.parse().ok());
    let deadline = tokio::time::Instant::now() + Duration::from_millis(timeout.unwrap_or(0));
    let (body, next) = wait(shared, device, at, deadline).await;
    let head = format!(r#"{{"next_batch":{}"#, json!(shared.lock().position(next)));
    // The script's body is passed on as it stands, however large.
    let rest = if body.len() > 2 {
        body.slice(1..)
    } else {
        Bytes::from_static(b"}")
    };
    let comma = Bytes::from_static(if body.len() > 2 { b"," } else { b"" });
    send(vec![Bytes::from(head), comma, rest], fault)
}

/// Returns the response at `at`, or an empty one when the time is over, and the number of the next position.
async fn wait(shared: &Shared, device: usize, at: usize, deadline: tokio::time::Instant) -> (Bytes, usize) {
    let mut waiting = None;
    loop {
        let changed = shared.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        {
            let mut state = shared.lock();
            let device = &mut state.devices[device];
            if let Some(scripted) = device.script.get(at) {
                for message_id in &scripted.to_device {
                    device.ledger.entry(message_id.clone()).or_default().times += 1;
                }
                return (scripted.body.clone(), at + 1);
            }
        }
        if tokio::time::Instant::now() >= deadline {
            return (Bytes::from_static(b"{}"), at);
        }
        if waiting.is_none() {
            // Tells those who wait for somebody to wait, us included, hence once more around.
            waiting = Some(Waiting::begin(shared, device));
            continue;
        }
        let _ = tokio::time::timeout_at(deadline, changed).await;
    }
}

fn send(chunks: Vec<Bytes>, fault: Option<&Fault>) -> HttpResponse {
    let length: usize = chunks.iter().map(Bytes::len).sum();
    let mut response = HttpResponse::Ok();
    response.insert_header(ContentType::json());
    let sent = match fault {
        Some(Fault::Cut | Fault::Truncated) => half(&chunks, length),
        _ => chunks,
    };
    let sent_length = sent.iter().map(Bytes::len).sum::<usize>() as u64;
    let body = stream::iter(sent.into_iter().filter(|chunk| !chunk.is_empty()).map(Ok));
    match fault {
        Some(Fault::Cut) => response.no_chunking(length as u64).streaming(
            body.chain(
                stream::once(async {
                    // What was written so far goes out before the end.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    Err(std::io::Error::other("scripted cut"))
                })
                .boxed_local(),
            ),
        ),
        _ => response
            .no_chunking(sent_length)
            .streaming(body.map(|chunk: Result<Bytes, std::io::Error>| chunk)),
    }
}

fn half(chunks: &[Bytes], length: usize) -> Vec<Bytes> {
    let mut left = length / 2;
    let mut out = Vec::new();
    for chunk in chunks {
        let part = chunk.slice(..chunk.len().min(left));
        left -= part.len();
        out.push(part);
    }
    out
}

fn faulty(fault: &Fault) -> HttpResponse {
    match fault {
        Fault::Answer { status, body, headers } => {
            let mut response = HttpResponse::build(StatusCode::from_u16(*status).expect("a status"));
            response.insert_header(ContentType::json());
            for (name, value) in headers {
                response.insert_header((name.as_str(), value.as_str()));
            }
            response.body(body.clone())
        }
        Fault::Html => HttpResponse::Ok()
            .insert_header(ContentType::html())
            .body("<html><body>It works!</body></html>"),
        Fault::Redirect(to) => HttpResponse::Found().insert_header((LOCATION, to.as_str())).finish(),
        Fault::Endless => {
            let trickle = stream::unfold(true, |first| async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                let piece = if first { r#"{"next_batch":""# } else { "x" };
                Some((Ok::<_, std::io::Error>(Bytes::from_static(piece.as_bytes())), false))
            });
            HttpResponse::Ok()
                .insert_header(ContentType::json())
                .streaming(trickle.boxed_local())
        }
        Fault::Delay(_) | Fault::Cut | Fault::Truncated => error(500, "M_UNKNOWN"),
    }
}

fn ok(body: &Value) -> HttpResponse {
    HttpResponse::Ok().json(body)
}

fn error(status: u16, errcode: &str) -> HttpResponse {
    faulty(&Fault::error(status, errcode))
}

fn bearer(request: &HttpRequest) -> String {
    let header = request
        .headers()
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    header
        .and_then(|value| value.strip_prefix("Bearer "))
        .unwrap_or_default()
        .to_owned()
}

/// Decodes percent signs in a part of a path, where `+` stands for itself.
fn decode(part: &str) -> String {
    let bytes = part.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = part
            .get(at + 1..at + 3)
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (bytes[at], code) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
