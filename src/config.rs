//! What the operator wrote, turned into a [`Config`] in which every question is answered. All problems are reported
//! together. Nobody else reads the environment.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::{CommandFactory, FromArgMatches, Parser};
use secrecy::SecretString;
use url::Url;

/// What the operator wrote, as text.
#[derive(Parser)]
#[command(
    name = "syncv3",
    version,
    about = "Gives Matrix clients the sync APIs that their homeserver lacks"
)]
struct Raw {
    /// Base URL of the homeserver, or the path of its unix socket (required)
    #[arg(long, env = "SYNCV3_SERVER")]
    server: Option<String>,
    /// Database: sqlite://path, a path, postgres://..., or libpq's key=value form
    #[arg(long, env = "SYNCV3_DB", default_value = "./syncv3.db", hide_env_values = true)]
    db: String,
    /// Encrypts access tokens; made up and kept next to a SQLite database if absent
    #[arg(long, env = "SYNCV3_SECRET", hide_env_values = true)]
    secret: Option<String>,
    /// The secret before a change
    #[arg(long, env = "SYNCV3_PREVIOUS_SECRET", hide_env_values = true)]
    previous_secret: Option<String>,
    /// Where clients connect: addresses or unix socket paths, separated by commas
    #[arg(long, env = "SYNCV3_BINDADDR", default_value = "127.0.0.1:8008")]
    bindaddr: String,
    /// Where metrics and admin pages listen; off when unset
    #[arg(long, env = "SYNCV3_PROM")]
    prom: Option<String>,
    /// error, warn, info, debug or trace
    #[arg(long, env = "SYNCV3_LOG_LEVEL", default_value = "info")]
    log_level: String,
    /// 1: failed assertions panic, and admin pages show user IDs
    #[arg(long, env = "SYNCV3_DEBUG", default_value = "0", default_missing_value = "1", num_args = 0..=1)]
    debug: String,
    /// Database connections, at least 2
    #[arg(long, env = "SYNCV3_MAX_DB_CONN", default_value = "8")]
    max_db_conn: String,
    /// When an unused database connection is closed, seconds; 0 is never
    #[arg(long, env = "SYNCV3_DB_IDLE_TIMEOUT_SECS", default_value = "3600")]
    db_idle_timeout_secs: String,
    /// How long the homeserver may take beyond a long poll's own time, seconds
    #[arg(long, env = "SYNCV3_HTTP_TIMEOUT_SECS", default_value = "300")]
    http_timeout_secs: String,
    /// The same for a device's first sync, seconds
    #[arg(long, env = "SYNCV3_HTTP_INITIAL_TIMEOUT_SECS", default_value = "1800")]
    http_initial_timeout_secs: String,
    /// How long a device is polled after its client was last here, hours; 0 is only while it is
    #[arg(long, env = "SYNCV3_IDLE_POLLER_HOURS", default_value = "72")]
    idle_poller_hours: String,
    /// Largest homeserver response, MiB
    #[arg(long, env = "SYNCV3_MAX_BODY_MB", default_value = "1024")]
    max_body_mb: String,
    /// Certificate authority to trust besides the system's, PEM
    #[arg(long, env = "SYNCV3_CA_FILE")]
    ca_file: Option<String>,
    /// Certificate to serve HTTPS with, PEM
    #[arg(long, env = "SYNCV3_TLS_CERT")]
    tls_cert: Option<String>,
    /// Its key, PEM
    #[arg(long, env = "SYNCV3_TLS_KEY")]
    tls_key: Option<String>,
}

/// Where the homeserver is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Server {
    /// `http` or `https`.
    Url(Url),
    /// A unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Server::Url(url) => f.write_str(url.as_str().trim_end_matches('/')),
            Server::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bind {
    /// `host:port`.
    Tcp(String),
    /// A unix socket to create.
    Unix(PathBuf),
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bind::Tcp(address) => f.write_str(address),
            Bind::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Certificate and key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM, chain included.
    pub certificate: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

/// Every question answered. Secrets print as `[REDACTED]`.
#[derive(Clone, Debug)]
pub struct Config {
    /// The homeserver.
    pub server: Server,
    /// Database address as written.
    pub database: String,
    /// Encrypts access tokens.
    pub secret: Option<SecretString>,
    /// What did before.
    pub previous_secret: Option<SecretString>,
    /// Where clients connect; never empty.
    pub binds: Vec<Bind>,
    /// Where operators look.
    pub prom: Option<Bind>,
    /// How much is logged.
    pub log_level: log::LevelFilter,
    /// Whether failed assertions panic.
    pub debug: bool,
    /// Database connections.
    pub max_db_connections: u32,
    /// When an unused one is closed.
    pub db_idle_timeout: Option<Duration>,
    /// Beyond a long poll's own time.
    pub http_timeout: Duration,
    /// For a first sync.
    pub http_initial_timeout: Duration,
    /// How long a device is polled after its client was last here.
    pub idle_poller_hours: u64,
    /// Largest homeserver response, bytes.
    pub max_body: u64,
    /// Additional certificate authority.
    pub ca_file: Option<PathBuf>,
    /// To serve HTTPS.
    pub tls: Option<TlsFiles>,
}

/// Why there is no configuration: an error, or a question like `--help` that has been answered.
#[derive(Debug)]
pub struct Exit {
    /// Exit code of the process.
    pub code: u8,
    /// What to print; to standard output if `code` is 0.
    pub text: String,
}

impl Config {
    /// Reads command line (the program's name first) and environment.
    pub fn from_args(args: impl IntoIterator<Item = OsString>) -> Result<Config, Exit> {
        let matches = Raw::command()
            .try_get_matches_from(args.into_iter().map(two_dashes))
            .map_err(|error| Exit {
                code: u8::from(error.use_stderr()),
                text: if error.use_stderr() {
                    format!("{error}\n{}", help())
                } else {
                    error.to_string()
                },
            })?;
        let raw = Raw::from_arg_matches(&matches).map_err(|error| Exit {
            code: 1,
            text: format!("{error}\n{}", help()),
        })?;
        raw.check()
    }
}

fn help() -> String {
    Raw::command().render_help().to_string()
}

/// The first README wrote flags with a single dash; any known long flag may be written so.
fn two_dashes(arg: OsString) -> OsString {
    let Some(text) = arg.to_str() else { return arg };
    let Some(name) = text
        .strip_prefix('-')
        .filter(|name| !name.starts_with('-') && name.len() > 1)
    else {
        return arg;
    };
    let flag = name.split('=').next().unwrap_or(name);
    if Raw::command()
        .get_arguments()
        .any(|known| known.get_long() == Some(flag))
    {
        return OsString::from(format!("--{name}"));
    }
    arg
}

/// Collects problems instead of stopping at the first.
#[derive(Default)]
struct Problems(Vec<String>);

impl Problems {
    fn add(&mut self, setting: &str, what: impl fmt::Display) {
        self.0.push(format!("{setting}: {what}"));
    }

    fn number(&mut self, setting: &str, text: &str, least: u64, most: u64) -> u64 {
        match text.trim().parse::<u64>() {
            Ok(number) if (least..=most).contains(&number) => number,
            _ => {
                self.add(
                    setting,
                    format!("\"{text}\" is not a whole number from {least} to {most}"),
                );
                least
            }
        }
    }
}

impl Raw {
    fn check(self) -> Result<Config, Exit> {
        let mut problems = Problems::default();
        let server = match self.server.as_deref().map(str::trim) {
            None | Some("") => {
                problems.add("SYNCV3_SERVER", "is required: the base URL of the homeserver");
                None
            }
            Some(text) => server(text).map_err(|what| problems.add("SYNCV3_SERVER", what)).ok(),
        };
        let secret = self.secret.filter(|secret| !secret.is_empty()).map(SecretString::from);
        match database(&self.db) {
            Ok(Dialect::Postgres) if secret.is_none() => {
                problems.add(
                    "SYNCV3_SECRET",
                    "is required with Postgres, for example from `openssl rand -hex 32`",
                );
            }
            Ok(_) => {}
            Err(what) => problems.add("SYNCV3_DB", what),
        }
        let mut binds = Vec::new();
        for text in self.bindaddr.split(',').map(str::trim).filter(|text| !text.is_empty()) {
            match bind(text, "127.0.0.1") {
                Ok(bind) => binds.push(bind),
                Err(what) => problems.add("SYNCV3_BINDADDR", what),
            }
        }
        if binds.is_empty() && problems.0.iter().all(|problem| !problem.starts_with("SYNCV3_BINDADDR")) {
            problems.add("SYNCV3_BINDADDR", "names no address");
        }
        let prom = match self.prom.as_deref().map(str::trim).filter(|text| !text.is_empty()) {
            Some(text) => bind(text, "127.0.0.1")
                .map_err(|what| problems.add("SYNCV3_PROM", what))
                .ok(),
            None => None,
        };
        let log_level = match self.log_level.trim().to_ascii_lowercase().as_str() {
            "error" => log::LevelFilter::Error,
            "warn" | "warning" => log::LevelFilter::Warn,
            "info" => log::LevelFilter::Info,
            "debug" => log::LevelFilter::Debug,
            "trace" => log::LevelFilter::Trace,
            other => {
                problems.add(
                    "SYNCV3_LOG_LEVEL",
                    format!("\"{other}\" is none of error, warn, info, debug, trace"),
                );
                log::LevelFilter::Info
            }
        };
        let debug = match self.debug.trim().to_ascii_lowercase().as_str() {
            "1" | "true" | "yes" | "on" => true,
            "" | "0" | "false" | "no" | "off" => false,
            other => {
                problems.add("SYNCV3_DEBUG", format!("\"{other}\" is neither 1 nor 0"));
                false
            }
        };
        let max_db_connections = problems.number("SYNCV3_MAX_DB_CONN", &self.max_db_conn, 2, 1000);
        let idle = problems.number("SYNCV3_DB_IDLE_TIMEOUT_SECS", &self.db_idle_timeout_secs, 0, 31_536_000);
        let http_timeout = problems.number("SYNCV3_HTTP_TIMEOUT_SECS", &self.http_timeout_secs, 1, 86_400);
        let initial = problems.number(
            "SYNCV3_HTTP_INITIAL_TIMEOUT_SECS",
            &self.http_initial_timeout_secs,
            1,
            86_400,
        );
        let idle_poller_hours = problems.number("SYNCV3_IDLE_POLLER_HOURS", &self.idle_poller_hours, 0, 87_600);
        let max_body_mb = problems.number("SYNCV3_MAX_BODY_MB", &self.max_body_mb, 1, 65_536);
        let ca_file = readable("SYNCV3_CA_FILE", self.ca_file, &mut problems);
        let tls = match (self.tls_cert, self.tls_key) {
            (None, None) => None,
            (Some(_), None) => {
                problems.add("SYNCV3_TLS_KEY", "is required together with SYNCV3_TLS_CERT");
                None
            }
            (None, Some(_)) => {
                problems.add("SYNCV3_TLS_CERT", "is required together with SYNCV3_TLS_KEY");
                None
            }
            (certificate, key) => {
                let certificate = readable("SYNCV3_TLS_CERT", certificate, &mut problems);
                let key = readable("SYNCV3_TLS_KEY", key, &mut problems);
                certificate
                    .zip(key)
                    .map(|(certificate, key)| TlsFiles { certificate, key })
            }
        };
        let (Some(server), true) = (server, problems.0.is_empty()) else {
            return Err(Exit {
                code: 1,
                text: format!("{}\n\n{}", problems.0.join("\n"), help()),
            });
        };
        Ok(Config {
            server,
            database: self.db,
            secret,
            previous_secret: self
                .previous_secret
                .filter(|secret| !secret.is_empty())
                .map(SecretString::from),
            binds,
            prom,
            log_level,
            debug,
            max_db_connections: u32::try_from(max_db_connections).unwrap_or(1000),
            db_idle_timeout: (idle > 0).then(|| Duration::from_secs(idle)),
            http_timeout: Duration::from_secs(http_timeout),
            http_initial_timeout: Duration::from_secs(initial),
            idle_poller_hours,
            max_body: max_body_mb * 1024 * 1024,
            ca_file,
            tls,
        })
    }
}

fn server(text: &str) -> Result<Server, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return Ok(Server::Unix(PathBuf::from(path)));
    }
    if text.starts_with('/') {
        return Ok(Server::Unix(PathBuf::from(text)));
    }
    match Url::parse(text) {
        Ok(url) if !matches!(url.scheme(), "http" | "https") => {
            Err(format!("\"{text}\" is neither http:// nor https:// nor a socket path"))
        }
        Ok(url) if url.host_str().is_none() => Err(format!("\"{text}\" names no host")),
        Ok(url) if url.query().is_some() || url.fragment().is_some() => {
            Err(format!("\"{text}\" has more than a base URL"))
        }
        Ok(url) => Ok(Server::Url(url)),
        Err(error) => Err(format!("\"{text}\" is no URL: {error}")),
    }
}

enum Dialect {
    Sqlite,
    Postgres,
}

/// Judges the form only; the store opens it.
fn database(text: &str) -> Result<Dialect, String> {
    if text.is_empty() {
        return Err("is empty".to_owned());
    }
    if let Some((scheme, _)) = text.split_once("://") {
        return match scheme {
            "sqlite" => Ok(Dialect::Sqlite),
            "postgres" | "postgresql" => Ok(Dialect::Postgres),
            // Not repeated: the rest may hold a password.
            _ => Err(format!("scheme \"{scheme}\" is none of sqlite, postgres")),
        };
    }
    Ok(if text.contains('=') && !text.starts_with(['/', '.']) {
        Dialect::Postgres
    } else {
        Dialect::Sqlite
    })
}

fn bind(text: &str, host: &str) -> Result<Bind, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return Ok(Bind::Unix(PathBuf::from(path)));
    }
    if text.starts_with('/') {
        return Ok(Bind::Unix(PathBuf::from(text)));
    }
    let address = match text.strip_prefix(':') {
        Some(port) => format!("{host}:{port}"),
        None if text.parse::<u16>().is_ok() => format!("{host}:{text}"),
        None => text.to_owned(),
    };
    match address.rsplit_once(':') {
        Some((name, port)) if !name.is_empty() && port.parse::<u16>().is_ok() => Ok(Bind::Tcp(address)),
        _ => Err(format!("\"{text}\" is neither host:port nor a socket path")),
    }
}

fn readable(setting: &str, path: Option<String>, problems: &mut Problems) -> Option<PathBuf> {
    let path = PathBuf::from(path.filter(|path| !path.is_empty())?);
    match std::fs::File::open(&path) {
        Ok(_) => Some(path),
        Err(error) => {
            problems.add(setting, format!("{} cannot be read: {error}", path.display()));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(args: &[&str]) -> Result<Config, Exit> {
        let args = std::iter::once("syncv3").chain(args.iter().copied());
        Config::from_args(args.map(OsString::from))
    }

    #[test]
    fn one_setting_is_enough() {
        let config = config(&["--server", "https://hs.example/"]).unwrap();
        assert_eq!(config.server.to_string(), "https://hs.example");
        assert_eq!(config.database, "./syncv3.db");
        assert_eq!(config.binds, [Bind::Tcp("127.0.0.1:8008".to_owned())]);
        assert!(config.prom.is_none() && config.secret.is_none() && !config.debug);
    }

    #[test]
    fn all_problems_come_together_with_the_help() {
        let exit = config(&[
            "--server",
            "ftp://x",
            "--db",
            "mysql://u:pw@h/d",
            "--log-level",
            "loud",
            "--tls-cert",
            "/c",
        ])
        .unwrap_err();
        assert_eq!(exit.code, 1);
        for part in [
            "SYNCV3_SERVER",
            "SYNCV3_DB",
            "SYNCV3_LOG_LEVEL",
            "SYNCV3_TLS_KEY",
            "Usage",
        ] {
            assert!(exit.text.contains(part), "{part} is missing in {}", exit.text);
        }
        assert!(!exit.text.contains("pw@"));
    }

    #[test]
    fn flags_with_one_dash_are_accepted() {
        let config = config(&["-server", "http://h", "-db=user=x dbname=y", "-secret", "s"]).unwrap();
        assert_eq!(config.database, "user=x dbname=y");
    }

    #[test]
    fn postgres_needs_a_secret_and_none_is_ever_shown() {
        let exit = config(&["--server", "http://h", "--db", "postgres://h/d"]).unwrap_err();
        assert!(exit.text.contains("SYNCV3_SECRET"));
        let config = config(&["--server", "http://h", "--db", "postgres://h/d", "--secret", "hush"]).unwrap();
        assert!(!format!("{config:?}").contains("hush"));
    }

    #[test]
    fn addresses_may_be_sockets_ports_and_several() {
        let config = config(&[
            "--server",
            "/run/hs.sock",
            "--bindaddr",
            "0.0.0.0:80,/run/s.sock",
            "--prom",
            ":2112",
        ]);
        let config = config.unwrap();
        assert_eq!(config.server, Server::Unix("/run/hs.sock".into()));
        assert_eq!(
            config.binds,
            [Bind::Tcp("0.0.0.0:80".to_owned()), Bind::Unix("/run/s.sock".into())]
        );
        assert_eq!(config.prom, Some(Bind::Tcp("127.0.0.1:2112".to_owned())));
    }

    #[test]
    fn help_and_version_are_no_errors() {
        assert_eq!(config(&["--help"]).unwrap_err().code, 0);
        let exit = config(&["--version"]).unwrap_err();
        assert_eq!(
            (exit.code, exit.text.trim()),
            (0, concat!("syncv3 ", env!("CARGO_PKG_VERSION")))
        );
        assert_eq!(config(&["--nonsense"]).unwrap_err().code, 1);
    }
}
