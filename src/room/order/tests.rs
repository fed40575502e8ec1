use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// A room as a store would keep it; events are named by numbers, which serve as `nid` too.
#[derive(Clone, Debug, Default)]
struct Room {
    slots: Vec<Slot>,
}

#[derive(Clone, Debug)]
struct Window {
    events: Vec<i64>,
    cursor: Option<i64>,
    limited: bool,
    stream_order: bool,
}

fn window(events: &[i64]) -> Window {
    Window {
        events: events.to_vec(),
        cursor: None,
        limited: true,
        stream_order: true,
    }
}

fn after(cursor: i64, events: &[i64]) -> Window {
    Window {
        cursor: Some(cursor),
        limited: false,
        ..window(events)
    }
}

impl Room {
    fn holds(&self, nid: i64) -> bool {
        self.slots.iter().any(|slot| slot.nid == nid)
    }

    /// Event 1 is the room's `m.room.create`.
    fn receive(&mut self, window: &Window) {
        let items: Vec<Item> = window
            .events
            .iter()
            .enumerate()
            .map(|(i, &nid)| {
                if self.holds(nid) {
                    Item::Known(nid)
                } else {
                    Item::New(i)
                }
            })
            .collect();
        let placement = place(
            &self.slots,
            &Arrival {
                items: &items,
                cursor: window.cursor.filter(|&nid| self.holds(nid)),
                limited: window.limited,
                stream_order: window.stream_order,
                starts_with_create: window.events.first() == Some(&1),
            },
        );
        let new: BTreeSet<usize> = placement.new.iter().map(|(index, ..)| *index).collect();
        let expected: BTreeSet<usize> = items
            .iter()
            .filter_map(|item| match item {
                Item::New(index) => Some(*index),
                Item::Known(_) => None,
            })
            .collect();
        assert_eq!(new, expected, "every new event is placed");
        assert_eq!(new.len(), placement.new.len(), "no event is placed twice");
        for (nid, rank) in placement.moved {
            self.slot(nid).rank = rank;
        }
        for (nid, gap) in placement.gaps {
            self.slot(nid).gap_before = gap;
        }
        for (index, rank, gap_before) in placement.new {
            self.slots.push(Slot {
                nid: window.events[index],
                rank,
                gap_before,
            });
        }
        self.slots.sort_by_key(|slot| slot.rank);
        assert!(
            self.slots.windows(2).all(|pair| pair[0].rank < pair[1].rank),
            "ranks are unique: {:?}",
            self.slots
        );
    }

    fn slot(&mut self, nid: i64) -> &mut Slot {
        self.slots.iter_mut().find(|slot| slot.nid == nid).unwrap()
    }

    fn order(&self) -> Vec<i64> {
        self.slots.iter().map(|slot| slot.nid).collect()
    }

    fn respects(&self, events: &[i64]) -> bool {
        let place: BTreeMap<i64, i64> = self.slots.iter().map(|slot| (slot.nid, slot.rank)).collect();
        events.windows(2).all(|pair| place[&pair[0]] < place[&pair[1]])
    }

    /// The order with a bar where something may be missing.
    fn show(&self) -> String {
        let mut out = String::new();
        for slot in &self.slots {
            out += if slot.gap_before { " |" } else { "" };
            out += &format!(" {}", slot.nid);
        }
        out.trim_start().to_owned()
    }
}

/// What the room looks like after the windows.
fn shown(windows: &[Window]) -> String {
    let mut room = Room::default();
    for window in windows {
        room.receive(window);
    }
    room.show()
}

#[test]
fn a_room_that_begins_with_its_creation_has_no_gap() {
    assert_eq!(shown(&[window(&[1, 2, 3])]), "1 2 3");
    assert_eq!(shown(&[window(&[2, 3])]), "| 2 3");
}

#[test]
fn news_follows_the_cursor_without_a_gap_and_a_limited_timeline_with_one() {
    assert_eq!(shown(&[window(&[1, 2]), after(2, &[3, 4])]), "1 2 3 4");
    assert_eq!(shown(&[window(&[1, 2]), window(&[3, 4])]), "1 2 | 3 4");
}

#[test]
fn an_overlapping_timeline_adds_only_what_is_new() {
    assert_eq!(shown(&[window(&[1, 2, 3]), window(&[2, 3, 4])]), "1 2 3 4");
    assert_eq!(shown(&[window(&[3, 4]), window(&[2, 3])]), "| 2 3 4");
    assert_eq!(shown(&[window(&[1, 2, 4]), window(&[2, 3, 4])]), "1 2 3 4");
}

#[test]
fn an_unknown_event_before_a_known_one_is_kept() {
    // The case of ignored senders, in which the reference loses the event.
    assert_eq!(shown(&[window(&[1]), after(1, &[3]), after(1, &[2, 3])]), "1 2 3");
}

#[test]
fn a_late_user_appends_behind_what_it_cannot_see() {
    assert_eq!(shown(&[window(&[1, 2]), after(2, &[3]), after(2, &[4])]), "1 2 3 4");
}

#[test]
fn a_window_over_a_gap_closes_it() {
    assert_eq!(
        shown(&[window(&[1, 2]), window(&[4, 5]), window(&[2, 3, 4])]),
        "1 2 3 4 5"
    );
    assert_eq!(shown(&[window(&[1, 2]), window(&[3, 4]), window(&[2, 3])]), "1 2 3 4");
    assert_eq!(
        shown(&[window(&[1, 2]), window(&[4, 5]), after(2, &[3, 4])]),
        "1 2 3 4 5"
    );
}

#[test]
fn blindly_appended_runs_are_moved_as_a_whole() {
    let blind = [window(&[1, 2]), window(&[5, 6]), window(&[3, 4])];
    assert_eq!(shown(&blind), "1 2 | 5 6 | 3 4");
    let [a, b, c] = blind;
    assert_eq!(
        shown(&[a.clone(), b.clone(), c.clone(), window(&[4, 5])]),
        "1 2 | 3 4 5 6"
    );
    assert_eq!(
        shown(&[a.clone(), b.clone(), c.clone(), window(&[2, 3])]),
        "1 2 3 4 | 5 6"
    );
    assert_eq!(shown(&[a, b, c, window(&[2, 3, 4, 5])]), "1 2 3 4 5 6");
}

#[test]
fn the_longer_run_stays_and_the_shorter_one_moves() {
    let mut room = Room::default();
    room.receive(&window(&[10, 11, 12, 13, 14, 15]));
    room.receive(&window(&[8, 9]));
    let before: Vec<Slot> = room.slots[..6].to_vec();
    room.receive(&window(&[9, 10]));
    assert_eq!(room.show(), "| 8 9 10 11 12 13 14 15");
    let ranks = |slots: &[Slot]| slots.iter().map(|slot| slot.rank).collect::<Vec<_>>();
    assert_eq!(ranks(&before), ranks(&room.slots[2..]));
}

#[test]
fn a_run_that_belongs_inside_another_is_put_there() {
    // 3 and 4 were hidden from whoever saw 1, 2, 5.
    assert_eq!(
        shown(&[window(&[1, 2, 5]), window(&[3, 4]), window(&[4, 5])]),
        "1 2 3 4 5"
    );
}

#[test]
fn a_single_event_moves_only_if_its_run_contradicts_the_window() {
    assert_eq!(shown(&[window(&[1, 2, 3, 6, 4, 5]), window(&[4, 5, 6])]), "1 2 3 4 5 6");
    assert_eq!(shown(&[window(&[1, 5, 2, 3, 4]), window(&[2, 3, 4, 5])]), "1 2 3 4 5");
    assert_eq!(shown(&[window(&[1, 4, 2, 3]), window(&[2, 3, 4])]), "1 2 3 4");
}

#[test]
fn a_topological_timeline_places_its_news_and_moves_nothing() {
    let first_sync = Window {
        stream_order: false,
        ..window(&[3, 9, 2, 8])
    };
    assert_eq!(shown(&[window(&[1, 2, 3]), first_sync]), "1 2 3 9 8");
}

#[test]
fn a_room_beginning_that_comes_late_goes_in_front() {
    assert_eq!(shown(&[window(&[7, 8]), window(&[1, 2])]), "1 2 | 7 8");
}

#[test]
fn trimmed_events_lie_before_everything_in_memory() {
    let slots = [10, 11].map(|nid| Slot {
        nid,
        rank: nid << 20,
        gap_before: false,
    });
    let placed = |items: &[Item], cursor| {
        place(
            &slots,
            &Arrival {
                items,
                cursor,
                limited: false,
                stream_order: true,
                starts_with_create: false,
            },
        )
    };
    let old = placed(&[Item::New(0), Item::Known(3), Item::New(2), Item::Known(10)], None);
    assert!(
        old.new.iter().all(|(_, rank, _)| *rank < 10 << 20 && *rank > 9 << 20),
        "{old:?}"
    );
    let late = placed(&[Item::New(0)], Some(3));
    assert_eq!(late.new, [(0, 12 << 20, true)]);
    assert!(late.moved.is_empty() && late.gaps.is_empty());
}

#[test]
fn ranks_are_renumbered_when_there_is_no_space_left() {
    let slot = |nid, rank| Slot {
        nid,
        rank,
        gap_before: false,
    };
    let slots = [slot(1, 5), slot(2, 6), slot(3, 7), slot(4, 1 << 20), slot(5, 2 << 20)];
    let placement = place(
        &slots,
        &Arrival {
            items: &[Item::Known(1), Item::New(1), Item::Known(2)],
            cursor: None,
            limited: true,
            stream_order: true,
            starts_with_create: false,
        },
    );
    let [(1, new, false)] = placement.new[..] else {
        panic!("{placement:?}")
    };
    assert_eq!(placement.moved.iter().map(|(nid, _)| *nid).collect::<Vec<_>>(), [2, 3]);
    assert!(5 < new && new < placement.moved[0].1 && placement.moved[1].1 < 1 << 20);
}

#[test]
fn insertion_at_one_place_can_go_on_for_ever() {
    let mut room = Room::default();
    room.receive(&window(&[1, 2]));
    for nid in (3..2_000).rev() {
        let next = if nid == 1_999 { 2 } else { nid + 1 };
        room.receive(&window(&[1, nid, next]));
    }
    let expected: Vec<i64> = [1].into_iter().chain(3..2_000).chain([2]).collect();
    assert_eq!(room.order(), expected);
}

const LENGTH: i64 = 24;

/// Contiguous stretches of the true order `1..=LENGTH`, seen completely.
fn full_windows() -> impl Strategy<Value = Vec<Window>> {
    let one = (1..=LENGTH, 1..8_i64, any::<bool>()).prop_map(|(from, length, incremental)| {
        let events: Vec<i64> = (from..(from + length).min(LENGTH + 1)).collect();
        if incremental && from > 1 {
            after(from - 1, &events)
        } else {
            window(&events)
        }
    });
    prop::collection::vec(one, 1..30)
}

/// The same with some events hidden from each of several users.
fn hidden_windows() -> impl Strategy<Value = Vec<Window>> {
    let hidden = prop::collection::vec(prop::collection::btree_set(1..=LENGTH, 0..6), 4);
    (full_windows(), hidden, prop::collection::vec(0..4_usize, 30)).prop_map(|(windows, hidden, users)| {
        let mut out = Vec::new();
        for (mut window, user) in windows.into_iter().zip(users) {
            window.events.retain(|nid| !hidden[user].contains(nid));
            let cursor = window
                .cursor
                .and_then(|cursor| (1..=cursor).rev().find(|nid| !hidden[user].contains(nid)));
            window.limited |= window.cursor.is_some() && cursor.is_none();
            window.cursor = cursor;
            if !window.events.is_empty() {
                out.push(window);
            }
        }
        out
    })
}

/// Windows with events in any order whatever.
fn wild_windows() -> impl Strategy<Value = Vec<Window>> {
    let one = (
        prop::collection::btree_set(1..=LENGTH, 1..8),
        any::<u64>(),
        prop::option::of(1..=LENGTH),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(events, seed, cursor, limited, stream_order)| {
            let mut events: Vec<i64> = events.into_iter().collect();
            events.sort_by_key(|&nid| (seed ^ nid.unsigned_abs()).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            Window {
                events,
                cursor,
                limited,
                stream_order,
            }
        });
    prop::collection::vec(one, 1..30)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn every_event_is_placed_exactly_once_whatever_arrives(windows in wild_windows()) {
        let mut room = Room::default();
        let mut sent = BTreeSet::new();
        for window in &windows {
            room.receive(window);
            sent.extend(window.events.iter().copied());
            prop_assert_eq!(room.slots.len(), sent.len());
            if window.stream_order {
                prop_assert!(room.respects(&window.events), "{:?} in {}", window, room.show());
            }
        }
        prop_assert_eq!(room.order().into_iter().collect::<BTreeSet<_>>(), sent);
    }

    #[test]
    fn windows_that_see_everything_are_respected_in_any_permutation(windows in full_windows()) {
        let mut room = Room::default();
        let mut linked = BTreeSet::new();
        for window in &windows {
            let cursor = window.cursor.filter(|&nid| room.holds(nid));
            let chain: Vec<i64> = cursor.into_iter().chain(window.events.iter().copied()).collect();
            linked.extend(chain.windows(2).map(|pair| pair[0]));
            room.receive(window);
        }
        for window in &windows {
            prop_assert!(room.respects(&window.events), "{:?} in {}", window, room.show());
        }
        // Whatever is connected stands in the true order without a gap.
        let order = room.order();
        for (at, &nid) in order.iter().enumerate() {
            if linked.contains(&nid) {
                prop_assert_eq!(order.get(at + 1), Some(&(nid + 1)), "{}", room.show());
                prop_assert!(!room.slots[at + 1].gap_before, "{}", room.show());
            } else if let Some(next) = room.slots.get(at + 1) {
                prop_assert!(next.gap_before, "{}", room.show());
            }
        }
    }

    #[test]
    fn connected_windows_give_the_true_order_in_any_permutation(
        mut windows in full_windows(),
        order in prop::collection::vec(any::<u32>(), 64),
    ) {
        // Bridges make neighbors of all events of the true order.
        windows.extend((1..LENGTH).map(|nid| window(&[nid, nid + 1])));
        let mut keyed: Vec<(u32, Window)> = order.into_iter().cycle().zip(windows).collect();
        keyed.sort_by_key(|(key, _)| *key);
        let mut room = Room::default();
        for (_, window) in &keyed {
            room.receive(window);
        }
        prop_assert_eq!(room.order(), (1..=LENGTH).collect::<Vec<_>>());
        prop_assert!(room.slots[1..].iter().all(|slot| !slot.gap_before), "{}", room.show());
    }

    #[test]
    fn the_latest_window_is_always_respected_with_hidden_events(windows in hidden_windows()) {
        let mut room = Room::default();
        for window in &windows {
            room.receive(window);
            prop_assert!(room.respects(&window.events), "{:?} in {}", window, room.show());
        }
    }
}
