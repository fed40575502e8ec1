//! Pure room rules: naming, summaries, merging of timelines, redaction. No clock, no database, no logging.

mod content;
pub mod name;
pub mod order;
pub mod redact;
pub mod summary;
