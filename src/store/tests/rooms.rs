use super::*;
use crate::model::batch::{MemberList, Receipt, StateKey, StateRepair, SummaryUpdate};
use crate::model::room::{Membership, Unread};

#[test]
fn newer_state_is_never_overwritten_and_doubts_are_told() {
    each(async |w| {
        let (a, b) = (device("a"), device("b"));
        w.next(&a, |batch| batch.joined.push(first(vec![named("$n1", "one")])))
            .await;
        w.next(&b, |batch| batch.joined.push(first(vec![named("$n1", "one")])))
            .await;
        w.next(&a, |batch| batch.joined.push(joined(vec![named("$n2", "two")])))
            .await;
        // A slow response of b, sent before a's was in, still has the old name.
        let slow = w
            .next(&b, |batch| {
                batch.sent_at = Moment(1);
                batch.joined.push(JoinedRoom {
                    state: vec![named("$n1", "one")],
                    ..joined(messages(&["$m"]))
                });
            })
            .await;
        assert!(slow.doubts.is_empty());
        assert_eq!(w.name(&a).await.as_deref(), Some("$n2"));
        // One that nobody knows, in a state block: cannot be told.
        let doubtful = w
            .next(&b, |batch| {
                batch.sent_at = Moment(1);
                batch.joined.push(JoinedRoom {
                    state: vec![named("$n0", "zero")],
                    ..joined(messages(&["$m2"]))
                });
            })
            .await;
        assert_eq!(doubtful.doubts.len(), 1);
        assert_eq!(w.name(&a).await.as_deref(), Some("$n2"));
        // A newer response is authoritative, for an old and known event as well.
        w.next(&b, |batch| {
            batch.joined.push(JoinedRoom {
                state: vec![named("$n1", "one")],
                ..joined(messages(&["$m3"]))
            });
        })
        .await;
        assert_eq!(w.name(&a).await.as_deref(), Some("$n1"));
        assert_eq!(
            w.change(|change| change.room.summary.name.clone()).as_deref(),
            Some("one")
        );
        w.store
            .repair(StateRepair {
                room_id: RoomId::from(ROOM),
                user_id: a.user_id.clone(),
                key: StateKey {
                    event_type: "m.room.name".to_owned(),
                    state_key: String::new(),
                },
                event: None,
                sent_at: Moment(1_000_000),
                received_at: Moment(1_000_001),
            })
            .await
            .unwrap();
        assert_eq!(w.name(&a).await, None);
        assert_eq!(w.last().summaries[0].name, None);
    });
}

#[test]
fn with_state_after_the_timeline_changes_no_state() {
    each(async |w| {
        let a = device("a");
        w.next(&a, |batch| {
            batch.joined.push(JoinedRoom {
                state: vec![create(), named("$n1", "one")],
                state_after: true,
                ..first(vec![named("$n2", "two")])
            });
        })
        .await;
        assert_eq!(w.name(&a).await.as_deref(), Some("$n1"));
    });
}

#[test]
fn state_that_another_poller_brought_first_is_still_told() {
    each(async |w| {
        let (a, b) = (device("a"), device("b"));
        w.next(&a, |batch| batch.joined.push(first(vec![]))).await;
        w.next(&b, |batch| batch.joined.push(first(vec![]))).await;
        for user in [&a, &b] {
            w.next(user, |batch| batch.joined.push(joined(vec![named("$n", "n")])))
                .await;
            assert_eq!(w.change(|change| ids(&change.state)), ["$n"]);
        }
    });
}

#[test]
fn a_room_without_create_is_not_shown_until_it_has_one() {
    each(async |w| {
        let a = device("a");
        let got = w.next(&a, |batch| batch.joined.push(joined(messages(&["$1"])))).await;
        assert_eq!(got.rooms_without_create, [RoomId::from(ROOM)]);
        assert!(w.last().user.as_ref().unwrap().rooms.is_empty());
        assert!(w.store.user_snapshot(a.user_id.clone()).await.unwrap().rooms.is_empty());
        assert!(w.load(&a, ROOM, |_| {}).await.is_none());
        w.next(&a, |batch| {
            batch.next_batch = None;
            batch.joined.push(JoinedRoom {
                state: vec![create()],
                ..joined(vec![])
            });
        })
        .await;
        assert_eq!(w.store.user_snapshot(a.user_id.clone()).await.unwrap().rooms.len(), 1);
        assert_eq!(w.timeline(&a).await, ["$1"]);
    });
}

#[test]
fn a_kick_seen_by_anybody_ends_the_stay() {
    each(async |w| {
        let (a, b) = (device("a"), device("b"));
        for user in [&a, &b] {
            let start = vec![member("$ja", "a", "join"), member("$jb", "b", "join")];
            w.next(user, |batch| batch.joined.push(first(start))).await;
        }
        w.next(&a, |batch| batch.joined.push(joined(vec![member("$k", "b", "leave")])))
            .await;
        let ended = &w.last().ended;
        assert_eq!(ended.len(), 1);
        assert_eq!(
            (ended[0].user_id.as_str(), ended[0].membership),
            ("@b:h", Membership::Leave)
        );
        assert!(w.load(&b, ROOM, |_| {}).await.unwrap().state.is_empty());
        assert!(w.store.user_snapshot(b.user_id.clone()).await.unwrap().rooms.is_empty());
        // A ban of somebody who was never there makes nothing known to them.
        w.next(&a, |batch| batch.joined.push(joined(vec![member("$x", "c", "ban")])))
            .await;
        assert!(w.last().ended.is_empty());
        assert!(w.load(&device("c"), ROOM, |_| {}).await.is_none());
        // The own poller says joined again.
        w.next(&b, |batch| batch.joined.push(first(vec![member("$jb2", "b", "join")])))
            .await;
        assert_eq!(w.timeline(&b).await, ["$jb2"]);
        // A late answer of a that still has the ban does not end what b's newer one confirmed.
        w.next(&a, |batch| {
            batch.sent_at = Moment(1);
            batch.received_at = Moment(2);
            batch.joined.push(joined(vec![member("$k2", "b", "ban")]));
        })
        .await;
        assert!(w.last().ended.is_empty());
    });
}

#[test]
fn a_late_invite_does_not_replace_a_join() {
    each(async |w| {
        let a = device("a");
        w.next(&a, |batch| batch.invited.push(invited("@b:h"))).await;
        let rooms = w.store.user_snapshot(a.user_id.clone()).await.unwrap().rooms;
        assert_eq!(rooms[0].membership, Membership::Invite);
        assert!(rooms[0].stripped.is_some());
        assert!(w.load(&a, ROOM, |_| {}).await.unwrap().state.is_empty());
        w.next(&a, |batch| batch.joined.push(first(vec![member("$j", "a", "join")])))
            .await;
        let slow = DeviceKey::new("@a:h", "E");
        w.next(&slow, |batch| {
            batch.sent_at = Moment(1);
            batch.invited.push(invited("@b:h"));
        })
        .await;
        let rooms = w.store.user_snapshot(a.user_id.clone()).await.unwrap().rooms;
        assert_eq!(rooms[0].membership, Membership::Join);
        // In a newer response the homeserver is right: removed and asked in again.
        w.next(&slow, |batch| batch.invited.push(invited("@b:h"))).await;
        let rooms = w.store.user_snapshot(a.user_id.clone()).await.unwrap().rooms;
        assert_eq!(rooms[0].membership, Membership::Invite);
        w.next(&a, |batch| batch.left.push(left(vec![member("$b", "a", "ban")])))
            .await;
        assert!(w.store.user_snapshot(a.user_id.clone()).await.unwrap().rooms.is_empty());
        w.next(&device("z"), |batch| {
            batch.left.push(left(vec![member("$z", "z", "ban")]))
        })
        .await;
        assert!(w.load(&device("z"), ROOM, |_| {}).await.is_none());
    });
}

#[test]
fn only_what_changed_is_told() {
    each(async |w| {
        let a = device("a");
        let receipt = |user: &str, kind: &str, ts| Receipt {
            user_id: format!("@{user}:h").into(),
            kind: kind.to_owned(),
            thread_id: None,
            event_id: format!("${ts}").into(),
            ts,
        };
        let room = |ts| JoinedRoom {
            account_data: vec![account_data("m.tag", json!({"tags": {"u.x": {}}}))],
            receipts: vec![
                receipt("a", "m.read.private", ts),
                receipt("b", "m.read", ts),
                receipt("b", "m.read.private", ts),
            ],
            unread: Some(Unread {
                notification_count: 2,
                highlight_count: 1,
            }),
            ..first(messages(&["$1", "$2"]))
        };
        w.next(&a, |batch| {
            batch.account_data = vec![account_data("m.direct", json!({})), account_data("x\0", json!({}))];
            batch.joined.push(room(2));
        })
        .await;
        assert_eq!(w.last().user.as_ref().unwrap().account_data.len(), 1);
        w.change(|change| {
            assert_eq!(change.account_data.len(), 1);
            assert_eq!(change.receipts.len(), 2);
            assert_eq!(*change.room.tags, ["u.x".to_owned()]);
            assert_eq!(change.room.unread.highlight_count, 1);
        });
        w.next(&a, |batch| {
            batch.account_data = vec![account_data("m.direct", json!({}))];
            batch.joined.push(JoinedRoom {
                state: vec![],
                limited: false,
                ..room(1)
            });
        })
        .await;
        let committed = w.last();
        let user = committed.user.as_ref().unwrap();
        assert!(user.account_data.is_empty());
        assert!(user.rooms.is_empty(), "{:?}", user.rooms);
        let b = device("b");
        w.next(&b, |batch| batch.joined.push(first(messages(&["$1", "$2"]))))
            .await;
        let seen = w.load(&b, ROOM, |_| {}).await.unwrap().receipts;
        assert_eq!(seen, [receipt("b", "m.read", 2)]);
        let seen = w.load(&a, ROOM, |_| {}).await.unwrap().receipts;
        assert_eq!(seen.len(), 2);
        assert_eq!(w.load(&a, ROOM, |_| {}).await.unwrap().account_data.len(), 1);
    });
}

#[test]
fn heroes_and_counts_follow() {
    each(async |w| {
        let a = device("a");
        let profile = |id: &str, name: &str| {
            state(
                id,
                "m.room.member",
                "@b:h",
                json!({"membership": "join", "displayname": name}),
            )
        };
        w.next(&a, |batch| {
            batch.joined.push(JoinedRoom {
                summary: SummaryUpdate {
                    heroes: Some(vec!["@b:h".into()]),
                    joined_count: Some(2),
                    invited_count: None,
                },
                ..first(vec![member("$ja", "a", "join"), profile("$b1", "Bob")])
            });
        })
        .await;
        let hero = |change: &RoomChange| change.room.heroes[0].displayname.clone();
        assert_eq!(w.change(hero).as_deref(), Some("Bob"));
        w.next(&a, |batch| batch.joined.push(joined(vec![profile("$b2", "Rob")])))
            .await;
        assert_eq!(w.change(hero).as_deref(), Some("Rob"));
        assert_eq!(w.change(|change| change.room.summary.joined_count), 2);
        w.next(&a, |batch| batch.joined.push(joined(vec![member("$c", "c", "join")])))
            .await;
        assert_eq!(w.change(|change| change.room.summary.joined_count), 3);
        w.next(&a, |batch| batch.joined.push(joined(vec![member("$b3", "b", "leave")])))
            .await;
        assert_eq!(w.change(|change| change.room.summary.joined_count), 2);
        w.store
            .members(MemberList {
                room_id: RoomId::from(ROOM),
                user_id: a.user_id.clone(),
                members: vec![member("$ja", "a", "join"), member("$d", "d", "invite")],
                sent_at: Moment(1_000_000),
                received_at: Moment(1_000_001),
            })
            .await
            .unwrap();
        let summary = w.last().summaries[0].clone();
        assert!(summary.members_complete);
        assert_eq!((summary.joined_count, summary.invited_count), (1, 1));
        let stored = &w.store.user_snapshot(a.user_id.clone()).await.unwrap().rooms[0];
        assert_eq!(*stored.summary, *summary);
    });
}
