//! Counters of the whole process, by kind of thing and never by user or room.

use std::sync::OnceLock;

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

/// Every metric of the process.
pub struct Metrics {
    registry: Registry,
    /// Actors alive, by kind.
    pub actor_alive: IntGaugeVec,
    /// Messages sent and not yet begun, by kind of actor.
    pub actor_mailbox_depth: IntGaugeVec,
    /// Messages handled and the seconds each took, by kind of actor and message.
    pub actor_handle_seconds: HistogramVec,
    /// Actors ended, by kind and cause.
    pub actor_ended_total: IntCounterVec,
    /// Actors started anew after an end that was not wanted, by kind and cause.
    pub actor_restarts_total: IntCounterVec,
    /// Messages that found a full mailbox, by kind of actor.
    pub actor_lagged_total: IntCounterVec,
    /// Seconds of one commit, waiting excluded.
    pub store_commit_seconds: Histogram,
    /// Pieces of work in one commit.
    pub store_commit_jobs: Histogram,
    /// Events newly stored.
    pub store_events_total: IntCounter,
    /// Seconds until the homeserver's answer was complete, by status (or kind of failure).
    pub upstream_seconds: HistogramVec,
    /// Parts of homeserver responses that could not be used, by kind.
    pub upstream_skipped_total: IntCounterVec,
    /// Seconds a request waited for news, by protocol.
    pub sync_wait_seconds: HistogramVec,
    /// Seconds to answer once there was something to say, by protocol.
    pub sync_answer_seconds: HistogramVec,
    /// Requests answered, by protocol and status.
    pub sync_requests_total: IntCounterVec,
    /// Internal assertions that did not hold.
    pub assertions_failed_total: IntCounter,
    /// Devices whose poller is paused for want of a token.
    pub pollers_paused: IntGauge,
}

/// From half a millisecond to a minute.
const SECONDS: [f64; 15] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0,
];
/// For what should take microseconds.
const MICRO: [f64; 10] = [0.00001, 0.00005, 0.0001, 0.0005, 0.001, 0.005, 0.025, 0.1, 0.5, 2.5];

impl Metrics {
    fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let gauges = |name: &str, help: &str, labels: &[&str]| -> prometheus::Result<IntGaugeVec> {
            let made = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(made.clone()))?;
            Ok(made)
        };
        let counters = |name: &str, help: &str, labels: &[&str]| -> prometheus::Result<IntCounterVec> {
            let made = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(made.clone()))?;
            Ok(made)
        };
        let histograms =
            |name: &str, help: &str, labels: &[&str], buckets: &[f64]| -> prometheus::Result<HistogramVec> {
                let made = HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels)?;
                registry.register(Box::new(made.clone()))?;
                Ok(made)
            };
        let histogram = |name: &str, help: &str, buckets: &[f64]| -> prometheus::Result<Histogram> {
            let made = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?;
            registry.register(Box::new(made.clone()))?;
            Ok(made)
        };
        let counter = |name: &str, help: &str| -> prometheus::Result<IntCounter> {
            let made = IntCounter::new(name, help)?;
            registry.register(Box::new(made.clone()))?;
            Ok(made)
        };
        let gauge = |name: &str, help: &str| -> prometheus::Result<IntGauge> {
            let made = IntGauge::new(name, help)?;
            registry.register(Box::new(made.clone()))?;
            Ok(made)
        };
        Ok(Self {
            actor_alive: gauges("actor_alive", "Actors alive", &["actor"])?,
            actor_mailbox_depth: gauges("actor_mailbox_depth", "Messages sent and not yet begun", &["actor"])?,
            actor_handle_seconds: histograms(
                "actor_handle_seconds",
                "Messages handled and the time each took",
                &["actor", "message"],
                &MICRO,
            )?,
            actor_ended_total: counters("actor_ended_total", "Actors ended, by cause", &["actor", "exit"])?,
            actor_restarts_total: counters("actor_restarts_total", "Actors started anew", &["actor", "exit"])?,
            actor_lagged_total: counters("actor_lagged_total", "Messages that found a full mailbox", &["actor"])?,
            store_commit_seconds: histogram("store_commit_seconds", "Time of one commit", &SECONDS)?,
            store_commit_jobs: histogram(
                "store_commit_jobs",
                "Pieces of work in one commit",
                &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0],
            )?,
            store_events_total: counter("store_events_total", "Events newly stored")?,
            upstream_seconds: histograms("upstream_seconds", "Time of homeserver requests", &["status"], &SECONDS)?,
            upstream_skipped_total: counters(
                "upstream_skipped_total",
                "Parts of homeserver responses that could not be used",
                &["what"],
            )?,
            sync_wait_seconds: histograms(
                "sync_wait_seconds",
                "Time spent waiting for news",
                &["protocol"],
                &SECONDS,
            )?,
            sync_answer_seconds: histograms(
                "sync_answer_seconds",
                "Time to build an answer",
                &["protocol"],
                &SECONDS,
            )?,
            sync_requests_total: counters("sync_requests_total", "Sync requests answered", &["protocol", "status"])?,
            assertions_failed_total: counter("assertions_failed_total", "Internal assertions that did not hold")?,
            pollers_paused: gauge("pollers_paused", "Pollers waiting for a new token")?,
            registry,
        })
    }

    /// Writes everything in the Prometheus text format.
    pub fn render(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut out) {
            log::error!(cause:% = error; "metrics could not be written");
        }
        out
    }
}

/// Returns the metrics of this process.
pub fn metrics() -> &'static Metrics {
    static METRICS: OnceLock<Metrics> = OnceLock::new();
    METRICS.get_or_init(|| Metrics::new().expect("metric names are distinct and well-formed"))
}
