//! From access token to device. The homeserver is asked once per token; strangers' tokens are remembered for a moment,
//! so that nobody can make us flood it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use actix_web::HttpRequest;
use actix_web::http::header::AUTHORIZATION;
use secrecy::SecretString;
use sha2::{Digest, Sha256};

use crate::actors::poller::messages::TokenProblem;
use crate::clock::{Clock, Moment};
use crate::ids::DeviceKey;
use crate::store::Store;
use crate::upstream::client::Homeserver;
use crate::web::error::MatrixError;

/// A refused token is not asked about again for this long.
const REFUSED_FOR_MS: i64 = 30_000;
/// A token of a device that has a newer one is believed for this long after the homeserver vouched for it.
const SUPERSEDED_FOR_MS: i64 = 45_000;
/// Entries kept; beyond it the oldest are dropped and cost one look-up each.
const MAX_ENTRIES: usize = 20_000;

type Fingerprint = [u8; 32];

#[derive(Clone)]
enum Known {
    /// The device's current token.
    Current(DeviceKey),
    /// A token that works, of a device that uses a newer one (two processes of one client).
    Superseded(DeviceKey, Moment),
    /// The homeserver said no.
    Refused(TokenProblem, Moment),
}

/// What this process knows of tokens. Never holds a token itself. Cheap to clone.
#[derive(Clone)]
pub struct Tokens {
    known: Arc<Mutex<HashMap<Fingerprint, Known, foldhash::fast::RandomState>>>,
    clock: Arc<dyn Clock>,
}

fn fingerprint(token: &str) -> Fingerprint {
    Sha256::digest(token.as_bytes()).into()
}

impl Tokens {
    /// Returns an empty memory.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            known: Arc::default(),
            clock,
        }
    }

    fn with<R>(&self, work: impl FnOnce(&mut HashMap<Fingerprint, Known, foldhash::fast::RandomState>) -> R) -> R {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() > MAX_ENTRIES {
            known.retain(|_, entry| matches!(entry, Known::Current(_)));
            if known.len() > MAX_ENTRIES {
                known.clear();
            }
        }
        work(&mut known)
    }

    fn find(&self, token: &str) -> Option<Known> {
        let now = self.clock.moment();
        let found = self.with(|known| known.get(&fingerprint(token)).cloned())?;
        match &found {
            Known::Current(_) => Some(found),
            Known::Superseded(_, since) => (now.0 - since.0 < SUPERSEDED_FOR_MS).then_some(found),
            Known::Refused(_, since) => (now.0 - since.0 < REFUSED_FOR_MS).then_some(found),
        }
    }

    /// Returns whether the token was once the device's current one and no longer is.
    fn was_superseded(&self, token: &str) -> bool {
        self.with(|known| matches!(known.get(&fingerprint(token)), Some(Known::Superseded(..))))
    }

    /// The homeserver refused the token.
    pub fn refuse(&self, token: &str, problem: TokenProblem) {
        let now = self.clock.moment();
        self.with(|known| known.insert(fingerprint(token), Known::Refused(problem, now)));
    }

    /// The token is the device's current one from now on; an older one is superseded.
    fn accept(&self, token: &str, device: &DeviceKey) {
        let now = self.clock.moment();
        let own = fingerprint(token);
        self.with(|known| {
            for (other, entry) in known.iter_mut() {
                if *other != own && matches!(entry, Known::Current(owner) if owner == device) {
                    // Not vouched for any more: the next request with it asks the homeserver.
                    *entry = Known::Superseded(device.clone(), Moment(now.0 - SUPERSEDED_FOR_MS));
                }
            }
            known.insert(own, Known::Current(device.clone()));
        });
    }

    fn confirm_superseded(&self, token: &str, device: &DeviceKey) {
        let now = self.clock.moment();
        self.with(|known| known.insert(fingerprint(token), Known::Superseded(device.clone(), now)));
    }
}

/// Whose request this is.
pub struct Caller {
    /// The device.
    pub device: DeviceKey,
    /// Its token.
    pub token: SecretString,
    /// Whether the poller should use this token; false for an older one that still works.
    pub current: bool,
}

/// Returns the bearer token of a request. The query form is not read: it leaks into logs.
pub fn bearer(request: &HttpRequest) -> Result<String, MatrixError> {
    let header = request.headers().get(AUTHORIZATION).ok_or(MatrixError::MissingToken)?;
    let text = header.to_str().map_err(|_| MatrixError::MissingToken)?;
    let (scheme, token) = text.split_once(' ').ok_or(MatrixError::MissingToken)?;
    let token = token.trim();
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
        return Err(MatrixError::MissingToken);
    }
    Ok(token.to_owned())
}

/// Finds out whose token it is: from memory, from the store, or from the homeserver.
pub async fn resolve(
    token: String,
    tokens: &Tokens,
    store: &Store,
    homeserver: &Homeserver,
) -> Result<Caller, MatrixError> {
    let caller = |device, current, token: String| Caller {
        device,
        token: SecretString::from(token),
        current,
    };
    match tokens.find(&token) {
        Some(Known::Current(device)) => return Ok(caller(device, true, token)),
        Some(Known::Superseded(device, _)) => return Ok(caller(device, false, token)),
        Some(Known::Refused(problem, _)) => return Err(MatrixError::Token(problem)),
        None => {}
    }
    let superseded = tokens.was_superseded(&token);
    if !superseded && let Some(device) = store.token_owner(&token).await.map_err(MatrixError::internal)? {
        tokens.accept(&token, &device);
        return Ok(caller(device, true, token));
    }
    let device = match homeserver.whoami(&token).await {
        Ok(device) => device,
        Err(error) => {
            let error = MatrixError::from_upstream(&error);
            if let MatrixError::Token(problem) = &error
                && problem.status == 401
            {
                tokens.refuse(&token, problem.clone());
            }
            return Err(error);
        }
    };
    if superseded {
        tokens.confirm_superseded(&token, &device);
        return Ok(caller(device, false, token));
    }
    let secret = SecretString::from(token.clone());
    store
        .remember_token(&secret, &device)
        .await
        .map_err(MatrixError::internal)?;
    tokens.accept(&token, &device);
    Ok(caller(device, true, token))
}
