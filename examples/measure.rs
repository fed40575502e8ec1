//! Measures the program from outside, against the scripted homeserver in this process:
//!
//! ```text
//! cargo build --release && cargo run --release --example measure -- --program target/release/syncv3 --db /tmp/m.db
//! ```
//!
//! `--db` names a database that does not exist yet (SQLite) or is empty (Postgres). Prints one line per figure.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on stops")]
#![expect(clippy::print_stdout, reason = "the result")]

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use serde_json::{Value, json};

#[path = "../tests/support/bodies.rs"]
mod bodies;
#[path = "../tests/support/homeserver.rs"]
mod homeserver;

use homeserver::Homeserver;

#[derive(Parser)]
struct Options {
    /// The program to measure.
    #[arg(long)]
    program: String,
    /// Its database.
    #[arg(long)]
    db: String,
    /// Rooms of the account.
    #[arg(long, default_value_t = 2_000)]
    rooms: usize,
    /// Size of the first response in bytes; 0 for a typical one.
    #[arg(long, default_value_t = 40_000_000)]
    bytes: usize,
    /// Idle devices for the memory figure; 0 skips it.
    #[arg(long, default_value_t = 500)]
    idle: usize,
}

struct Server {
    child: Child,
    base: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    async fn start(options: &Options, homeserver: &str) -> (Self, Duration) {
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let began = Instant::now();
        let child = Command::new(&options.program)
            .env("SYNCV3_SERVER", homeserver)
            .env("SYNCV3_DB", &options.db)
            .env("SYNCV3_SECRET", "measure")
            .env("SYNCV3_BINDADDR", format!("127.0.0.1:{port}"))
            .env("SYNCV3_LOG_LEVEL", "warn")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let base = format!("http://127.0.0.1:{port}");
        let http = awc::Client::default();
        while http.get(format!("{base}/client/server.json")).send().await.is_err() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        (Self { child, base }, began.elapsed())
    }

    /// A line of the kernel's process status, in MiB.
    fn memory(&self, field: &str) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    }
}

struct Client {
    http: awc::Client,
    url: String,
    token: String,
}

impl Client {
    fn new(server: &Server, token: &str) -> Self {
        Self {
            http: awc::Client::builder()
                .connector(awc::Connector::new().limit(0))
                .timeout(Duration::from_secs(120))
                .finish(),
            url: format!("{}/_matrix/client/unstable/org.matrix.msc3575/sync", server.base),
            token: token.to_owned(),
        }
    }

    async fn sync(&self, pos: Option<&str>, timeout: u64, body: &Value) -> Value {
        let mut url = format!("{}?timeout={timeout}", self.url);
        if let Some(pos) = pos {
            url.push_str(&format!("&pos={pos}"));
        }
        let request = self.http.post(url).bearer_auth(&self.token).no_decompress();
        let mut response = request
            .insert_header(("Accept-Encoding", "identity"))
            .send_json(body)
            .await
            .unwrap();
        serde_json::from_slice(&response.body().limit(1 << 28).await.unwrap()).unwrap()
    }
}

fn window(size: usize) -> Value {
    json!({"lists": {"all": {"ranges": [[0, size - 1]], "sort": ["by_recency"], "timeline_limit": 10,
        "required_state": [["m.room.name", ""], ["m.room.encryption", ""], ["m.room.member", "$LAZY"]]}}})
}

fn percentiles(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
    format!("p50 {:.2} ms, p99 {:.2} ms", at(0.5), at(0.99))
}

#[actix_web::main]
async fn main() {
    let options = Options::parse();
    let account = bodies::account(1, options.rooms, options.bytes);
    let homeserver = Homeserver::start();
    homeserver.register("token0", "@load0:load.example", "DEVICE");
    homeserver.push_rendered("token0", account.clone(), (0..options.rooms).map(bodies::account_room));
    let (server, _) = Server::start(&options, &homeserver.url()).await;
    let idle_memory = server.memory("VmRSS");
    let client = Client::new(&server, "token0");

    let began = Instant::now();
    let first = client.sync(None, 20_000, &window(20)).await;
    println!(
        "first login, {} rooms, {:.1} MB: first window of {} rooms after {:.0} ms (request, transfer and parse included)",
        options.rooms,
        account.len() as f64 / 1e6,
        first["rooms"].as_object().unwrap().len(),
        began.elapsed().as_secs_f64() * 1000.0
    );
    let mut pos = first["pos"].as_str().unwrap().to_owned();
    let mut count = first["lists"]["all"]["count"].as_u64().unwrap();
    while count < options.rooms as u64 {
        let answer = client.sync(Some(&pos), 1_000, &window(20)).await;
        pos = answer["pos"].as_str().unwrap().to_owned();
        count = answer["lists"]["all"]["count"].as_u64().unwrap();
    }
    println!("all rooms listed after {:.2} s", began.elapsed().as_secs_f64());
    println!(
        "memory: {idle_memory:.0} MiB at start, peak {:.0} MiB, now {:.0} MiB",
        server.memory("VmHWM"),
        server.memory("VmRSS")
    );

    let mut windows = Vec::new();
    for _ in 0..200 {
        let began = Instant::now();
        let answer = client.sync(None, 0, &window(20)).await;
        windows.push(began.elapsed());
        pos = answer["pos"].as_str().unwrap().to_owned();
    }
    println!(
        "20-room window, new connection, {} rooms: {}",
        options.rooms,
        percentiles(windows)
    );

    let mut polls = Vec::new();
    for _ in 0..50 {
        let began = Instant::now();
        let answer = client.sync(Some(&pos), 100, &window(20)).await;
        // The least time a poll waits is 100 ms; what it costs is the rest.
        polls.push(began.elapsed().saturating_sub(Duration::from_millis(100)));
        pos = answer["pos"].as_str().unwrap().to_owned();
    }
    println!("empty poll beyond its wait: {}", percentiles(polls));

    let mut live = Vec::new();
    for n in 0..500 {
        let room = bodies::account_room(n % options.rooms);
        let body = window(20);
        let waiting = client.sync(Some(&pos), 20_000, &body);
        let push = async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let event = bodies::message(
                &format!("$live{n}"),
                "@user1:load.example",
                1_900_000_000_000 + n as i64,
                "x",
            );
            let response = bodies::v2().join(&room, |room| room.timeline([event]));
            let sent = Instant::now();
            homeserver.push("token0", response);
            sent
        };
        let (answer, sent) = futures_util::future::join(waiting, push).await;
        live.push(sent.elapsed());
        pos = answer["pos"].as_str().unwrap().to_owned();
    }
    println!("live event, homeserver to client: {}", percentiles(live));

    if options.idle > 0 {
        let before = server.memory("VmRSS");
        let small = bodies::account(2, 20, 0);
        let mut clients = Vec::new();
        for n in 1..=options.idle {
            let token = format!("token{n}");
            homeserver.register(&token, &format!("@load{n}:load.example"), "DEVICE");
            homeserver.push_rendered(&token, small.clone(), (0..20).map(bodies::account_room));
            let client = Client::new(&server, &token);
            let answer = client.sync(None, 20_000, &window(20)).await;
            clients.push((client, answer["pos"].as_str().unwrap().to_owned()));
        }
        let body = window(20);
        let polls = clients
            .iter()
            .map(|(client, pos)| client.sync(Some(pos), 10_000, &body));
        let measured = async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            server.memory("VmRSS") - before
        };
        let (grown, _) = futures_util::future::join(measured, futures_util::future::join_all(polls)).await;
        println!(
            "memory per idle device (poller, session, cache of 20 rooms, long poll): {:.0} KiB",
            grown * 1024.0 / options.idle as f64
        );
    }
    drop(server);
    let (_server, ready) = Server::start(&options, &homeserver.url()).await;
    println!("start with this database: {:.0} ms", ready.as_secs_f64() * 1000.0);
}
