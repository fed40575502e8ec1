//! What a room is called and how it looks to one user (msc3575.md 6.3, 9.9, 9.10 and 10.2).

use std::collections::HashMap;
use std::sync::Arc;

use crate::ids::UserId;
use crate::model::room::{Hero, Membership, Stripped, UserRoom};
use crate::model::user_view::RoomEntry;
use crate::room::content::Fields;
use crate::room::summary::{StrippedFacts, stripped_facts};

/// Names shown when there are more members than that.
const SHOWN: usize = 5;
/// Names shown when all of them can be.
const SHOWN_ALL: usize = 6;

/// A room's display name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The name.
    pub name: String,
    /// Whether it was made from members (or their absence) and not from the room's own name or alias.
    pub from_heroes: bool,
}

/// Names a room by the rules of msc3575.md 9.9. `heroes` are without the user; the counts include the user, so
/// that `joined` 0 means that the counts are not known yet.
pub fn room_name(
    name: Option<&str>,
    canonical_alias: Option<&str>,
    heroes: &[Hero],
    joined: i64,
    invited: i64,
) -> Named {
    let set = |text: Option<&str>| text.filter(|text| !text.is_empty()).map(str::to_owned);
    match set(name).or_else(|| set(canonical_alias)) {
        Some(name) => Named {
            name,
            from_heroes: false,
        },
        None => Named {
            name: from_members(heroes, joined, invited),
            from_heroes: true,
        },
    }
}

fn from_members(heroes: &[Hero], joined: i64, invited: i64) -> String {
    let others = joined.saturating_add(invited).saturating_sub(1);
    let names = distinct_names(heroes);
    let known = i64::try_from(names.len()).unwrap_or(i64::MAX);
    if names.is_empty() {
        return match others {
            ..=0 => "Empty Room".to_owned(),
            _ => format!("{others} others"),
        };
    }
    if known < others {
        let shown = &names[..names.len().min(SHOWN)];
        let rest = others - i64::try_from(shown.len()).unwrap_or(0);
        return format!("{} and {rest} others", shown.join(", "));
    }
    let all = match &names[..names.len().min(SHOWN_ALL)] {
        [first @ .., last] if !first.is_empty() => format!("{} and {last}", first.join(", ")),
        one => one.concat(),
    };
    // Heroes of a room in which nobody else is left are its former members.
    if others <= 0 && joined > 0 {
        format!("Empty Room (was {all})")
    } else {
        all
    }
}

/// Display names, with the user ID where there is none, and with both where a name could mean two people.
fn distinct_names(heroes: &[Hero]) -> Vec<String> {
    fn plain(hero: &Hero) -> &str {
        let name = hero.displayname.as_deref().filter(|name| !name.is_empty());
        name.unwrap_or(hero.user_id.as_str())
    }
    let mut uses: HashMap<&str, usize> = HashMap::new();
    for hero in heroes {
        *uses.entry(plain(hero)).or_default() += 1;
        // Somebody may call themselves by the user ID of somebody else.
        if plain(hero) != hero.user_id.as_str() {
            *uses.entry(hero.user_id.as_str()).or_default() += 1;
        }
    }
    let name = |hero: &Hero| match plain(hero) {
        name if name != hero.user_id.as_str() && uses.get(name).is_some_and(|&n| n > 1) => {
            format!("{name} ({})", hero.user_id)
        }
        name => name.to_owned(),
    };
    heroes.iter().map(name).collect()
}

/// Makes a name comparable for `by_name` (msc3575.md 6.3).
pub fn name_key(name: &str) -> String {
    name.trim_matches(|c| "#!():_@".contains(c)).to_lowercase()
}

/// Derives everything a list needs from what is stored of a room. `is_dm` is by `m.direct`; an invite says itself
/// whether it is a direct message. Of invites and knocks only stripped state is used, and of rooms that were left nothing.
pub fn entry(room: Arc<UserRoom>, is_dm: bool) -> RoomEntry {
    let stripped = match room.membership {
        Membership::Join => return joined_entry(room, is_dm),
        Membership::Invite | Membership::Knock => room.stripped.as_deref(),
        Membership::Leave | Membership::Ban => None,
    };
    let facts = stripped
        .map(|stripped| invite_facts(stripped, room.membership))
        .unwrap_or_default();
    let count = i64::from(stripped.is_some());
    let mut named = room_name(
        facts.name.as_deref(),
        facts.canonical_alias.as_deref(),
        &facts.heroes,
        count,
        count,
    );
    if let (true, true, Some(inviter)) = (named.from_heroes, facts.heroes.is_empty(), &facts.inviter) {
        named.name = inviter.to_string();
    }
    RoomEntry {
        name_key: name_key(&named.name),
        name: named.name,
        avatar: avatar(facts.avatar_url.as_deref(), facts.is_direct, &facts.heroes),
        name_from_heroes: named.from_heroes,
        is_dm: facts.is_direct,
        encrypted: facts.encrypted,
        room_type: facts.room_type,
        room,
    }
}

fn joined_entry(room: Arc<UserRoom>, is_dm: bool) -> RoomEntry {
    let summary = &room.summary;
    let named = room_name(
        summary.name.as_deref(),
        summary.canonical_alias.as_deref(),
        &room.heroes,
        summary.joined_count,
        summary.invited_count,
    );
    RoomEntry {
        name_key: name_key(&named.name),
        name: named.name,
        avatar: avatar(summary.avatar_url.as_deref(), is_dm, &room.heroes),
        name_from_heroes: named.from_heroes,
        is_dm,
        encrypted: summary.encrypted,
        room_type: summary.room_type.clone(),
        room,
    }
}

/// The room's avatar, or that of the only other person in a direct message.
fn avatar(room: Option<&str>, is_dm: bool, heroes: &[Hero]) -> Option<String> {
    let set = |url: Option<&str>| url.filter(|url| !url.is_empty()).map(str::to_owned);
    set(room).or_else(|| match heroes {
        [only] if is_dm => set(only.avatar_url.as_deref()),
        _ => None,
    })
}

/// Facts of an invite or knock whose owner is told by the member event itself: it is the one with that membership.
fn invite_facts(stripped: &Stripped, membership: Membership) -> StrippedFacts {
    let own = stripped.events.iter().rev().find_map(|raw| {
        let event = Fields::of(raw);
        let is_own = event.string("type").as_deref() == Some("m.room.member")
            && event.object("content")?.string("membership").as_deref() == Some(membership.as_str());
        is_own.then(|| event.string("state_key")).flatten()
    });
    stripped_facts(&stripped.events, &UserId::from(own.unwrap_or_default()))
}

#[cfg(test)]
mod tests;
