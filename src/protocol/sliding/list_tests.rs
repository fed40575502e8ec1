use std::cmp::Ordering;

use proptest::prelude::*;

use super::*;
use crate::model::room::Membership;
use crate::protocol::fixtures::{Room, World};

fn spec(sort: &[&str], filters: Filters) -> Arc<ListSpec> {
    Arc::new(ListSpec {
        filters,
        sort: Sort::parse_all(sort.iter().copied()),
    })
}

fn view(rooms: &[(&str, Room)]) -> UserView {
    let mut world = World::new();
    for (id, room) in rooms {
        world.rooms.insert((*id).to_owned(), room.clone());
        world.commit(&[(id, None)]);
    }
    world.view
}

fn ids(list: &SortedList) -> Vec<String> {
    list.range(0, list.len()).map(ToString::to_string).collect()
}

fn sorted(rooms: &[(&str, Room)], sort: &[&str]) -> String {
    ids(&SortedList::build(&view(rooms), spec(sort, Filters::default()))).concat()
}

fn filtered(rooms: &[(&str, Room)], filters: Filters) -> String {
    ids(&SortedList::build(&view(rooms), spec(&["by_name"], filters))).concat()
}

fn room(name: &str, recency: i64, with: impl FnOnce(&mut Room)) -> Room {
    let mut room = Room::new(name, recency);
    with(&mut room);
    room
}

#[test]
fn each_sort_orders_by_its_key_and_ties_by_room_id() {
    let rooms = [
        ("a", room("#B", 5, |r| r.unread.notification_count = 3)),
        ("b", room("A", 9, |r| r.unread.highlight_count = 1)),
        (
            "c",
            room("(c", 7, |r| {
                r.unread.notification_count = 1;
                r.encrypted = true;
            }),
        ),
        ("d", room("d", 7, |_| {})),
        ("e", room("e", 1, |r| r.membership = Membership::Invite)),
    ];
    assert_eq!(sorted(&rooms, &["by_recency"]), "bcdae");
    assert_eq!(sorted(&rooms, &["by_name"]), "bacde");
    assert_eq!(sorted(&rooms, &["by_notification_level"]), "becad");
    assert_eq!(sorted(&rooms, &["by_notification_count"]), "acbde");
    assert_eq!(sorted(&rooms, &["by_highlight_count"]), "beacd");
    assert_eq!(sorted(&rooms, &["by_notification_level", "by_recency"]), "becad");
    assert_eq!(
        sorted(&rooms, &["by_highlight_count", "by_notification_level", "by_name"]),
        "becad"
    );
    assert_eq!(sorted(&rooms, &[]), "bcdae");
    assert_eq!(sorted(&rooms, &["by_magic", "by_name"]), "bacde");
}

#[test]
fn each_filter_keeps_what_it_says() {
    let text = |values: &[&str]| values.iter().map(|v| (*v).to_owned()).collect();
    let kinds = |values: &[Option<&str>]| values.iter().map(|v| v.map(str::to_owned)).collect();
    let rooms = [
        ("a", room("Alpha", 1, |r| r.is_dm = true)),
        ("b", room("beta", 1, |r| r.encrypted = true)),
        ("c", room("c", 1, |r| r.membership = Membership::Invite)),
        ("d", room("d", 1, |r| r.room_type = Some("m.space".to_owned()))),
        ("e", room("e", 1, |r| r.tags = vec!["m.favourite".to_owned()])),
        (
            "f",
            room("f", 1, |r| r.tags = vec!["m.favourite".to_owned(), "x".to_owned()]),
        ),
        ("g", room("g", 1, |r| r.membership = Membership::Leave)),
        ("h", room("h", 1, |r| r.membership = Membership::Knock)),
        ("i", room("i", 1, |r| r.membership = Membership::Ban)),
        ("j", room("j", 1, |r| r.replacement = Some("unknown".to_owned()))),
    ];
    let none = Filters::default;
    assert_eq!(filtered(&rooms, none()), "abcdefj");
    assert_eq!(
        filtered(
            &rooms,
            Filters {
                is_dm: Some(true),
                ..none()
            }
        ),
        "a"
    );
    assert_eq!(
        filtered(
            &rooms,
            Filters {
                is_dm: Some(false),
                ..none()
            }
        ),
        "bcdefj"
    );
    assert_eq!(
        filtered(
            &rooms,
            Filters {
                is_encrypted: Some(true),
                ..none()
            }
        ),
        "b"
    );
    assert_eq!(
        filtered(
            &rooms,
            Filters {
                is_invite: Some(true),
                ..none()
            }
        ),
        "c"
    );
    assert_eq!(
        filtered(
            &rooms,
            Filters {
                is_tombstoned: Some(true),
                ..none()
            }
        ),
        "j"
    );
    assert_eq!(
        filtered(
            &rooms,
            Filters {
                room_name_like: "alp".to_owned(),
                ..none()
            }
        ),
        "a"
    );
    assert_eq!(
        filtered(
            &rooms,
            Filters {
                room_types: kinds(&[Some("m.space")]),
                ..none()
            }
        ),
        "d"
    );
    assert_eq!(
        filtered(
            &rooms,
            Filters {
                room_types: kinds(&[None]),
                ..none()
            }
        ),
        "abcefj"
    );
    let both = Filters {
        room_types: kinds(&[None, Some("m.space")]),
        not_room_types: kinds(&[Some("m.space")]),
        ..none()
    };
    assert_eq!(filtered(&rooms, both), "abcefj");
    assert_eq!(
        filtered(
            &rooms,
            Filters {
                tags: text(&["m.favourite"]),
                ..none()
            }
        ),
        "ef"
    );
    let tags = Filters {
        tags: text(&["m.favourite"]),
        not_tags: text(&["x"]),
        ..none()
    };
    assert_eq!(filtered(&rooms, tags), "e");
}

#[test]
fn a_room_is_old_while_its_successor_is_joined() {
    let mut world = World::new();
    world.change("old", |r| r.replacement = Some("new".to_owned()));
    world.change("new", |r| {
        r.predecessor = Some("old".to_owned());
        r.membership = Membership::Invite;
    });
    world.commit(&[("old", None), ("new", None)]);
    let mut indexes = ListIndexes::new(world.view.position);
    let by_name = spec(&["by_name"], Filters::default());
    assert_eq!(ids(&indexes.get_or_build(&world.view, &by_name)), ["new", "old"]);
    for (membership, expected) in [(Membership::Join, vec!["new"]), (Membership::Leave, vec!["old"])] {
        world.change("new", |r| r.membership = membership);
        world.commit(&[("new", None)]);
        indexes.update(&RoomId::from("new"), world.view.rooms.get(&RoomId::from("new")));
        assert_eq!(ids(&indexes.get_or_build(&world.view, &by_name)), expected);
        assert_eq!(ids(&SortedList::build(&world.view, Arc::clone(&by_name))), expected);
    }
}

#[test]
fn the_least_recently_used_index_goes_first() {
    let view = view(&[("a", Room::new("a", 1))]);
    let mut indexes = ListIndexes::default();
    let named = |name: usize| {
        spec(
            &[],
            Filters {
                room_name_like: name.to_string(),
                ..Filters::default()
            },
        )
    };
    for name in 0..MAX_INDEXES {
        indexes.get_or_build(&view, &named(name));
    }
    indexes.get_or_build(&view, &named(0));
    indexes.get_or_build(&view, &named(MAX_INDEXES));
    assert!(indexes.find(&named(0)).is_some() && indexes.find(&named(1)).is_none());
    assert_eq!(indexes.lists.len(), MAX_INDEXES);
}

proptest! {
    #[test]
    fn updating_a_list_gives_the_list_that_building_gives(
        start in prop::collection::vec((0_i64..5, 0_u8..4), 0..12),
        updates in prop::collection::vec((0_usize..12, 0_i64..5, 0_u8..5), 0..40),
    ) {
        let mut world = World::new();
        let set = |world: &mut World, index: usize, recency: i64, kind: u8| {
            let id = format!("!{index:02}");
            world.change(&id, |room| {
                room.recency = recency;
                room.is_dm = kind == 1;
                room.membership = if kind == 2 { Membership::Leave } else { Membership::Join };
                room.encrypted = kind == 3;
            });
            world.commit(&[(&id, None)]);
            RoomId::from(id)
        };
        for (index, (recency, kind)) in start.into_iter().enumerate() {
            set(&mut world, index, recency, kind);
        }
        let spec = spec(&["by_recency", "by_name"], Filters { is_dm: Some(false), ..Filters::default() });
        let mut list = SortedList::build(&world.view, Arc::clone(&spec));
        for (index, recency, kind) in updates {
            let room_id = set(&mut world, index, recency, kind);
            let (before, old) = (ids(&list), list.position(&room_id));
            let entry = if kind == 4 {
                world.view.rooms.remove(&room_id);
                world.rooms.remove(room_id.as_str());
                None
            } else {
                world.view.rooms.get(&room_id)
            };
            let moved = list.update(&room_id, entry);
            prop_assert_eq!(ids(&list), ids(&SortedList::build(&world.view, Arc::clone(&spec))));
            prop_assert_eq!(moved.and_then(|m| m.from), old);
            prop_assert_eq!(moved.and_then(|m| m.to), list.position(&room_id));
            prop_assert!(before.len().abs_diff(list.len()) <= 1);
            let all: Vec<_> = list.order.iter().collect();
            for two in all.windows(2) {
                prop_assert_eq!(sort::compare(&spec.sort, two[0], two[1]), Ordering::Less);
            }
        }
    }
}
