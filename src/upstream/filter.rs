//! The filters sent with v2 `/sync`. A homeserver's response cache is keyed by the very text, so these never vary.

/// Raised whenever one of the texts changes. Stored with a device, so that a change during a first sync is noticed.
pub const FILTER_VERSION: i64 = 1;

/// For requests without `since`. Members load lazily: they are nine tenths of an eager response. Twenty events give a
/// client its first screen and the preview of encrypted rooms.
pub const FIRST: &str = concat!(
    r#"{"room":{"timeline":{"limit":20,"lazy_load_members":true,"unread_thread_notifications":true},"#,
    r#""state":{"lazy_load_members":true},"include_leave":false},"presence":{"not_types":["*"]}}"#
);

/// For requests with `since`. Receipts stay in: unread counts only come with a room that has some other news.
pub const LATER: &str = concat!(
    r#"{"room":{"timeline":{"limit":50,"lazy_load_members":true,"unread_thread_notifications":true},"#,
    r#""state":{"lazy_load_members":true},"include_leave":false},"presence":{"not_types":["*"]}}"#
);

/// For the first request of a further device, whose rooms another poller of the user brings anyway.
pub const ROOMLESS: &str = r#"{"room":{"rooms":[]},"presence":{"not_types":["*"]}}"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_json() {
        for text in [FIRST, LATER, ROOMLESS] {
            let value: serde_json::Value = serde_json::from_str(text).unwrap();
            assert!(value["room"].is_object());
            assert_eq!(value["presence"]["not_types"][0], "*");
        }
        assert_eq!(LATER, FIRST.replace(":20,", ":50,"));
    }
}
