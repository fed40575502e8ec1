use super::*;

#[test]
fn an_event_is_stored_once_and_shown_to_whom_it_was_delivered() {
    each(async |w| {
        let (a, b) = (device("a"), device("b"));
        w.next(&a, |batch| batch.joined.push(first(messages(&["$1", "$2"]))))
            .await;
        assert_eq!(w.timeline(&a).await, ["$1", "$2"]);
        assert!(w.timeline(&b).await.is_empty());
        w.next(&b, |batch| batch.joined.push(first(messages(&["$2"])))).await;
        assert_eq!(w.timeline(&b).await, ["$2"]);
        // The sender of $3 is ignored by b, so b's poller never brings it.
        w.next(&a, |batch| batch.joined.push(joined(messages(&["$3", "$4"]))))
            .await;
        assert_eq!(w.timeline(&b).await, ["$2"]);
        w.next(&b, |batch| batch.joined.push(joined(messages(&["$4"])))).await;
        assert_eq!(w.timeline(&b).await, ["$2", "$4"]);
        assert_eq!(w.timeline(&a).await, ["$1", "$2", "$3", "$4"]);
    });
}

#[test]
fn two_users_end_with_one_order_whatever_arrives_first() {
    each(async |w| {
        let windows: [(&str, &[&str]); 4] = [
            ("a", &["$1", "$2"]),
            ("b", &["$1", "$2", "$3"]),
            ("a", &["$3", "$4"]),
            ("b", &["$4", "$5"]),
        ];
        // Each user's own windows stay in order; the users interleave in every way.
        for (turn, order) in [
            [0, 1, 2, 3],
            [0, 2, 1, 3],
            [1, 0, 2, 3],
            [1, 0, 3, 2],
            [1, 3, 0, 2],
            [0, 1, 3, 2],
        ]
        .into_iter()
        .enumerate()
        {
            let room_id = format!("!{turn}:h");
            for at in order {
                let (user, events) = windows[at];
                let user = DeviceKey::new(format!("@{user}{turn}:h"), "D");
                let begins = at < 2;
                let timeline = events.iter().map(|id| message(&format!("{id}-{turn}"))).collect();
                w.next(&user, |batch| {
                    batch.joined.push(JoinedRoom {
                        room_id: RoomId::from(room_id.as_str()),
                        state: if begins {
                            vec![state(&format!("$c{turn}"), "m.room.create", "", json!({}))]
                        } else {
                            Vec::new()
                        },
                        limited: begins,
                        ..joined(timeline)
                    });
                })
                .await;
            }
            for (user, want) in [("a", vec![1, 2, 3, 4]), ("b", vec![1, 2, 3, 4, 5])] {
                let user = DeviceKey::new(format!("@{user}{turn}:h"), "D");
                let room = w.load(&user, &room_id, |_| {}).await.unwrap();
                let want: Vec<String> = want.iter().map(|n| format!("${n}-{turn}")).collect();
                assert_eq!(ids(&room.timeline), want, "{order:?}");
            }
        }
    });
}

#[test]
fn a_gap_cuts_the_timeline_until_an_overlap_closes_it() {
    each(async |w| {
        let a = device("a");
        w.next(&a, |batch| batch.joined.push(first(messages(&["$1", "$2"]))))
            .await;
        let gappy = |events: &[&str], token: &str| JoinedRoom {
            limited: true,
            prev_batch: Some(token.to_owned()),
            ..joined(messages(events))
        };
        w.next(&a, |batch| batch.joined.push(gappy(&["$5", "$6"], "p5"))).await;
        assert!(w.change(|change| change.limited));
        assert_eq!(w.change(|change| change.prev_batch.clone()).as_deref(), Some("p5"));
        let room = w.load(&a, ROOM, |_| {}).await.unwrap();
        assert_eq!(ids(&room.timeline), ["$5", "$6"]);
        assert!(room.limited);
        assert_eq!(room.prev_batch.as_deref(), Some("p5"));
        // Another device of the same user brings what was missing.
        let other = DeviceKey::new("@a:h", "E");
        w.next(&other, |batch| batch.joined.push(gappy(&["$2", "$3", "$5"], "p2")))
            .await;
        let room = w.load(&a, ROOM, |_| {}).await.unwrap();
        assert_eq!(ids(&room.timeline), ["$1", "$2", "$3", "$5", "$6"]);
        assert_eq!(w.change(|change| ids(&change.events)), ["$3"]);
    });
}

#[test]
fn prev_batch_never_skips_an_event() {
    each(async |w| {
        let a = device("a");
        w.next(&a, |batch| batch.joined.push(first(messages(&["$1", "$2", "$3"]))))
            .await;
        w.next(&a, |batch| {
            batch.joined.push(JoinedRoom {
                prev_batch: Some("p4".to_owned()),
                ..joined(messages(&["$4", "$5"]))
            });
        })
        .await;
        let mut seen = Vec::new();
        for limit in 1..=5 {
            let room = w
                .load(&a, ROOM, |plan| plan.rooms[0].timeline_limit = limit)
                .await
                .unwrap();
            assert_eq!(room.timeline.len(), limit);
            seen.push(room.prev_batch.unwrap_or_default());
        }
        assert_eq!(seen, ["", "p4", "p4", "p4", "p0"]);
    });
}

#[test]
fn a_rejoin_drops_the_earlier_stay() {
    each(async |w| {
        let a = device("a");
        let start = vec![member("$j1", "a", "join"), message("$1")];
        w.next(&a, |batch| batch.joined.push(first(start))).await;
        w.next(&a, |batch| {
            batch.left.push(left(vec![message("$2"), member("$l", "a", "leave")]))
        })
        .await;
        assert_eq!(w.timeline(&a).await, ["$j1", "$1", "$2", "$l"]);
        assert_eq!(w.last().ended.len(), 1);
        let room = w.load(&a, ROOM, |_| {}).await.unwrap();
        assert!(room.state.is_empty());
        let again = vec![message("$3"), member("$j2", "a", "join"), message("$4")];
        w.next(&a, |batch| batch.joined.push(first(again))).await;
        assert_eq!(w.timeline(&a).await, ["$j2", "$4"]);
        // Left and back inside one response: it appears under join only.
        let both = vec![member("$l2", "a", "leave"), member("$j3", "a", "join"), message("$5")];
        w.next(&a, |batch| batch.joined.push(joined(both))).await;
        assert_eq!(w.timeline(&a).await, ["$j3", "$5"]);
    });
}

#[test]
fn a_lost_position_is_a_gap() {
    each(async |w| {
        let a = device("a");
        w.next(&a, |batch| batch.joined.push(first(messages(&["$1"])))).await;
        w.store.reset_position(&a).await.unwrap();
        assert_eq!(w.since(&a).await, None);
        w.next(&a, |batch| batch.joined.push(joined(messages(&["$8"])))).await;
        assert!(w.change(|change| change.limited));
        assert_eq!(w.timeline(&a).await, ["$8"]);
    });
}

#[test]
fn parts_of_a_first_sync_can_be_repeated() {
    each(async |w| {
        let a = device("a");
        for _ in 0..2 {
            w.next(&a, |batch| {
                batch.next_batch = None;
                batch.joined.push(first(messages(&["$1", "$2"])));
            })
            .await;
            assert_eq!(w.since(&a).await, None);
        }
        w.next(&a, |batch| batch.next_batch = Some("n".to_owned())).await;
        assert_eq!(w.since(&a).await.as_deref(), Some("n"));
        assert_eq!(w.timeline(&a).await, ["$1", "$2"]);
        assert!(w.store.device(a.clone()).await.unwrap().unwrap().has_synced);
    });
}

#[test]
fn redactions_reach_stored_coming_and_state_events() {
    each(async |w| {
        let a = device("a");
        let redaction = |id: &str, target: &str| {
            event(
                json!({"type": "m.room.redaction", "event_id": id, "sender": "@x:h", "redacts": target,
                         "content": {}}),
            )
        };
        let start = vec![message("$1"), named("$n", "Marker"), redaction("$r2", "$late")];
        w.next(&a, |batch| batch.joined.push(first(start))).await;
        assert_eq!(
            w.change(|change| change.room.summary.name.clone()).as_deref(),
            Some("Marker")
        );
        let more = vec![redaction("$r1", "$1"), redaction("$r3", "$n"), message("$late")];
        w.next(&a, |batch| batch.joined.push(joined(more))).await;
        assert_eq!(w.change(|change| change.room.summary.name.clone()), None);
        let room = w.load(&a, ROOM, |_| {}).await.unwrap();
        for event in room.timeline.iter().chain(&room.state) {
            let text = event.raw.get();
            let redacted = ["$1", "$n", "$late"].contains(&event.event_id.as_str());
            assert_eq!(text.contains("redacted_because"), redacted, "{text}");
            assert!(
                !redacted || (!text.contains("body") && !text.contains("Marker")),
                "{text}"
            );
        }
        w.change(|change| assert!(change.events.iter().any(|e| e.raw.get().contains("redacted_because"))));
    });
}

#[test]
fn old_events_go_and_leave_no_hole() {
    for base in [Some(Base::sqlite()), Base::postgres()].into_iter().flatten() {
        let mut options = base.options("s");
        options.timeline_keep = 10;
        let w = World::open(options).unwrap();
        run(async {
            let a = device("a");
            let b = device("b");
            w.next(&b, |batch| {
                batch.joined.push(first(vec![named("$n", "n"), message("$b")]))
            })
            .await;
            w.next(&a, |batch| {
                batch.joined.push(first(vec![named("$n", "n"), message("$b")]))
            })
            .await;
            for n in 0..60 {
                w.next(&a, |batch| batch.joined.push(joined(vec![message(&format!("$m{n}"))])))
                    .await;
            }
            w.store.flush().await.unwrap();
            w.store.flush().await.unwrap();
            let room = w.load(&a, ROOM, |_| {}).await.unwrap();
            assert_eq!(room.timeline.len(), 10);
            assert!(room.limited);
            assert_eq!(room.state.len(), 2);
            // Of what b was given, the message is gone, and the state before it is no timeline any more.
            assert!(w.timeline(&b).await.is_empty());
            w.store.integrity_check().await.unwrap();
        });
        w.store.close();
    }
}
