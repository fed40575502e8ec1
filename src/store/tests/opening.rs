use secrecy::ExposeSecret;

use super::*;
use crate::store::connection::{Connection, Target};
use crate::store::schema::tokens;

fn bases() -> impl Iterator<Item = Base> {
    [Some(Base::sqlite()), Base::postgres()].into_iter().flatten()
}

fn refused(options: StoreOptions) -> Error {
    World::open(options).err().unwrap()
}

#[test]
fn addresses_mean_what_they_say() {
    let sqlite = |path: &str| Target::Sqlite(path.into());
    let postgres = |url: &str| Target::Postgres(url.to_owned());
    assert_eq!(Target::parse("sqlite://a/b.db").unwrap(), sqlite("a/b.db"));
    assert_eq!(Target::parse("/var/x.db").unwrap(), sqlite("/var/x.db"));
    assert_eq!(Target::parse("postgres://h/d").unwrap(), postgres("postgres://h/d"));
    assert_eq!(Target::parse("user=x dbname=y").unwrap(), postgres("user=x dbname=y"));
    for url in ["mysql://h/d", "", "sqlite://"] {
        assert!(matches!(Target::parse(url), Err(Error::UnsupportedUrl)), "{url}");
    }
}

#[test]
fn a_second_process_is_refused() {
    for base in bases() {
        let w = World::open(base.options("s")).unwrap();
        assert!(matches!(refused(base.options("s")), Error::InUse));
        let epoch = w.store.epoch().to_owned();
        w.store.close();
        let w = World::open(base.options("s")).unwrap();
        assert_eq!(w.store.epoch(), epoch);
        w.store.close();
    }
}

#[test]
fn the_secret_is_checked_and_can_be_rotated() {
    for base in bases() {
        let (a, b) = (device("a"), device("b"));
        let token = |word: &str| SecretString::from(word.to_owned());
        let w = World::open(base.options("one")).unwrap();
        run(async {
            w.store.remember_token(&token("old"), &a).await.unwrap();
            w.store.remember_token(&token("ta"), &a).await.unwrap();
            w.store.remember_token(&token("tb"), &b).await.unwrap();
            assert_eq!(w.store.token_owner("ta").await.unwrap(), Some(a.clone()));
            assert_eq!(w.store.token_owner("old").await.unwrap(), None);
        });
        w.store.close();
        assert!(matches!(refused(base.options("two")), Error::WrongSecret));
        let mut options = base.options("two");
        options.previous_secret = Some(token("one"));
        let w = World::open(options).unwrap();
        run(async {
            assert_eq!(w.store.token_owner("ta").await.unwrap(), Some(a.clone()));
            let row = w.store.device(a.clone()).await.unwrap().unwrap();
            assert_eq!(row.token.unwrap().expose_secret(), "ta");
            // Somebody swaps two rows in the database: neither opens.
            w.store
                .write(|c, _| {
                    let rows: Vec<(String, Vec<u8>)> = with_rows(c)?;
                    for (hash, sealed) in [(&rows[0].0, &rows[1].1), (&rows[1].0, &rows[0].1)] {
                        super::super::connection::with_connection!(&mut *c, |c| diesel::update(
                            tokens::table.find(hash)
                        )
                        .set(tokens::sealed.eq(sealed))
                        .execute(c))?;
                    }
                    Ok(())
                })
                .await
                .unwrap();
            assert!(w.store.devices().await.unwrap().iter().all(|row| row.token.is_none()));
            w.store.forget_token(&b).await.unwrap();
            assert_eq!(w.store.token_owner("tb").await.unwrap(), None);
            assert_eq!(w.store.devices().await.unwrap().len(), 2);
        });
        w.store.close();
        // The old secret is no good any more.
        assert!(matches!(refused(base.options("one")), Error::WrongSecret));
    }
}

fn with_rows(c: &mut Connection) -> Result<Vec<(String, Vec<u8>)>, Error> {
    Ok(super::super::connection::with_connection!(c, |c| tokens::table
        .select((tokens::hash, tokens::sealed))
        .load(c))?)
}

#[test]
fn without_a_secret_sqlite_keeps_one_and_postgres_refuses() {
    for base in bases() {
        let mut options = base.options("");
        options.secret = None;
        if base.drop_with.is_some() {
            assert!(matches!(refused(options), Error::SecretRequired));
            continue;
        }
        World::open(options.clone()).unwrap().store.close();
        let file = base.directory.path().join("s.db.secret");
        assert_eq!(std::fs::read_to_string(&file).unwrap().len(), 64);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
        World::open(options).unwrap().store.close();
    }
}

#[test]
fn migration_trees_are_equal_and_can_be_undone() {
    use diesel::migration::{Migration, MigrationSource};
    use diesel_migrations::MigrationHarness;

    use crate::store::open::{POSTGRES, SQLITE};
    fn names<D: diesel::backend::Backend>(list: Vec<Box<dyn Migration<D>>>) -> Vec<String> {
        list.iter().map(|migration| migration.name().to_string()).collect()
    }
    let sqlite = names(MigrationSource::<diesel::sqlite::Sqlite>::migrations(&SQLITE).unwrap());
    let postgres = names(MigrationSource::<diesel::pg::Pg>::migrations(&POSTGRES).unwrap());
    assert_eq!(sqlite, postgres);
    for base in bases() {
        World::open(base.options("s")).unwrap().store.close();
        if base.drop_with.is_some() {
            let mut c = <PgConnection as diesel::Connection>::establish(&base.url).unwrap();
            c.revert_all_migrations(POSTGRES).unwrap();
        } else {
            let mut c = <SqliteConnection as diesel::Connection>::establish(&base.url).unwrap();
            c.revert_all_migrations(SQLITE).unwrap();
        }
        World::open(base.options("s")).unwrap().store.close();
    }
}

#[test]
fn everything_survives_a_restart() {
    for base in bases() {
        let a = device("a");
        let w = World::open(base.options("s")).unwrap();
        run(async {
            w.next(&a, |batch| {
                batch.joined.push(first(vec![named("$n", "n"), message("$1")]))
            })
            .await;
            w.next(&a, |batch| batch.joined.push(joined(messages(&["$2"])))).await;
        });
        let position = w.last().position;
        w.store.close();
        let w = World::open(base.options("s")).unwrap();
        run(async {
            let snapshot = w.store.user_snapshot(a.user_id.clone()).await.unwrap();
            assert_eq!(snapshot.position, position);
            assert_eq!(snapshot.rooms[0].summary.name.as_deref(), Some("n"));
            w.next(&a, |batch| batch.joined.push(joined(messages(&["$2", "$3"]))))
                .await;
            assert_eq!(w.change(|change| ids(&change.events)), ["$3"]);
            assert_eq!(w.timeline(&a).await, ["$n", "$1", "$2", "$3"]);
            assert_eq!(w.last().position.0, position.0 + 1);
            w.store.integrity_check().await.unwrap();
        });
        w.store.close();
    }
}

/// Where the victim finds its database.
const VICTIM: &str = "STORE_TEST_VICTIM";

#[test]
#[ignore = "only run by the test that kills it"]
#[expect(clippy::disallowed_methods, reason = "how the test that kills it talks to it")]
fn victim() {
    let url = std::env::var(VICTIM).unwrap();
    let mut options = Base::sqlite().options("s");
    options.url = url;
    let w = World::open(options).unwrap();
    let a = device("a");
    run(async {
        w.next(&a, |batch| batch.joined.push(first(vec![]))).await;
        for n in 0.. {
            w.next(&a, |batch| {
                batch.next_batch = Some(n.to_string());
                batch.joined.push(joined(vec![message(&format!("${n}"))]));
            })
            .await;
            eprintln!("stored {n}");
        }
    });
}

#[test]
fn a_killed_process_leaves_whole_responses() {
    use std::io::BufRead;
    let base = Base::sqlite();
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "store::tests::opening::victim"])
        .env(VICTIM, &base.url)
        .stderr(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufReader::new(child.stderr.take().unwrap()).lines();
    let told = lines
        .by_ref()
        .map(Result::unwrap)
        .filter(|line| line.starts_with("stored "))
        .nth(40)
        .unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let w = World::open(base.options("s")).unwrap();
    run(async {
        w.store.integrity_check().await.unwrap();
        let since: usize = w.since(&device("a")).await.unwrap().parse().unwrap();
        assert!(since >= told.trim_start_matches("stored ").parse::<usize>().unwrap());
        // The newest event is that of the position, neither one before nor one after.
        assert_eq!(w.timeline(&device("a")).await.last(), Some(&format!("${since}")));
    });
    w.store.close();
}
