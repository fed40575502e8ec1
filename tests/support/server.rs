//! The program itself, started as an operator would and stopped as a crash would.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::database::Database;

pub struct Server {
    child: Option<Child>,
    command: Box<dyn Fn() -> Command>,
    pub base: String,
    pub admin: String,
}

pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

impl Server {
    /// Starts the program against a homeserver and waits until it answers.
    pub async fn start(database: &Database, homeserver: &str) -> Self {
        Self::start_with(database, homeserver, &[]).await
    }

    pub async fn start_with(database: &Database, homeserver: &str, settings: &[(&str, &str)]) -> Self {
        let (port, admin_port) = (free_port(), free_port());
        let url = database.url();
        let homeserver = homeserver.to_owned();
        let settings: Vec<(String, String)> = settings
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        let command = move || {
            let mut command = Command::new(env!("CARGO_BIN_EXE_syncv3"));
            command
                .env("SYNCV3_SERVER", &homeserver)
                .env("SYNCV3_DB", &url)
                .env("SYNCV3_SECRET", "a secret for tests")
                .env("SYNCV3_BINDADDR", format!("127.0.0.1:{port}"))
                .env("SYNCV3_PROM", format!("127.0.0.1:{admin_port}"))
                .env("SYNCV3_DEBUG", "1")
                .env(
                    "SYNCV3_LOG_LEVEL",
                    std::env::var_os("TEST_LOG_LEVEL").unwrap_or_else(|| "warn".into()),
                )
                .stdin(Stdio::null());
            for (key, value) in &settings {
                command.env(key, value);
            }
            command
        };
        let mut server = Server {
            child: None,
            command: Box::new(command),
            base: format!("http://127.0.0.1:{port}"),
            admin: format!("http://127.0.0.1:{admin_port}"),
        };
        server.launch().await;
        server
    }

    /// Starts the program (again) and returns how long it took until it answered.
    pub async fn launch(&mut self) -> Duration {
        assert!(self.child.is_none(), "the server is running already");
        let began = Instant::now();
        self.child = Some((self.command)().spawn().unwrap());
        let client = awc::Client::default();
        loop {
            let ready = client.get(format!("{}/ready", self.admin)).send().await;
            if ready.is_ok_and(|response| response.status().is_success()) {
                return began.elapsed();
            }
            if let Some(status) = self.child.as_mut().unwrap().try_wait().unwrap() {
                panic!("the server ended at once: {status}");
            }
            assert!(
                began.elapsed() < Duration::from_secs(30),
                "the server does not become ready"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Asks the program to stop and returns how long that took.
    pub fn stop(&mut self) -> Duration {
        let began = Instant::now();
        let mut child = self.child.take().unwrap();
        let pid = child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        assert!(child.wait().unwrap().success());
        began.elapsed()
    }

    /// The program's process ID.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Runs the program with the same settings and returns what it printed, for starts that are to fail.
    pub fn try_second(&self, change: impl FnOnce(&mut Command)) -> (Option<i32>, String) {
        let mut command = (self.command)();
        command
            .env_remove("SYNCV3_PROM")
            .env("SYNCV3_BINDADDR", format!("127.0.0.1:{}", free_port()));
        change(&mut command);
        let output = command.output().unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
