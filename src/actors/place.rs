//! Which arbiter (thread) an actor runs on: the room cache, fleet and registry on one of their own, pollers spread by
//! device, and a user's cache and sessions always together.

use std::hash::{BuildHasher, Hash};

use actix::{Actor, Addr, Arbiter, ArbiterHandle, Context};

use crate::ids::{DeviceKey, UserId};

/// The threads that actors live on.
pub struct Places {
    center: Arbiter,
    pollers: Vec<Arbiter>,
    users: Vec<Arbiter>,
    hasher: foldhash::quality::FixedState,
}

impl Places {
    /// Starts the threads: `width` for pollers and as many for users.
    pub fn new(width: usize) -> Self {
        let width = width.max(1);
        Self {
            center: Arbiter::new(),
            pollers: (0..width).map(|_| Arbiter::new()).collect(),
            users: (0..width).map(|_| Arbiter::new()).collect(),
            hasher: foldhash::quality::FixedState::default(),
        }
    }

    /// Returns handles that can be given to actors.
    pub fn handles(&self) -> Handles {
        Handles {
            center: self.center.handle(),
            pollers: self.pollers.iter().map(Arbiter::handle).collect(),
            users: self.users.iter().map(Arbiter::handle).collect(),
            hasher: self.hasher.clone(),
        }
    }

    /// Stops the threads and waits for them.
    pub fn stop(self) {
        let all = self.users.into_iter().chain(self.pollers).chain([self.center]);
        for arbiter in all {
            arbiter.stop();
            if arbiter.join().is_err() {
                log::error!("an actor thread ended by a panic");
            }
        }
    }
}

/// Cheap handles to the threads of [`Places`].
#[derive(Clone)]
pub struct Handles {
    center: ArbiterHandle,
    pollers: Vec<ArbiterHandle>,
    users: Vec<ArbiterHandle>,
    hasher: foldhash::quality::FixedState,
}

impl Handles {
    fn pick<'a>(&self, among: &'a [ArbiterHandle], key: &impl Hash) -> &'a ArbiterHandle {
        // The remainder of a u64 by a small usize always fits.
        let index = (self.hasher.hash_one(key) % among.len() as u64) as usize;
        &among[index]
    }

    /// Starts one of the few central actors.
    pub fn center<A>(&self, make: impl FnOnce(&mut Context<A>) -> A + Send + 'static) -> Addr<A>
    where
        A: Actor<Context = Context<A>>,
    {
        A::start_in_arbiter(&self.center, make)
    }

    /// Starts a poller. Pollers stay on their thread, because the HTTP client cannot move.
    pub fn poller<A>(&self, device: &DeviceKey, make: impl FnOnce(&mut Context<A>) -> A + Send + 'static) -> Addr<A>
    where
        A: Actor<Context = Context<A>>,
    {
        A::start_in_arbiter(self.pick(&self.pollers, device), make)
    }

    /// Starts a user's cache or session.
    pub fn user<A>(&self, user: &UserId, make: impl FnOnce(&mut Context<A>) -> A + Send + 'static) -> Addr<A>
    where
        A: Actor<Context = Context<A>>,
    {
        A::start_in_arbiter(self.pick(&self.users, user), make)
    }
}
