use super::*;
use crate::model::batch::{KeyRequest, ToDeviceMessage};
use crate::model::load::ToDevicePlan;

fn to_device(n: usize) -> ToDeviceMessage {
    ToDeviceMessage {
        raw: raw(&json!({"n": n})),
        key_request: None,
    }
}

fn key_request(n: usize, cancels: bool) -> ToDeviceMessage {
    ToDeviceMessage {
        key_request: Some(KeyRequest {
            key: "k".to_owned(),
            cancels,
        }),
        ..to_device(n)
    }
}

async fn queue(w: &World, device: &DeviceKey) -> Vec<(i64, String)> {
    let mut wanted = plan(device);
    wanted.to_device = Some(ToDevicePlan { after: 0, limit: 100 });
    let loaded = w.store.load(wanted).await.unwrap();
    loaded
        .to_device
        .into_iter()
        .map(|(seq, raw)| (seq, raw.get().to_owned()))
        .collect()
}

#[test]
fn a_batch_from_an_old_position_leaves_no_trace() {
    each(async |w| {
        let a = device("a");
        w.next(&a, |batch| batch.to_device.push(to_device(1))).await;
        let heard = w.heard.lock().unwrap().len();
        let mut stale = Batch::empty(a.clone(), None);
        stale.next_batch = Some("other".to_owned());
        stale.to_device.push(to_device(1));
        stale.joined.push(first(messages(&["$1"])));
        let got = w.store.ingest(stale).await.unwrap();
        assert_eq!(got.outcome, Outcome::Superseded);
        assert_eq!(w.heard.lock().unwrap().len(), heard);
        assert_eq!(queue(w, &a).await.len(), 1);
        assert!(w.timeline(&a).await.is_empty());
    });
}

#[test]
fn to_device_messages_stay_until_acknowledged() {
    each(async |w| {
        let a = device("a");
        w.next(&a, |batch| batch.to_device = (0..5).map(to_device).collect())
            .await;
        let messages = queue(w, &a).await;
        assert_eq!(messages.len(), 5);
        assert_eq!(messages, queue(w, &a).await);
        assert!(messages.windows(2).all(|pair| pair[0].0 < pair[1].0));
        w.store.acknowledge_to_device(&a, messages[2].0).await.unwrap();
        assert_eq!(queue(w, &a).await, messages[3..]);
        w.store.acknowledge_to_device(&a, i64::MAX).await.unwrap();
        w.next(&a, |batch| batch.to_device.push(to_device(9))).await;
        let again = queue(w, &a).await;
        assert!(again[0].0 > messages[4].0);
        let change = w.last().user.as_ref().unwrap().device_change.clone().unwrap();
        assert_eq!(change.to_device_seq, again[0].0);
    });
}

#[test]
fn a_request_taken_back_before_it_was_sent_is_gone() {
    each(async |w| {
        let a = device("a");
        w.next(&a, |batch| batch.to_device = vec![key_request(1, false), to_device(2)])
            .await;
        w.next(&a, |batch| batch.to_device.push(key_request(3, true))).await;
        assert_eq!(queue(w, &a).await.len(), 1);
        w.next(&a, |batch| batch.to_device.push(key_request(4, false))).await;
        assert_eq!(queue(w, &a).await.len(), 2);
        // Sent by now: the client has to be told.
        w.next(&a, |batch| batch.to_device.push(key_request(5, true))).await;
        assert_eq!(queue(w, &a).await.len(), 3);
    });
}

#[test]
fn of_device_list_changes_the_last_counts() {
    each(async |w| {
        let a = device("a");
        w.next(&a, |batch| {
            batch.device_lists_changed = vec!["@b:h".into(), "@c:h".into()];
            batch.device_lists_left = vec!["@b:h".into()];
        })
        .await;
        let mut wanted = plan(&a);
        wanted.device_lists = Some(10);
        let got = w.store.load(wanted.clone()).await.unwrap();
        let mut users = got.device_lists.clone();
        users.sort();
        assert_eq!(users, [("@b:h".into(), true), ("@c:h".into(), false)]);
        w.next(&a, |batch| batch.device_lists_changed = vec!["@b:h".into()])
            .await;
        w.store
            .acknowledge_device_lists(&a, got.device_lists_seq)
            .await
            .unwrap();
        let got = w.store.load(wanted).await.unwrap();
        assert_eq!(got.device_lists, [("@b:h".into(), false)]);
    });
}

#[test]
fn absent_empty_and_zero_keys_are_different() {
    each(async |w| {
        let a = device("a");
        w.next(&a, |_| {}).await;
        let facts = async || {
            w.store
                .user_snapshot(a.user_id.clone())
                .await
                .unwrap()
                .devices
                .remove(0)
        };
        assert_eq!(facts().await.one_time_keys, None);
        assert_eq!(facts().await.fallback_types, None);
        w.next(&a, |batch| {
            batch.one_time_keys = Some([("x".to_owned(), 0)].into());
            batch.fallback_types = Some(Vec::new());
        })
        .await;
        w.next(&a, |_| {}).await;
        assert!(w.last().user.as_ref().unwrap().device_change.is_none());
        assert_eq!(facts().await.one_time_keys.unwrap()["x"], 0);
        assert_eq!(facts().await.fallback_types.unwrap().len(), 0);
    });
}

#[test]
fn transaction_ids_are_for_their_device() {
    each(async |w| {
        let (a, b) = (device("a"), device("b"));
        let sent = event(
            json!({"type": "m.room.message", "event_id": "$t", "sender": "@a:h", "content": {},
                                "unsigned": {"transaction_id": "txn"}}),
        );
        w.next(&a, |batch| batch.joined.push(first(vec![sent]))).await;
        assert_eq!(w.change(|change| change.transaction_ids["$t"].clone()), "txn");
        w.next(&b, |batch| batch.joined.push(first(messages(&["$t"])))).await;
        assert_eq!(w.load(&a, ROOM, |_| {}).await.unwrap().transaction_ids["$t"], "txn");
        let other = w.load(&b, ROOM, |_| {}).await.unwrap();
        assert!(other.transaction_ids.is_empty());
        assert!(!other.timeline[0].raw.get().contains("txn"));
    });
}

#[test]
fn a_job_that_panics_leaves_the_store_working() {
    each(async |w| {
        let a = device("a");
        let key = a.clone();
        let got = w
            .store
            .write(move |c, memory| {
                memory.device_or_new(c, &key, 0)?;
                panic!("on purpose");
            })
            .await;
        assert!(matches!(got, Err(Error::Panicked)));
        assert!(w.store.device(a.clone()).await.unwrap().is_none());
        w.next(&a, |batch| batch.joined.push(first(messages(&["$1"])))).await;
        assert_eq!(w.timeline(&a).await, ["$1"]);
        let read: Result<(), Error> = w.store.read(|_| panic!("on purpose")).await;
        assert!(matches!(read, Err(Error::Panicked)));
        assert_eq!(w.timeline(&a).await, ["$1"]);
    });
}

#[test]
fn commits_are_heard_in_position_order() {
    each(async |w| {
        let stores: Vec<_> = (0..50)
            .map(|n| {
                let mut batch = Batch::empty(device(&format!("u{n}")), None);
                batch.next_batch = Some("1".to_owned());
                batch.joined.push(first(vec![message(&format!("$m{n}"))]));
                w.store.ingest(batch)
            })
            .collect();
        futures_util::future::join_all(stores).await;
        let heard: Vec<i64> = w.heard.lock().unwrap().iter().map(|commit| commit.position.0).collect();
        assert_eq!(heard, (1..=50).collect::<Vec<i64>>());
        assert!(w.clock.now() > 0);
    });
}
