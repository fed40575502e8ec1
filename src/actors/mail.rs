//! The only ways to send: [`ask`] waits for a reply, [`offer`] never waits, [`tell`] is for senders proven to be bounded.
//! Every message travels in a [`Mail`] that counts itself in the receiver's mailbox.

use std::time::{Duration, Instant};

use actix::dev::ToEnvelope;
use actix::{Actor, Addr, Handler, Message, Recipient};
use prometheus::{Histogram, IntGauge};

use crate::actors::metrics::metrics;

/// What kind of actor this is, for metrics and listings.
pub trait Kind: Actor {
    /// One word, lower case.
    const NAME: &'static str;
}

/// A message under way.
pub struct Mail<M> {
    message: M,
    queued: Queued,
}

impl<M: Message> Message for Mail<M> {
    type Result = M::Result;
}

struct Queued(IntGauge);

impl Drop for Queued {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Times the handling of one message, also when it panics.
pub struct Running {
    seconds: Histogram,
    since: Instant,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.seconds.observe(self.since.elapsed().as_secs_f64());
    }
}

impl<M> Mail<M> {
    fn new<A: Kind>(message: M) -> Self {
        Self::of_kind(message, A::NAME)
    }

    fn of_kind(message: M, kind: &'static str) -> Self {
        let depth = metrics().actor_mailbox_depth.with_label_values(&[kind]);
        depth.inc();
        Self {
            message,
            queued: Queued(depth),
        }
    }

    /// Takes the message out at the start of its handler; keep the second value until the handler ends.
    pub fn open<A: Kind>(self) -> (M, Running) {
        drop(self.queued);
        let running = Running {
            seconds: metrics()
                .actor_handle_seconds
                .with_label_values(&[A::NAME, short_name::<M>()]),
            since: Instant::now(),
        };
        (self.message, running)
    }
}

fn short_name<M>() -> &'static str {
    let full = std::any::type_name::<M>();
    let full = full.split('<').next().unwrap_or(full);
    full.rsplit("::").next().unwrap_or(full)
}

/// How a request to an actor fails.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The actor is gone, or died while it worked on this.
    #[error("actor is gone")]
    Closed,
    /// No reply in time. The actor may still be working on it.
    #[error("actor did not reply in time")]
    TimedOut,
}

/// Sends and waits for the reply, at most `timeout`, room in the mailbox included.
pub async fn ask<A, M>(to: &Addr<A>, message: M, timeout: Duration) -> Result<M::Result, AskError>
where
    A: Kind + Handler<Mail<M>>,
    A::Context: ToEnvelope<A, Mail<M>>,
    M: Message + Send + 'static,
    M::Result: Send,
{
    match tokio::time::timeout(timeout, to.send(Mail::new::<A>(message))).await {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(_)) => Err(AskError::Closed),
        Err(_) => Err(AskError::TimedOut),
    }
}

/// What became of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    /// It is in the mailbox.
    Taken,
    /// The mailbox is full: the receiver lags.
    Full,
    /// The receiver is gone.
    Closed,
}

/// Sends if there is room and never waits.
pub fn offer<A, M>(to: &Addr<A>, message: M) -> Offered
where
    A: Kind + Handler<Mail<M>>,
    A::Context: ToEnvelope<A, Mail<M>>,
    M: Message + Send + 'static,
    M::Result: Send,
{
    match to.try_send(Mail::new::<A>(message)) {
        Ok(()) => Offered::Taken,
        Err(actix::dev::SendError::Full(_)) => {
            metrics().actor_lagged_total.with_label_values(&[A::NAME]).inc();
            Offered::Full
        }
        Err(actix::dev::SendError::Closed(_)) => Offered::Closed,
    }
}

/// Like [`offer`], to a receiver whose type is not known here but whose kind is.
pub fn offer_to<M>(to: &Recipient<Mail<M>>, kind: &'static str, message: M) -> Offered
where
    M: Message + Send + 'static,
    M::Result: Send,
{
    match to.try_send(Mail::of_kind(message, kind)) {
        Ok(()) => Offered::Taken,
        Err(actix::dev::SendError::Full(_)) => {
            metrics().actor_lagged_total.with_label_values(&[kind]).inc();
            Offered::Full
        }
        Err(actix::dev::SendError::Closed(_)) => Offered::Closed,
    }
}

/// Like [`tell`], to a receiver whose type is not known here but whose kind is.
#[expect(
    clippy::disallowed_methods,
    reason = "the other place where an unbounded send is allowed"
)]
pub fn tell_to<M>(to: &Recipient<Mail<M>>, kind: &'static str, message: M)
where
    M: Message + Send + 'static,
    M::Result: Send,
{
    to.do_send(Mail::of_kind(message, kind));
}

/// Sends without regard to the mailbox's size. The caller proves in a comment that it cannot send without bound.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place where an unbounded send is allowed"
)]
pub fn tell<A, M>(to: &Addr<A>, message: M)
where
    A: Kind + Handler<Mail<M>>,
    A::Context: ToEnvelope<A, Mail<M>>,
    M: Message + Send + 'static,
    M::Result: Send,
{
    to.do_send(Mail::new::<A>(message));
}
