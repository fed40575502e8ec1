//! The few threads that read.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::mpsc;

use super::connection::{Connection, Connections};
use super::error::Error;

/// One read, which answers by itself.
pub(super) type Read = Box<dyn FnOnce(&Connections) + Send>;

/// Starts `count` threads that read until the sender is gone.
pub(super) fn start(
    connections: &Connections,
    count: u32,
    waiting: mpsc::Receiver<Read>,
) -> Result<Vec<JoinHandle<()>>, Error> {
    let waiting = Arc::new(Mutex::new(waiting));
    let mut threads = Vec::new();
    for index in 0..count {
        let connections = connections.clone();
        let waiting = waiting.clone();
        let thread = std::thread::Builder::new()
            .name(format!("store-reader-{index}"))
            .spawn(move || {
                loop {
                    // One thread waits in the channel, the others for the lock.
                    let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
                    let Some(read) = next else {
                        return;
                    };
                    read(&connections);
                }
            })?;
        threads.push(thread);
    }
    Ok(threads)
}

/// Runs a read on a connection of the pool. One on which something panicked does not go back there.
pub(super) fn guarded<T>(
    connections: &Connections,
    read: impl FnOnce(&mut Connection) -> Result<T, Error>,
) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(|| read(&mut connections.get()?))).unwrap_or(Err(Error::Panicked))
}
