//! Composition root: builds store, actors and web in order, and stops them in reverse.

use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix::Addr;
use actix_web::{App as WebApp, HttpServer, web};
use futures_util::future::{BoxFuture, join_all};
use tokio::sync::Semaphore;

use crate::actors::fleet::Fleet;
use crate::actors::fleet::messages::{Resume, StopAll};
use crate::actors::mail;
use crate::actors::metrics::metrics;
use crate::actors::observe::{Naming, Observatory};
use crate::actors::place::Places;
use crate::actors::poller::PollerWorld;
use crate::actors::registry::Registry;
use crate::actors::registry::messages::{EndDevice, StopSessions};
use crate::actors::room_cache::RoomCache;
use crate::actors::room_cache::messages::Commit;
use crate::actors::session::SessionWorld;
use crate::clock::{Clock, SystemClock};
use crate::config::{Bind, Config};
use crate::store::{Store, StoreOptions};
use crate::upstream::client::{Homeserver, HomeserverOptions};
use crate::web::admin::Admin;
use crate::web::auth::Tokens;
use crate::web::{self as front, Services, Worker};

/// Pollers that catch up at the same moment after a start.
const CATCH_UP: usize = 16;
/// How long open connections may take to end when the server stops; parked requests are answered at once.
const SHUTDOWN_SECS: u64 = 5;
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// Why the server does not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database.
    #[error("database: {0}")]
    Store(#[from] crate::store::Error),
    /// The homeserver's client could not be made.
    #[error("homeserver: {0}")]
    Homeserver(#[from] crate::upstream::error::Error),
    /// An address cannot be listened on.
    #[error("cannot listen on {0}: {1}")]
    Bind(String, std::io::Error),
    /// Certificate or key cannot be used.
    #[error("certificate: {0}")]
    Tls(String),
    /// A part without which the server is useless has died.
    #[error("{0} has died")]
    Died(&'static str),
    /// The listener failed.
    #[error("listener: {0}")]
    Serve(#[from] std::io::Error),
}

/// Runs the server until `stop` resolves or something vital dies.
pub async fn run(config: Config, stop: impl Future<Output = ()>) -> Result<(), Error> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let observatory = Observatory::default();
    let naming = Naming { reveal: config.debug };
    let width = std::thread::available_parallelism().map_or(2, usize::from);
    let places = Places::new(width);
    let handles = places.handles();

    let room_cache = {
        let observatory = observatory.clone();
        handles.center(move |_| RoomCache::new(observatory))
    };
    let store = open_store(&config, Arc::clone(&clock), room_cache.clone())?;
    let homeserver = HomeserverOptions::from(&config);
    let tokens = Tokens::new(Arc::clone(&clock));
    let registry_slot: Arc<OnceLock<Addr<Registry>>> = Arc::default();

    let fleet = {
        let world = PollerWorld {
            store: store.clone(),
            homeserver: homeserver.clone(),
            room_cache: room_cache.clone(),
            clock: Arc::clone(&clock),
            catch_up: Arc::new(Semaphore::new(CATCH_UP)),
            observatory: observatory.clone(),
            naming,
        };
        let (places, tokens, idle_hours) = (handles.clone(), tokens.clone(), config.idle_poller_hours);
        let slot = Arc::clone(&registry_slot);
        handles.center(move |_| {
            let end_device = Box::new(move |device: &_, problem: &_| {
                if let Some(registry) = slot.get() {
                    // Bounded: one for each refusal of the homeserver.
                    mail::tell(
                        registry,
                        EndDevice {
                            device: Clone::clone(device),
                            problem: Clone::clone(problem),
                        },
                    );
                }
            });
            Fleet::new(world, places, tokens, idle_hours, end_device)
        })
    };
    let registry = {
        let world = SessionWorld {
            store: store.clone(),
            fleet: fleet.clone(),
            clock: Arc::clone(&clock),
            observatory: observatory.clone(),
            naming,
        };
        let (room_cache, places) = (room_cache.clone(), handles.clone());
        handles.center(move |_| Registry::new(world, room_cache, places))
    };
    // Set once, here.
    let _ = registry_slot.set(registry.clone());

    let services = Services {
        store: store.clone(),
        tokens,
        fleet: fleet.clone(),
        registry: registry.clone(),
        server: config.server.to_string(),
    };
    let server = listen(&config, services, homeserver)?;
    let server_handle = server.handle();
    let mut listeners: Vec<BoxFuture<'static, std::io::Result<()>>> = vec![Box::pin(server)];
    let mut handles_to_stop = vec![server_handle];
    if let Some(bind) = &config.prom {
        let admin = Admin {
            observatory: observatory.clone(),
            store: store.clone(),
        };
        let admin = listen_admin(bind, admin)?;
        handles_to_stop.push(admin.handle());
        listeners.push(Box::pin(admin));
    }
    mail::tell(&fleet, Resume);
    log::info!(
        address:% = config.binds.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        version = env!("CARGO_PKG_VERSION");
        "listening"
    );

    let vital = watch_vital(&store, &room_cache, &fleet, &registry);
    let outcome = tokio::select! {
        () = stop => Ok(()),
        died = vital => Err(Error::Died(died)),
        results = join_all(listeners) => results.into_iter().find_map(Result::err).map_or(Ok(()), |e| Err(e.into())),
    };
    log::info!("stopping");
    // Parked requests are answered first, so that stopping the listener does not wait for their time to be up.
    if mail::ask(&registry, StopSessions, STOP_TIMEOUT).await.is_err() {
        log::warn!("sessions did not stop");
    }
    let stops = handles_to_stop.iter().map(|handle| handle.stop(true));
    if tokio::time::timeout(STOP_TIMEOUT, join_all(stops)).await.is_err() {
        log::warn!("listeners did not stop in time");
    }
    if mail::ask(&fleet, StopAll, STOP_TIMEOUT).await.is_err() {
        log::warn!("pollers did not stop");
    }
    if let Err(error) = store.flush().await {
        log::warn!(cause:% = error; "last changes could not be stored; they will be fetched again");
    }
    places.stop();
    store.close();
    log::info!("stopped");
    outcome
}

fn open_store(config: &Config, clock: Arc<dyn Clock>, room_cache: Addr<RoomCache>) -> Result<Store, Error> {
    let options = StoreOptions {
        url: config.database.clone(),
        secret: config.secret.clone(),
        previous_secret: config.previous_secret.clone(),
        max_connections: config.max_db_connections,
        idle_timeout: config.db_idle_timeout,
        timeline_keep: 100,
        debug_assertions: config.debug,
    };
    // Bounded: every poller waits for a barrier after each of its commits.
    let listener = Box::new(move |committed| mail::tell(&room_cache, Commit(committed)));
    let observer = Box::new(|report: crate::store::CommitReport| {
        let metrics = metrics();
        metrics.store_commit_seconds.observe(report.duration.as_secs_f64());
        metrics.store_commit_jobs.observe(report.jobs as f64);
        metrics.store_events_total.inc_by(report.events as u64);
    });
    Ok(Store::open(options, clock, listener, observer)?)
}

/// Resolves with the name of what died. These have no restart: without them nothing works, and a supervisor outside
/// starts a clean process.
async fn watch_vital(
    store: &Store,
    room_cache: &Addr<RoomCache>,
    fleet: &Addr<Fleet>,
    registry: &Addr<Registry>,
) -> &'static str {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    loop {
        tick.tick().await;
        if !store.is_alive() {
            return "store writer";
        }
        if !room_cache.connected() {
            return "room cache";
        }
        if !fleet.connected() {
            return "fleet";
        }
        if !registry.connected() {
            return "registry";
        }
    }
}

fn listen(config: &Config, services: Services, homeserver: HomeserverOptions) -> Result<actix_web::dev::Server, Error> {
    // Fails here and not in a worker, where nobody would see it.
    Homeserver::new(&homeserver)?;
    let mut server = HttpServer::new(move || {
        let homeserver = Homeserver::new(&homeserver).expect("the same options made a client before");
        WebApp::new()
            .app_data(web::Data::new(services.clone()))
            .app_data(web::Data::new(Worker { homeserver }))
            .wrap(front::compress())
            .wrap(front::cors())
            .configure(front::routes)
    })
    .disable_signals()
    .shutdown_timeout(SHUTDOWN_SECS)
    .backlog(4096)
    // Otherwise a client that goes away during a long poll is not noticed.
    .h1_allow_half_closed(false);
    let tls = match &config.tls {
        Some(files) => Some(tls_config(files)?),
        None => None,
    };
    for bind in &config.binds {
        let failed = |error| Error::Bind(bind.to_string(), error);
        server = match (bind, &tls) {
            (Bind::Tcp(address), Some(tls)) => server.bind_rustls_0_23(address, tls.clone()).map_err(failed)?,
            (Bind::Tcp(address), None) => server.bind(address).map_err(failed)?,
            (Bind::Unix(path), _) => server.bind_uds(path).map_err(failed)?,
        };
    }
    Ok(server.run())
}

fn listen_admin(bind: &Bind, admin: Admin) -> Result<actix_web::dev::Server, Error> {
    let server = HttpServer::new(move || {
        WebApp::new()
            .app_data(web::Data::new(admin.clone()))
            .configure(front::admin::routes)
    })
    .workers(1)
    .disable_signals()
    .shutdown_timeout(1);
    let failed = |error| Error::Bind(bind.to_string(), error);
    let server = match bind {
        Bind::Tcp(address) => server.bind(address).map_err(failed)?,
        Bind::Unix(path) => server.bind_uds(path).map_err(failed)?,
    };
    Ok(server.run())
}

fn tls_config(files: &crate::config::TlsFiles) -> Result<rustls::ServerConfig, Error> {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let failed = |error: &dyn std::fmt::Display| Error::Tls(error.to_string());
    let certificates = CertificateDer::pem_file_iter(&files.certificate)
        .map_err(|error| failed(&error))?
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| failed(&error))?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| failed(&error))?;
    rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .map_err(|error| failed(&error))
}
