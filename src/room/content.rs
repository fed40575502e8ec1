//! Reading single fields out of JSON that any room member may have written: one bad field never spoils another.

use serde_json::value::RawValue;

use crate::model::event::{Entries, Event};

/// The fields of a JSON object, each undecoded. Anything else than an object has no fields.
pub(super) struct Fields<'a>(Entries<'a>);

impl<'a> Fields<'a> {
    /// Reads the fields of `raw`.
    pub(super) fn of(raw: &'a RawValue) -> Self {
        Self(serde_json::from_str(raw.get()).unwrap_or(Entries(Vec::new())))
    }

    /// Reads the fields of the event's `content`.
    pub(super) fn of_content(event: &'a Event) -> Self {
        Self(event.content().unwrap_or(Entries(Vec::new())))
    }

    /// Returns a field as it stands. Of repeated keys the last one counts, as in other JSON libraries.
    pub(super) fn raw(&self, key: &str) -> Option<&'a RawValue> {
        self.0.0.iter().rev().find(|(k, _)| k == key).map(|(_, value)| *value)
    }

    /// Returns the fields of an object inside this one.
    pub(super) fn object(&self, key: &str) -> Option<Fields<'a>> {
        self.raw(key).map(Fields::of)
    }

    /// Returns a string, possibly empty.
    pub(super) fn string(&self, key: &str) -> Option<String> {
        serde_json::from_str(self.raw(key)?.get()).ok()
    }

    /// Returns a string that is not empty, without the NUL characters that a text column cannot hold.
    pub(super) fn text(&self, key: &str) -> Option<String> {
        let mut text = self.string(key)?;
        text.retain(|c| c != '\0');
        Some(text).filter(|text| !text.is_empty())
    }

    /// Returns whether a field is `true`.
    pub(super) fn is_true(&self, key: &str) -> bool {
        self.raw(key).is_some_and(|value| value.get() == "true")
    }

    /// Returns a number as an integer, 0 for anything else.
    pub(super) fn integer(&self, key: &str) -> i64 {
        let Some(value) = self.raw(key) else { return 0 };
        let text = value.get();
        match (text.parse::<i64>(), text.parse::<f64>()) {
            (Ok(n), _) => n,
            // `as` saturates, which is what an absurd number deserves.
            (_, Ok(n)) if n.is_finite() => n as i64,
            _ => 0,
        }
    }

    /// Returns all fields in their order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.0.0.iter().map(|(key, value)| (&**key, *value))
    }

    /// Returns whether there is no field at all.
    pub(super) fn is_empty(&self) -> bool {
        self.0.0.is_empty()
    }
}
