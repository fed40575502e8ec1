//! What the actor framework does, so that an upgrade that changes it is noticed here and not in production.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use actix::prelude::*;

struct Victim {
    stopped_while_panicking: Arc<AtomicUsize>,
}

impl Actor for Victim {
    type Context = Context<Self>;

    fn stopped(&mut self, _: &mut Self::Context) {
        if std::thread::panicking() {
            self.stopped_while_panicking.fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[derive(Message)]
#[rtype(result = "()")]
enum Do {
    Nothing,
    Panic,
    PanicInSpawned,
}

impl Handler<Do> for Victim {
    type Result = ();

    fn handle(&mut self, what: Do, ctx: &mut Self::Context) {
        match what {
            Do::Nothing => {}
            Do::Panic => panic!("on purpose"),
            Do::PanicInSpawned => {
                ctx.spawn(async { panic!("on purpose") }.into_actor(self));
            }
        }
    }
}

fn victim() -> (Addr<Victim>, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let stopped_while_panicking = Arc::clone(&count);
    let arbiter = Arbiter::new();
    let addr = Victim::start_in_arbiter(&arbiter.handle(), move |_| Victim {
        stopped_while_panicking,
    });
    (addr, count)
}

#[actix_rt::test]
async fn a_panic_in_a_handler_ends_the_actor_and_stopped_runs() {
    let (addr, count) = victim();
    assert!(addr.send(Do::Panic).await.is_err());
    assert!(addr.send(Do::Nothing).await.is_err(), "the address is dead");
    assert_eq!(count.load(Ordering::SeqCst), 1);
    assert!(!addr.connected());
}

#[actix_rt::test]
async fn a_panic_in_a_future_spawned_on_the_context_ends_the_actor_too() {
    let (addr, count) = victim();
    let _ = addr.send(Do::PanicInSpawned).await;
    while addr.connected() {
        tokio::task::yield_now().await;
    }
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

struct Slow;

impl Actor for Slow {
    type Context = Context<Self>;
}

impl Handler<Do> for Slow {
    type Result = ();

    fn handle(&mut self, _: Do, _: &mut Self::Context) {}
}

#[actix_rt::test]
#[expect(clippy::disallowed_methods, reason = "shows why it is disallowed")]
async fn do_send_ignores_the_mailbox_and_try_send_does_not() {
    let addr = Slow.start();
    let taken = (0..100).filter(|_| addr.try_send(Do::Nothing).is_ok()).count();
    assert_eq!(taken, 16, "the default mailbox holds 16");
    for _ in 0..1000 {
        addr.do_send(Do::Nothing);
    }
    assert!(addr.send(Do::Nothing).await.is_ok());
}
