//! Positions, retries and buffered answers of one connection (msc3575.md 5.2).

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::wire::Body;
use crate::protocol::{Answer, Refusal};

/// What to do with a request, by its position.
#[derive(Debug)]
pub enum Verdict {
    /// Return the stored answer.
    Replay { answer: Arc<Answer>, pause: bool },
    /// Process it; `hurry` if an older answer waits to be returned.
    Process { hurry: bool },
}

#[derive(Debug)]
struct Buffered {
    number: u64,
    answer: Arc<Answer>,
    // Newest device-list change in it.
    device_list_seq: i64,
}

/// The answers a client may still ask for.
#[derive(Debug)]
pub struct Replay {
    nonce: String,
    limit: usize,
    last_number: u64,
    last_request: Option<(Option<u64>, Body)>,
    buffer: VecDeque<Buffered>,
    received_device_list_seq: i64,
}

impl Replay {
    /// `nonce` makes this connection's positions unlike any other's; at most `limit` answers are kept.
    pub fn new(nonce: String, limit: usize) -> Self {
        Self {
            nonce,
            limit,
            last_number: 0,
            last_request: None,
            buffer: VecDeque::new(),
            received_device_list_seq: 0,
        }
    }

    /// Prints a position.
    pub fn token(&self, number: u64) -> String {
        format!("{}_{number}", self.nonce)
    }

    /// Reads a position that this connection printed.
    pub fn number(&self, token: &str) -> Option<u64> {
        let number: u64 = token.strip_prefix(&*self.nonce)?.strip_prefix('_')?.parse().ok()?;
        // Refuses other spellings of the same number.
        (number > 0 && self.token(number) == token).then_some(number)
    }

    /// Returns the number of the answer to be made next.
    pub fn next_number(&self) -> u64 {
        self.last_number + 1
    }

    /// Returns up to which device-list change the client has shown to have received.
    pub fn received_device_list_seq(&self) -> i64 {
        self.received_device_list_seq
    }

    /// Judges a position and forgets the answers it acknowledges.
    pub fn judge(&mut self, position: Option<u64>, body: &Body) -> Result<Verdict, Refusal> {
        let Some(number) = position else {
            return Ok(Verdict::Process { hurry: false });
        };
        let (mut retransmit, mut same) = (false, false);
        if let Some((last_position, last_body)) = &self.last_request {
            retransmit = *last_position == Some(number);
            same = last_body == body;
        }
        if !retransmit && !self.buffer.iter().any(|buffered| buffered.number == number) {
            return Err(Refusal::UnknownPos);
        }
        for buffered in self.buffer.iter().take_while(|buffered| buffered.number <= number) {
            self.received_device_list_seq = self.received_device_list_seq.max(buffered.device_list_seq);
        }
        self.buffer.retain(|buffered| buffered.number >= number);
        if let Some(received) = self.buffer.front_mut().filter(|buffered| buffered.number == number) {
            // Only its position is still needed: a client that is idle for long should not hold a large answer.
            received.answer = Arc::new(Answer { body: Bytes::new() });
        }
        let next = self.next_after(number);
        if same && let Some(answer) = next {
            return Ok(Verdict::Replay {
                answer,
                pause: retransmit,
            });
        }
        if self.buffer.len() >= self.limit {
            // The client keeps asking new things without ever taking the answers.
            return Err(Refusal::UnknownPos);
        }
        Ok(Verdict::Process {
            hurry: self.next_after(number).is_some(),
        })
    }

    fn next_after(&self, number: u64) -> Option<Arc<Answer>> {
        let next = self.buffer.iter().find(|buffered| buffered.number > number)?;
        Some(Arc::clone(&next.answer))
    }

    /// Stores the answer to a processed request and returns the one to send for it.
    pub fn store(&mut self, position: Option<u64>, body: Body, answer: Answer, device_list_seq: i64) -> Arc<Answer> {
        self.last_number += 1;
        self.last_request = Some((position, body));
        if position.is_none() {
            self.buffer.clear();
        }
        self.buffer.push_back(Buffered {
            number: self.last_number,
            answer: Arc::new(answer),
            device_list_seq,
        });
        // The new answer itself is the last resort, so there always is one.
        let wanted = self
            .buffer
            .iter()
            .find(|buffered| buffered.number > position.unwrap_or(0));
        let chosen = wanted.unwrap_or(&self.buffer[self.buffer.len() - 1]);
        Arc::clone(&chosen.answer)
    }
}
