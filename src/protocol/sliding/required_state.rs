//! `required_state` as sent by clients, turned into what the store is asked for (msc3575.md 9.6).

use crate::ids::UserId;
use crate::model::load::StateSelector;

/// One `[event_type, state_key]` entry as received.
pub type Entry = (String, String);

const MEMBER: &str = "m.room.member";

/// Returns whether member events of timeline senders are asked for.
pub fn is_lazy(entries: &[Entry]) -> bool {
    entries.iter().any(|(kind, key)| kind == MEMBER && key == "$LAZY")
}

/// Interprets the entries as one array. `user_id` stands in for `$ME`.
pub fn selector(entries: &[Entry], user_id: &UserId) -> StateSelector {
    let mut selector = StateSelector {
        everything: entries.iter().any(|(kind, key)| kind == "*" && key == "*"),
        lazy_members: is_lazy(entries),
        ..StateSelector::default()
    };
    if selector.everything && selector.lazy_members {
        // `$LAZY` names members, so it keeps all other members out.
        selector.only.entry(MEMBER.to_owned()).or_default();
    }
    for (kind, key) in entries {
        if kind == MEMBER && key == "$LAZY" {
            continue;
        }
        let state_key = if key == "$ME" { user_id.as_str() } else { key.as_str() };
        match (kind.as_str(), key.as_str()) {
            // Beside everything, entries with a wildcard have no effect.
            ("*", _) | (_, "*") if selector.everything => {}
            ("*", _) => {
                selector.keys.insert(state_key.to_owned());
            }
            (_, "*") => {
                selector.types.insert(kind.clone());
            }
            _ if selector.everything => {
                let keys = selector.only.entry(kind.clone()).or_default();
                keys.insert(state_key.to_owned());
            }
            _ => {
                selector.exact.insert((kind.clone(), state_key.to_owned()));
            }
        }
    }
    selector
}

#[cfg(test)]
mod tests {
    use super::*;

    fn select(entries: &[[&str; 2]]) -> StateSelector {
        let entries: Vec<Entry> = entries.iter().map(|[a, b]| ((*a).into(), (*b).into())).collect();
        selector(&entries, &UserId::from("@me:h"))
    }

    #[test]
    fn every_wildcard_form_selects_what_it_says() {
        let exact = select(&[["m.a", "k"]]);
        assert!(exact.wants("m.a", "k") && !exact.wants("m.a", "") && !exact.wants("m.b", "k"));
        let kind = select(&[["m.a", "*"]]);
        assert!(kind.wants("m.a", "") && kind.wants("m.a", "x") && !kind.wants("m.b", "x"));
        let key = select(&[["*", "k"]]);
        assert!(key.wants("m.a", "k") && key.wants("m.b", "k") && !key.wants("m.b", ""));
        let all = select(&[["*", "*"]]);
        assert!(all.wants("m.a", "k") && all.wants("m.room.member", "@x:h"));
        let restricted = select(&[["*", "*"], ["m.a", "k"], ["m.b", "*"], ["*", "z"]]);
        assert!(restricted.wants("m.a", "k") && !restricted.wants("m.a", "z"));
        assert!(restricted.wants("m.b", "anything") && restricted.wants("m.c", ""));
        let me = select(&[["m.room.member", "$ME"], ["*", "$ME"]]);
        assert!(me.wants("m.room.member", "@me:h") && me.wants("m.x", "@me:h"));
        assert!(!me.wants("m.room.member", "@you:h"));
        let glob = select(&[["foo*", ""]]);
        assert!(glob.wants("foo*", "") && !glob.wants("foobar", ""));
    }

    #[test]
    fn lazy_is_lazy_for_members_only_and_literal_elsewhere() {
        let lazy = select(&[["m.room.member", "$LAZY"]]);
        assert!(lazy.lazy_members && !lazy.wants("m.room.member", "@a:h") && !lazy.is_empty());
        let literal = select(&[["m.other", "$LAZY"], ["*", "$LAZY"]]);
        assert!(!literal.lazy_members && literal.wants("m.other", "$LAZY"));
        let typical = select(&[["*", "*"], ["m.room.member", "$LAZY"], ["m.room.member", "$ME"]]);
        assert!(typical.lazy_members && typical.wants("m.room.name", "") && typical.wants("m.room.member", "@me:h"));
        assert!(!typical.wants("m.room.member", "@you:h") && !typical.needs_all_members());
    }
}
