//! The homeserver as a client sees it.
