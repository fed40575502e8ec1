//! Puts back into an event's JSON what was cut out of it because it belongs to one device.

use std::borrow::Cow;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::ids::UserId;
use crate::model::event::Event;

/// JSON text for output, borrowed whenever nothing had to be added.
#[derive(Debug)]
pub struct EventJson<'a>(Cow<'a, RawValue>);

impl Serialize for EventJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

/// Returns the event as its reader may see it: with the transaction ID if the reader sent it.
pub fn for_reader<'a>(event: &'a Event, transaction_id: Option<&str>, reader: &UserId) -> EventJson<'a> {
    let json = match transaction_id {
        Some(id) if event.sender == *reader => {
            with_transaction_id(&event.raw, id).map_or(Cow::Borrowed(&*event.raw), Cow::Owned)
        }
        Some(_) | None => Cow::Borrowed(&*event.raw),
    };
    EventJson(json)
}

/// Returns the event with `unsigned.transaction_id`, every other byte unchanged; `None` if it is no JSON object.
pub fn with_transaction_id(raw: &RawValue, transaction_id: &str) -> Option<Box<RawValue>> {
    #[derive(Deserialize)]
    struct Outer<'a> {
        #[serde(borrow, default)]
        unsigned: Option<&'a RawValue>,
    }
    let text = raw.get();
    let outer: Outer<'_> = serde_json::from_str(text).ok()?;
    let member = format!(r#""transaction_id":{}"#, serde_json::to_string(transaction_id).ok()?);
    // Where to cut, what to put in, where to go on.
    let (head, insert, tail) = match outer.unsigned.map(RawValue::get) {
        Some(unsigned) => {
            // `unsigned` is a slice of `text`.
            let start = unsigned.as_ptr() as usize - text.as_ptr() as usize;
            match unsigned.strip_prefix('{') {
                Some(inside) => (start + 1, format!("{member}{}", comma(inside)), start + 1),
                None => (start, format!("{{{member}}}"), start + unsigned.len()),
            }
        }
        None => match nullable_unsigned(text) {
            Some((start, end)) => (start, format!("{{{member}}}"), end),
            None => {
                let inside = text.strip_prefix('{')?;
                (1, format!(r#""unsigned":{{{member}}}{}"#, comma(inside)), 1)
            }
        },
    };
    RawValue::from_string(format!("{}{insert}{}", &text[..head], &text[tail..])).ok()
}

fn comma(inside: &str) -> &'static str {
    if inside.trim_start().starts_with('}') { "" } else { "," }
}

/// Finds `"unsigned": null`, which an optional field cannot tell from a missing one.
fn nullable_unsigned(text: &str) -> Option<(usize, usize)> {
    #[derive(Deserialize)]
    struct Outer<'a> {
        #[serde(borrow)]
        unsigned: &'a RawValue,
    }
    let outer: Outer<'_> = serde_json::from_str(text).ok()?;
    let unsigned = outer.unsigned.get();
    let start = unsigned.as_ptr() as usize - text.as_ptr() as usize;
    Some((start, start + unsigned.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spliced(text: &str, id: &str) -> String {
        let raw = RawValue::from_string(text.to_owned()).unwrap();
        with_transaction_id(&raw, id).unwrap().get().to_owned()
    }

    #[test]
    fn the_transaction_id_is_added_wherever_unsigned_is() {
        for (text, expected) in [
            (
                r#"{"a": 1.0, "unsigned": {"x":[ ]}, "b":2}"#,
                r#"{"a": 1.0, "unsigned": {"transaction_id":"t","x":[ ]}, "b":2}"#,
            ),
            (r#"{"unsigned":{ }}"#, r#"{"unsigned":{"transaction_id":"t" }}"#),
            (
                r#"{"unsigned": null,"b":2}"#,
                r#"{"unsigned": {"transaction_id":"t"},"b":2}"#,
            ),
            (
                r#"{"b":{"unsigned":{}}}"#,
                r#"{"unsigned":{"transaction_id":"t"},"b":{"unsigned":{}}}"#,
            ),
            (r#"{ }"#, r#"{"unsigned":{"transaction_id":"t"} }"#),
        ] {
            assert_eq!(spliced(text, "t"), expected);
        }
    }

    #[test]
    fn odd_transaction_ids_are_escaped() {
        let text = spliced(r#"{"unsigned":{}}"#, "a\"\\\n\u{1}é");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["unsigned"]["transaction_id"], "a\"\\\n\u{1}é");
    }
}
