//! One user's view of one room's timeline: which events the user's own pollers delivered, when, and after which gaps.
//! Kept as a compact blob, because it is written with every event.

/// One event in a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// The event.
    pub(super) nid: i64,
    /// Position at which it was delivered to this user.
    pub(super) position: i64,
    /// Whether something may be missing before it, for this user.
    pub(super) gap_before: bool,
}

/// The newest events of a room that a user was given, in order of delivery.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct View {
    /// Entries, oldest delivery first.
    pub(super) entries: Vec<Entry>,
    /// Whether older entries were dropped to keep the bound.
    pub(super) trimmed: bool,
}

impl View {
    /// Returns the entry of an event.
    pub(super) fn get_mut(&mut self, nid: i64) -> Option<&mut Entry> {
        self.entries.iter_mut().rev().find(|entry| entry.nid == nid)
    }

    /// Keeps the newest `keep` entries.
    pub(super) fn trim(&mut self, keep: usize) {
        if self.entries.len() > keep {
            self.entries.drain(..self.entries.len() - keep);
            self.trimmed = true;
        }
    }

    /// Writes the view as bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(2 + self.entries.len() * 4);
        out.push(u8::from(self.trimmed));
        let (mut nid, mut position) = (0, 0);
        for entry in &self.entries {
            put(&mut out, zigzag(entry.nid.wrapping_sub(nid)));
            // One bit for the gap; the distance of two positions never needs all 64.
            put(
                &mut out,
                zigzag(entry.position.wrapping_sub(position)) << 1 | u64::from(entry.gap_before),
            );
            (nid, position) = (entry.nid, entry.position);
        }
        out
    }

    /// Reads what [`View::encode`] wrote; `None` if it is something else.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (&first, mut rest) = bytes.split_first()?;
        if first > 1 {
            return None;
        }
        let mut entries = Vec::new();
        let (mut nid, mut position) = (0_i64, 0_i64);
        while !rest.is_empty() {
            nid = nid.wrapping_add(unzigzag(take(&mut rest)?));
            let packed = take(&mut rest)?;
            position = position.wrapping_add(unzigzag(packed >> 1));
            entries.push(Entry {
                nid,
                position,
                gap_before: packed & 1 == 1,
            });
        }
        Some(Self {
            entries,
            trimmed: first == 1,
        })
    }
}

fn zigzag(n: i64) -> u64 {
    ((n << 1) ^ (n >> 63)).cast_unsigned()
}

fn unzigzag(n: u64) -> i64 {
    (n >> 1).cast_signed() ^ -(n & 1).cast_signed()
}

fn put(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut n = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        n |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(n);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_survive_encoding() {
        let entry = |nid, position, gap_before| Entry {
            nid,
            position,
            gap_before,
        };
        let view = View {
            entries: vec![
                entry(5, 1, true),
                entry(6, 1, false),
                entry(2, 900, false),
                entry(1 << 50, 1 << 50, true),
            ],
            trimmed: true,
        };
        assert_eq!(View::decode(&view.encode()), Some(view));
        assert_eq!(View::decode(&View::default().encode()), Some(View::default()));
        assert_eq!(View::decode(&[]), None);
        assert_eq!(View::decode(&[0, 0x80]), None);
    }
}
