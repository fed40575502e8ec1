//! Pure room rules: naming, summaries, merging of timelines, redaction. No clock, no database, no logging.
