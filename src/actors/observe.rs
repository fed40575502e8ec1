//! Asking actors what they are doing. The listing never waits long: who does not answer in time is shown as slow, with
//! the state last heard.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix::dev::ToEnvelope;
use actix::{Addr, Handler, Message, WeakRecipient};
use serde::Serialize;
use serde_json::Value;

use crate::actors::exit::Exit;
use crate::actors::mail::Kind;
use crate::actors::metrics::metrics;

/// How long the listing waits for one actor.
const PATIENCE: Duration = Duration::from_millis(500);

/// Asks an actor for its state.
#[derive(Debug, Message)]
#[rtype(result = "Value")]
pub struct Observe;

/// Which actors there are, by weak address.
#[derive(Clone, Default)]
pub struct Observatory {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    next: u64,
    actors: BTreeMap<u64, Seen>,
}

struct Seen {
    kind: &'static str,
    recipient: WeakRecipient<Observe>,
    last: Value,
}

/// Proof of being listed; to be given back when the actor stops.
#[derive(Debug)]
pub struct Listing {
    id: u64,
    kind: &'static str,
}

/// One row of the listing.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Kind of actor.
    pub actor: &'static str,
    /// `alive`, `slow` (then `state` is the last one heard) or `gone`.
    pub health: &'static str,
    /// What it says of itself.
    pub state: Value,
}

impl Observatory {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists a starting actor and counts it as alive.
    pub fn enlist<A>(&self, addr: Addr<A>) -> Listing
    where
        A: Kind + Handler<Observe>,
        A::Context: ToEnvelope<A, Observe>,
    {
        metrics().actor_alive.with_label_values(&[A::NAME]).inc();
        let mut inner = self.lock();
        let id = inner.next;
        inner.next += 1;
        inner.actors.insert(
            id,
            Seen {
                kind: A::NAME,
                recipient: addr.recipient::<Observe>().downgrade(),
                last: Value::Null,
            },
        );
        Listing { id, kind: A::NAME }
    }

    /// Takes a stopped actor off the list and counts its end; `None` is a panic.
    pub fn dismiss(&self, listing: &Listing, exit: Option<&Exit>) {
        metrics().actor_alive.with_label_values(&[listing.kind]).dec();
        metrics()
            .actor_ended_total
            .with_label_values(&[listing.kind, Exit::label(exit)])
            .inc();
        self.lock().actors.remove(&listing.id);
    }

    /// Asks every actor at once and gathers what they say.
    pub async fn survey(&self) -> Vec<Row> {
        let asked: Vec<_> = self
            .lock()
            .actors
            .iter()
            .map(|(id, seen)| (*id, seen.kind, seen.recipient.upgrade(), seen.last.clone()))
            .collect();
        let rows = asked.into_iter().map(|(id, kind, recipient, last)| async move {
            let Some(recipient) = recipient else {
                return (id, kind, "gone", last);
            };
            match tokio::time::timeout(PATIENCE, recipient.send(Observe)).await {
                Ok(Ok(state)) => (id, kind, "alive", state),
                Ok(Err(_)) => (id, kind, "gone", last),
                Err(_) => (id, kind, "slow", last),
            }
        });
        let rows = futures_util::future::join_all(rows).await;
        let mut inner = self.lock();
        rows.into_iter()
            .map(|(id, kind, health, state)| {
                if let Some(seen) = inner.actors.get_mut(&id) {
                    seen.last = state.clone();
                }
                Row {
                    actor: kind,
                    health,
                    state,
                }
            })
            .collect()
    }

    /// Returns how many actors of a kind there are.
    pub fn count(&self, kind: &str) -> usize {
        self.lock().actors.values().filter(|seen| seen.kind == kind).count()
    }
}

/// Turns an actor's state into the listing's form.
pub fn state_value<S: Serialize>(state: &S) -> Value {
    serde_json::to_value(state).unwrap_or_default()
}

/// Names users in listings: their IDs only where the operator asked for them, else a short fingerprint.
#[derive(Clone, Copy, Debug)]
pub struct Naming {
    /// Whether real IDs may be shown.
    pub reveal: bool,
}

impl Naming {
    /// Returns the name to show for an ID.
    pub fn of(self, id: &str) -> String {
        if self.reveal {
            return id.to_owned();
        }
        use sha2::Digest;
        let digest = sha2::Sha256::digest(id.as_bytes());
        digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
    }
}
