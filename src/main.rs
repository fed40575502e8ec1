//! Reads the configuration, starts logging, runs the server, and turns the result into an exit code.

use std::io::Write;
use std::process::ExitCode;

use syncv3::app;
use syncv3::config::Config;

fn main() -> ExitCode {
    let config = match Config::from_args(std::env::args_os()) {
        Ok(config) => config,
        Err(exit) => {
            let text = exit.text.trim_end();
            // Nobody is left to tell when even this cannot be written.
            let _ = if exit.code == 0 {
                writeln!(std::io::stdout(), "{text}")
            } else {
                writeln!(std::io::stderr(), "{text}")
            };
            return ExitCode::from(exit.code);
        }
    };
    env_logger::Builder::new()
        .filter_level(log::LevelFilter::Warn)
        .filter_module("syncv3", config.log_level)
        .init();
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        log::warn!("another crypto provider is installed already");
    }
    let result = actix_rt::System::new().block_on(app::run(config, interrupted()));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!(cause:% = error; "server stopped");
            ExitCode::FAILURE
        }
    }
}

/// Resolves when the operator or the system asks the process to stop.
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        _ => {
            log::error!("signals cannot be heard; stop the process by force");
            std::future::pending::<()>().await;
        }
    }
}
