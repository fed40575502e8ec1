//! The tests' scripted homeserver as a program, for measurements: `token0`, `token1`, ... are users with one large
//! account each, who get live messages; `POST /_control/push/{token}` adds a v2 response to somebody's script.

use std::time::Duration;

use clap::Parser;

#[path = "../tests/support/bodies.rs"]
mod bodies;
#[path = "../tests/support/homeserver.rs"]
mod homeserver;

#[derive(Parser)]
struct Options {
    /// Port on the loopback interface; 0 for any.
    #[arg(long, default_value_t = 8008)]
    port: u16,
    /// Rooms of the account, which all users share.
    #[arg(long, default_value_t = 2_000)]
    rooms: usize,
    /// Size of the first response in bytes; 0 for a typical one.
    #[arg(long, default_value_t = 0)]
    bytes: usize,
    /// Number of users.
    #[arg(long, default_value_t = 1)]
    users: usize,
    /// Live messages per second, each to all users; 0 for none.
    #[arg(long, default_value_t = 0.0)]
    rate: f64,
    /// Makes another account.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[actix_web::main]
async fn main() {
    let options = Options::parse();
    let account = bodies::account(options.seed, options.rooms, options.bytes);
    let homeserver = homeserver::Homeserver::start_on(options.port);
    let tokens: Vec<String> = (0..options.users).map(|n| format!("token{n}")).collect();
    for (n, token) in tokens.iter().enumerate() {
        homeserver.register(token, &format!("@load{n}:load.example"), "DEVICE");
        homeserver.push_rendered(token, account.clone(), (0..options.rooms).map(bodies::account_room));
    }
    eprintln!(
        "{} serves {} bytes to {} users",
        homeserver.url(),
        account.len(),
        tokens.len()
    );
    if options.rate <= 0.0 || options.rooms == 0 {
        return std::future::pending().await;
    }
    let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / options.rate));
    for n in 0_usize.. {
        ticks.tick().await;
        // A step without a common divisor with usual numbers of rooms, so that all rooms have their turn.
        let room_id = bodies::account_room(n.wrapping_mul(7_919) % options.rooms);
        let ts = 1_750_000_000_000 + i64::try_from(n).unwrap_or(0) * 1_000;
        let message = bodies::message(&format!("$live{n}"), "@user1:load.example", ts, "live message");
        let body = bodies::v2().join(&room_id, |room| room.timeline([message]).unread(1, 0));
        for token in &tokens {
            homeserver.push(token, body.clone());
        }
    }
}
