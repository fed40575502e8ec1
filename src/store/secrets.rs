//! Access tokens at rest: sealed with a key derived from the operator's secret, found by a keyed hash.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use chacha20poly1305::aead::{Aead, Generate, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use hkdf::Hkdf;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use super::error::Error;
use crate::ids::DeviceKey;

/// Length of the nonce in front of a sealed token.
const NONCE: usize = 24;

/// Keys derived from one secret, each for one purpose.
#[derive(Clone)]
pub(super) struct Keys {
    sealing: [u8; 32],
    lookup: [u8; 32],
    id: String,
    check: String,
}

impl Keys {
    /// Derives the keys of `secret`.
    pub(super) fn derive(secret: &SecretString) -> Self {
        let derivation = Hkdf::<Sha256>::new(Some(b"syncv3 store"), secret.expose_secret().as_bytes());
        let expand = |label: &str| {
            let mut out = [0; 32];
            derivation
                .expand(label.as_bytes(), &mut out)
                .expect("32 bytes are within what HKDF-SHA256 can expand to");
            out
        };
        Self {
            sealing: expand("token sealing 1"),
            lookup: expand("token lookup 1"),
            id: hex(&expand("key id 1")[..8]),
            check: hex(&expand("check value 1")),
        }
    }

    /// Returns the name under which rows say which secret sealed them.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Returns the value by which a database recognises its secret.
    pub(super) fn check(&self) -> &str {
        &self.check
    }

    /// Returns the key under which a token is found.
    pub(super) fn lookup_hash(&self, token: &str) -> String {
        // The key has a fixed length and comes first, so no two inputs run together; nobody can extend what they cannot
        // see.
        let mut hash = Sha256::new();
        hash.update(self.lookup);
        hash.update(token.as_bytes());
        hex(&hash.finalize())
    }

    /// Seals `token` for `device`; a copy of the result in another device's row does not open.
    pub(super) fn seal(&self, device: &DeviceKey, token: &SecretString) -> Option<Vec<u8>> {
        let nonce = XNonce::generate();
        let payload = Payload {
            msg: token.expose_secret().as_bytes(),
            aad: &associated(device),
        };
        let sealed = self.cipher().encrypt(&nonce, payload).ok()?;
        let mut out = nonce.to_vec();
        out.extend(sealed);
        Some(out)
    }

    /// Opens what [`Keys::seal`] made.
    pub(super) fn open(&self, device: &DeviceKey, sealed: &[u8]) -> Option<SecretString> {
        let nonce = XNonce::try_from(sealed.get(..NONCE)?).ok()?;
        let payload = Payload {
            msg: sealed.get(NONCE..)?,
            aad: &associated(device),
        };
        let token = self.cipher().decrypt(&nonce, payload).ok()?;
        String::from_utf8(token).ok().map(SecretString::from)
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(&Key::from(self.sealing))
    }
}

fn associated(device: &DeviceKey) -> Vec<u8> {
    format!("{}\0{}", device.user_id, device.device_id).into_bytes()
}

/// Returns lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |n: u8| char::from(DIGITS[usize::from(n)]);
    bytes.iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]).collect()
}

/// Returns the name of a file beside the database.
pub(super) fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Returns the secret kept in `path`, which is made with a random one if it does not exist.
pub(super) fn from_file(path: &Path) -> Result<SecretString, Error> {
    match File::open(path) {
        Ok(mut file) => {
            let mut text = String::new();
            file.read_to_string(&mut text)?;
            return Ok(SecretString::from(text.trim().to_owned()));
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    let secret = hex(&rand::random::<[u8; 32]>());
    // Written aside and renamed, so that nobody ever reads half a secret. Only the holder of the lock gets here.
    let draft = beside(path, ".new");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&draft)?;
    file.write_all(secret.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&draft, path)?;
    Ok(SecretString::from(secret))
}
