//! A fresh database for each test, on either dialect.

use diesel::prelude::*;

/// Where a test's server keeps its data. Removed on drop.
pub enum Database {
    Sqlite(tempfile::TempDir),
    Postgres { admin: String, name: String },
}

impl Database {
    pub fn sqlite() -> Self {
        Database::Sqlite(tempfile::tempdir().unwrap())
    }

    /// `None`, with a note, when no Postgres is configured.
    pub fn postgres() -> Option<Self> {
        let Some(admin) = std::env::var_os("TEST_POSTGRES_URL") else {
            eprintln!("TEST_POSTGRES_URL is not set: the Postgres half of this test is skipped");
            return None;
        };
        let admin = admin.into_string().unwrap();
        let name = format!("it_{:016x}", rand::random::<u64>());
        let mut connection = PgConnection::establish(&admin).unwrap();
        diesel::sql_query(format!("CREATE DATABASE {name}"))
            .execute(&mut connection)
            .unwrap();
        Some(Database::Postgres { admin, name })
    }

    /// The value for `SYNCV3_DB`.
    pub fn url(&self) -> String {
        match self {
            Database::Sqlite(dir) => dir.path().join("syncv3.db").to_str().unwrap().to_owned(),
            Database::Postgres { admin, name } => {
                let (base, _) = admin.rsplit_once('/').unwrap();
                format!("{base}/{name}")
            }
        }
    }

    pub fn is_postgres(&self) -> bool {
        matches!(self, Database::Postgres { .. })
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if let Database::Postgres { admin, name } = self
            && let Ok(mut connection) = PgConnection::establish(admin)
        {
            let _ = diesel::sql_query(format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).execute(&mut connection);
        }
    }
}
