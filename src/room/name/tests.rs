use proptest::prelude::*;
use serde_json::value::RawValue;

use super::*;
use crate::ids::RoomId;
use crate::model::position::Position;
use crate::model::room::{RoomSummary, Unread};

fn hero(user_id: &str, displayname: &str) -> Hero {
    Hero {
        user_id: UserId::from(user_id),
        displayname: Some(displayname.to_owned()).filter(|name| !name.is_empty()),
        avatar_url: Some(format!("mxc://h/{user_id}")),
    }
}

fn heroes(names: &[&str]) -> Vec<Hero> {
    names.iter().map(|name| hero(&format!("@{name}:h"), name)).collect()
}

#[test]
fn names_are_those_of_the_table_in_the_protocol_page() {
    for (names, joined, invited, name) in [
        (&[][..], 1, 0, "Empty Room"),
        (&["Ada"], 2, 0, "Ada"),
        (&["Ada"], 1, 1, "Ada"),
        (&["Ada", "Bob"], 3, 0, "Ada and Bob"),
        (&["Ada", "Bob", "Cy"], 4, 0, "Ada, Bob and Cy"),
        (&["Ada", "Bob", "Cy", "Di", "Ed"], 6, 0, "Ada, Bob, Cy, Di and Ed"),
        (
            &["Ada", "Bob", "Cy", "Di", "Ed"],
            10,
            0,
            "Ada, Bob, Cy, Di, Ed and 4 others",
        ),
        (&["Ada", "Bob"], 1, 0, "Empty Room (was Ada and Bob)"),
        (&["Ada"], 1, 0, "Empty Room (was Ada)"),
        (&[], 3, 0, "2 others"),
    ] {
        let named = room_name(None, Some(""), &heroes(names), joined, invited);
        assert_eq!((named.name.as_str(), named.from_heroes), (name, true));
    }
}

#[test]
fn the_rooms_own_name_comes_first_and_its_alias_second() {
    let ada = heroes(&["Ada"]);
    let named = |name, alias| room_name(name, alias, &ada, 2, 0);
    assert_eq!(named(Some("N"), Some("#a:h")).name, "N");
    assert_eq!(named(Some(""), Some("#a:h")).name, "#a:h");
    assert!(!named(None, Some("#a:h")).from_heroes);
}

#[test]
fn names_that_could_mean_two_people_carry_the_user_id() {
    let twins = [hero("@ada:h", "Ada"), hero("@ada2:h", "Ada")];
    assert_eq!(
        room_name(None, None, &twins, 3, 0).name,
        "Ada (@ada:h) and Ada (@ada2:h)"
    );
    let impostor = [hero("@a:h", "@b:h"), hero("@b:h", "")];
    assert_eq!(room_name(None, None, &impostor, 3, 0).name, "@b:h (@a:h) and @b:h");
}

#[test]
fn unknown_counts_do_not_make_a_room_empty() {
    assert_eq!(room_name(None, None, &heroes(&["Ada"]), 0, 0).name, "Ada");
}

#[test]
fn the_key_of_a_name_ignores_sigils_at_both_ends_and_case() {
    assert_eq!(name_key("#!room:"), "room");
    assert_eq!(name_key("(ÄRGER_im:Büro)"), "ärger_im:büro");
    assert_eq!(name_key("#:_"), "");
}

fn room(membership: Membership, events: &[&str]) -> Arc<UserRoom> {
    let mut summary = RoomSummary::unknown(RoomId::from("!r:h"));
    summary.name = Some("Secret".to_owned());
    summary.encrypted = true;
    let raw = |text: &&str| RawValue::from_string((*text).to_owned()).unwrap();
    Arc::new(UserRoom {
        room_id: RoomId::from("!r:h"),
        membership,
        summary: Arc::new(summary),
        heroes: heroes(&["Ada"]).into(),
        unread: Unread::default(),
        tags: Arc::new([]),
        recency: 0,
        joined_ts: 0,
        stripped: (!events.is_empty()).then(|| {
            Arc::new(Stripped {
                events: events.iter().map(raw).collect(),
            })
        }),
        changed: Position::ZERO,
    })
}

const OWN_INVITE: &str = r#"{"type":"m.room.member","state_key":"@me:h","sender":"@bob:h",
    "content":{"membership":"invite","is_direct":true}}"#;
const INVITER: &str = r#"{"type":"m.room.member","state_key":"@bob:h","sender":"@bob:h",
    "content":{"membership":"join","displayname":"Bob","avatar_url":"mxc://h/bob"}}"#;

#[test]
fn an_invite_shows_nothing_of_what_others_know_of_the_room() {
    let entry = entry(room(Membership::Invite, &[INVITER, OWN_INVITE]), false);
    assert_eq!(entry.name, "Bob");
    assert_eq!(entry.avatar.as_deref(), Some("mxc://h/bob"));
    assert!(entry.is_dm && entry.name_from_heroes && !entry.encrypted);
}

#[test]
fn an_invite_without_any_name_is_called_by_its_inviter() {
    assert_eq!(entry(room(Membership::Invite, &[OWN_INVITE]), false).name, "@bob:h");
}

#[test]
fn a_joined_room_uses_the_summary_and_a_left_one_nothing() {
    let joined = entry(room(Membership::Join, &[]), true);
    assert_eq!((joined.name.as_str(), joined.name_key.as_str()), ("Secret", "secret"));
    assert_eq!(joined.avatar.as_deref(), Some("mxc://h/@Ada:h"));
    assert!(joined.encrypted);
    let left = entry(room(Membership::Leave, &[]), true);
    assert_eq!(left.name, "Empty Room");
    assert!(!left.encrypted && left.avatar.is_none());
}

proptest! {
    #[test]
    fn a_room_always_has_a_name(
        names in prop::collection::vec("[a-c]?", 0..9),
        joined in any::<i64>(),
        invited in any::<i64>(),
    ) {
        let heroes: Vec<Hero> = names.iter().enumerate().map(|(i, name)| hero(&format!("@{i}:h"), name)).collect();
        prop_assert!(!room_name(None, None, &heroes, joined, invited).name.is_empty());
    }
}
