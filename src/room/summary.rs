//! What a room's state says about the room: for joined users from current state, for invited ones from stripped state.
//!
//! Every field is computed anew from the current value of its state entry or from the absence of one, so that a field
//! whose event is gone is cleared (upstream.md 4.5, rule 8).

use serde_json::value::RawValue;

use crate::ids::{RoomId, UserId};
use crate::model::event::Event;
use crate::model::room::{Hero, Membership, RoomSummary};
use crate::room::content::Fields;

/// Recomputes the field or fields that depend on the state entry (`event_type`, `state_key`) from its current event,
/// `None` if there is no such entry. Returns whether the summary changed.
pub fn apply(summary: &mut RoomSummary, event_type: &str, state_key: &str, event: Option<&Event>) -> bool {
    if !state_key.is_empty() {
        return false;
    }
    let text = |key: &str| event.and_then(|event| Fields::of_content(event).text(key));
    match event_type {
        "m.room.name" => set(&mut summary.name, text("name")),
        "m.room.canonical_alias" => set(&mut summary.canonical_alias, text("alias")),
        "m.room.avatar" => set(&mut summary.avatar_url, text("url")),
        // Its presence counts, not its content: a redacted one still binds clients to encrypt.
        "m.room.encryption" => set(&mut summary.encrypted, event.is_some()),
        "m.room.tombstone" => set(&mut summary.replacement, text("replacement_room").map(RoomId::from)),
        "m.room.create" => {
            let fields = event.map(Fields::of_content);
            let fields = fields.as_ref();
            let version = fields.and_then(|fields| fields.text("room_version"));
            let predecessor = fields
                .and_then(|fields| fields.object("predecessor"))
                .and_then(|object| object.text("room_id"));
            let type_changed = set(&mut summary.room_type, fields.and_then(|fields| fields.text("type")));
            let version_changed = set(&mut summary.room_version, version.unwrap_or_else(|| "1".to_owned()));
            set(&mut summary.predecessor, predecessor.map(RoomId::from)) || type_changed || version_changed
        }
        _ => false,
    }
}

fn set<T: PartialEq>(field: &mut T, value: T) -> bool {
    let changed = *field != value;
    *field = value;
    changed
}

/// Membership word, display name and avatar of an `m.room.member` event's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberContent {
    /// `membership`.
    pub membership: Membership,
    /// `displayname`, if a string and not empty.
    pub displayname: Option<String>,
    /// `avatar_url`, if a string and not empty.
    pub avatar_url: Option<String>,
}

/// Reads an `m.room.member` event; `None` only if its membership is none that we know.
pub fn member_content(event: &Event) -> Option<MemberContent> {
    member(&Fields::of_content(event))
}

fn member(content: &Fields<'_>) -> Option<MemberContent> {
    Some(MemberContent {
        membership: Membership::parse(&content.string("membership")?)?,
        displayname: content.text("displayname"),
        avatar_url: content.text("avatar_url"),
    })
}

/// What stripped state tells about a room (msc3575.md 10.2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StrippedFacts {
    /// `m.room.name`.
    pub name: Option<String>,
    /// `m.room.canonical_alias`.
    pub canonical_alias: Option<String>,
    /// `m.room.avatar`.
    pub avatar_url: Option<String>,
    /// `m.room.create`'s `type`.
    pub room_type: Option<String>,
    /// Whether there is an `m.room.encryption` event.
    pub encrypted: bool,
    /// `is_direct` of the user's own member event.
    pub is_direct: bool,
    /// Members, not the user, whose member event is by themselves.
    pub heroes: Vec<Hero>,
    /// Sender of the user's own member event, if somebody else.
    pub inviter: Option<UserId>,
    /// `origin_server_ts` of the user's own member event, ms; 0 if the homeserver stripped it.
    pub own_member_ts: i64,
    /// Whether the user's own member event is there; without it, an invite is ignored.
    pub has_own_member: bool,
    /// The user's membership by that event.
    pub own_membership: Option<Membership>,
}

/// Reads the stripped state of an invite to, or a knock by, `user_id`. Events that cannot be read are passed over; of
/// several events for one entry the last one counts (Dendrite sends the user's own member event twice).
pub fn stripped_facts(events: &[Box<RawValue>], user_id: &UserId) -> StrippedFacts {
    let mut facts = StrippedFacts::default();
    for raw in events {
        let event = Fields::of(raw);
        let (Some(event_type), Some(state_key)) = (event.string("type"), event.string("state_key")) else {
            continue;
        };
        let Some(content) = event.object("content") else {
            continue;
        };
        match (event_type.as_str(), state_key.as_str()) {
            ("m.room.name", "") => facts.name = content.text("name"),
            ("m.room.canonical_alias", "") => facts.canonical_alias = content.text("alias"),
            ("m.room.avatar", "") => facts.avatar_url = content.text("url"),
            ("m.room.create", "") => facts.room_type = content.text("type"),
            ("m.room.encryption", "") => facts.encrypted = true,
            ("m.room.member", key) if key == user_id.as_str() => own_member(&mut facts, &event, &content, user_id),
            ("m.room.member", key) if event.string("sender").as_deref() == Some(key) => {
                add_hero(&mut facts.heroes, key, &content);
            }
            _ => {}
        }
    }
    facts
}

fn own_member(facts: &mut StrippedFacts, event: &Fields<'_>, content: &Fields<'_>, user_id: &UserId) {
    facts.has_own_member = true;
    facts.is_direct = content.is_true("is_direct");
    facts.own_membership = content.string("membership").and_then(|word| Membership::parse(&word));
    let sender = event.text("sender").filter(|sender| sender != user_id.as_str());
    facts.inviter = sender.map(UserId::from);
    // One copy may be stripped of its timestamp while the other has it.
    let ts = event.integer("origin_server_ts");
    if ts != 0 {
        facts.own_member_ts = ts;
    }
}

fn add_hero(heroes: &mut Vec<Hero>, user_id: &str, content: &Fields<'_>) {
    heroes.retain(|hero| hero.user_id.as_str() != user_id);
    heroes.push(Hero {
        user_id: UserId::from(user_id),
        displayname: content.text("displayname"),
        avatar_url: content.text("avatar_url"),
    });
}

#[cfg(test)]
mod tests;
