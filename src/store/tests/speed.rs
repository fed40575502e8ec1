//! Figures rather than checks: run with `--ignored --nocapture`, best with `--release`.

use std::time::Instant;

use super::*;

#[test]
#[ignore = "prints figures"]
fn first_sync_and_live_events() {
    for base in [Some(Base::sqlite()), Base::postgres()].into_iter().flatten() {
        let w = World::open(base.options("s")).unwrap();
        let a = device("a");
        let mut rooms: Vec<JoinedRoom> = (0..2_000)
            .map(|room| JoinedRoom {
                room_id: RoomId::from(format!("!{room}:h")),
                state: (0..20)
                    .map(|n| {
                        state(
                            &format!("$s{room}-{n}"),
                            if n == 0 { "m.room.create" } else { "m.x" },
                            &n_key(n),
                            json!({}),
                        )
                    })
                    .collect(),
                timeline: (0..20).map(|n| message(&format!("$m{room}-{n}"))).collect(),
                limited: true,
                ..JoinedRoom::empty(RoomId::from("!"))
            })
            .collect();
        run(async {
            let started = Instant::now();
            while !rooms.is_empty() {
                let part = rooms.split_off(rooms.len().saturating_sub(100));
                let done = rooms.is_empty();
                w.next(&a, |batch| {
                    batch.joined = part;
                    batch.next_batch = done.then(|| "1".to_owned());
                })
                .await;
            }
            let rate = 80_000.0 / started.elapsed().as_secs_f64();
            eprintln!("{}: first sync {rate:.0} events/s", base.url.split(':').next().unwrap());
            let started = Instant::now();
            for n in 0..1_000 {
                w.next(&a, |batch| {
                    batch.joined.push(JoinedRoom {
                        room_id: RoomId::from(format!("!{}:h", n % 50)),
                        ..joined(vec![message(&format!("$live{n}"))])
                    });
                })
                .await;
            }
            eprintln!("live: {:?} per event, one read included", started.elapsed() / 1_000);
            let started = Instant::now();
            let snapshot = w.store.user_snapshot(a.user_id.clone()).await.unwrap();
            eprintln!("snapshot of {} rooms: {:?}", snapshot.rooms.len(), started.elapsed());
        });
        w.store.close();
    }
}

fn n_key(n: usize) -> String {
    if n == 0 { String::new() } else { n.to_string() }
}
