//! SQLite, in memory: its C code allocates on its own.

use crate::listing::{Rows, number, text};
use rusqlite::{Connection, ErrorCode};
use std::sync::{LazyLock, Mutex};
use transom::{Failure, Request};

static CONNECTION: LazyLock<Mutex<Connection>> =
    LazyLock::new(|| Mutex::new(open().expect("there is memory for it")));

pub fn add(rows: &mut Rows) {
    rows.get(
        "/sqlite/connection",
        "rusqlite: a connection per request",
        connection,
    )
    .answers(|| text("customer {n}"));
    rows.get(
        "/sqlite/static",
        "rusqlite: a static `Mutex<Connection>`",
        with_static,
    )
    .answers(|| text("customer {n}"));
    rows.get(
        "/sqlite/too-large",
        "rusqlite: 200 MB into a connection per request, which gets no memory: `SQLITE_NOMEM`",
        too_large,
    )
    .answers(|| text("out of memory, with {n}"));
    #[cfg(feature = "heavy")]
    rows.get("/sqlite/pool", "r2d2_sqlite: a static pool", pool::pooled)
        .answers(|| text("customer {n}"));
}

fn open() -> rusqlite::Result<Connection> {
    let connection = Connection::open_in_memory()?;
    connection.execute(CREATE, ())?;
    Ok(connection)
}

const CREATE: &str =
    "CREATE TABLE IF NOT EXISTS customers (id INTEGER PRIMARY KEY, name TEXT NOT NULL)";

/// There are never more than 100 rows.
fn insert_and_select(connection: &Connection, n: u64) -> rusqlite::Result<String> {
    let (id, name) = ((n % 100) as i64, format!("customer {n}"));
    let mut insert =
        connection.prepare_cached("INSERT OR REPLACE INTO customers VALUES (?1, ?2)")?;
    insert.execute((id, name))?;
    let mut select = connection.prepare_cached("SELECT name FROM customers WHERE id = ?1")?;
    select.query_row([id], |row| row.get(0))
}

fn connection(request: &Request) -> Result<String, Failure> {
    Ok(insert_and_select(&open()?, number(request)?)?)
}

fn with_static(request: &Request) -> Result<String, Failure> {
    let n = number(request)?;
    let connection = CONNECTION
        .lock()
        .map_err(|_| Failure::internal("the connection's lock is poisoned"))?;
    Ok(insert_and_select(&connection, n)?)
}

/// The 200 MB do not fit the C heap, of which a request may have 4 MiB; what it had is free again afterwards.
fn too_large(request: &Request) -> Result<String, Failure> {
    let n = number(request)?;
    let connection = open()?;
    let mut insert =
        connection.prepare("INSERT INTO customers (name) VALUES (zeroblob(500000))")?;
    for _ in 0..400 {
        match insert.execute(()) {
            Ok(_) => {}
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::OutOfMemory) => {
                return Ok(format!("out of memory, with {n}"));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(format!("200 MB for {n}"))
}

#[cfg(feature = "heavy")]
mod pool {
    use super::{CREATE, insert_and_select, number};
    use r2d2::Pool;
    use r2d2_sqlite::SqliteConnectionManager;
    use std::sync::LazyLock;
    use transom::{Failure, Request};

    /// Each connection has a database of its own.
    static POOL: LazyLock<Pool<SqliteConnectionManager>> = LazyLock::new(|| {
        let manager = SqliteConnectionManager::file(":memory:")
            .with_init(|connection| connection.execute(CREATE, ()).map(|_| ()));
        Pool::builder()
            .max_size(4)
            .build(manager)
            .expect("connections can be opened")
    });

    pub fn pooled(request: &Request) -> Result<String, Failure> {
        let n = number(request)?;
        Ok(insert_and_select(&*POOL.get()?, n)?)
    }
}
