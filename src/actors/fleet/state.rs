//! Restart policy and idleness, as plain functions.

use std::time::Duration;

use crate::actors::exit::Exit;
use crate::clock::{Moment, UnixMillis};

/// A poller that ran this long in good health starts its back-off anew.
const FORGIVEN_AFTER_MS: i64 = 5 * 60 * 1000;
const LONGEST: Duration = Duration::from_secs(60);

/// What to do about a poller that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// Start a fresh one after this long.
    After(Duration),
    /// Leave it; a client's request will start another.
    Never,
}

/// Decides by cause. `restarts` counts those since the last healthy stretch; `jitter` is in 0..1.
pub fn restart(exit: Option<&Exit>, restarts: u32, jitter: f64) -> Restart {
    match exit {
        Some(Exit::LoggedOut | Exit::Idle | Exit::Shutdown) => Restart::Never,
        Some(Exit::Failed(_)) | None => {
            let seconds = 1u64 << restarts.min(6);
            let pause = Duration::from_secs(seconds).min(LONGEST);
            Restart::After(pause.mul_f64(1.0 + 0.25 * jitter.clamp(0.0, 1.0)))
        }
    }
}

/// Returns the number of restarts to count from, given how long the last life was.
pub fn forgive(restarts: u32, started: Moment, ended: Moment) -> u32 {
    if ended.0 - started.0 >= FORGIVEN_AFTER_MS {
        0
    } else {
        restarts
    }
}

/// Returns whether a device's poller may be retired: nobody was here for `idle_hours` (0: as soon as nobody is here,
/// which callers give half an hour of grace).
pub fn is_idle(last_seen: UnixMillis, now: UnixMillis, idle_hours: u64) -> bool {
    let grace_ms = i64::try_from(idle_hours)
        .unwrap_or(i64::MAX / 3_600_000)
        .saturating_mul(3_600_000);
    now - last_seen > grace_ms.max(30 * 60 * 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_failures_and_panics_are_restarted() {
        assert_eq!(restart(Some(&Exit::LoggedOut), 0, 0.0), Restart::Never);
        assert_eq!(restart(Some(&Exit::Idle), 0, 0.0), Restart::Never);
        assert_eq!(restart(None, 0, 0.0), Restart::After(Duration::from_secs(1)));
        assert_eq!(
            restart(Some(&Exit::Failed("x".to_owned())), 3, 0.0),
            Restart::After(Duration::from_secs(8))
        );
    }

    #[test]
    fn the_pause_doubles_up_to_a_minute_and_healthy_minutes_are_forgiven() {
        assert_eq!(restart(None, 40, 0.0), Restart::After(Duration::from_secs(60)));
        assert_eq!(forgive(7, Moment(0), Moment(5 * 60 * 1000)), 0);
        assert_eq!(forgive(7, Moment(0), Moment(1000)), 7);
    }

    #[test]
    fn a_device_is_idle_after_the_configured_hours_and_never_within_half_an_hour() {
        assert!(!is_idle(0, 71 * 3_600_000, 72));
        assert!(is_idle(0, 73 * 3_600_000, 72));
        assert!(!is_idle(0, 29 * 60_000, 0));
        assert!(is_idle(0, 31 * 60_000, 0));
    }
}
