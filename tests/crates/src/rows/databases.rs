//! Redis and PostgreSQL: a connection per request, one in a static, a pool in a static. `run.sh` starts the
//! servers.

use crate::listing::{Rows, number, text, variable};
use postgres::{Client, NoTls};
use r2d2::Pool;
use r2d2_postgres::PostgresConnectionManager;
use redis::{Commands, ConnectionLike, RedisError};
use std::sync::{LazyLock, Mutex};
use transom::{Failure, Request};

const REDIS: &str = "REDIS_URL";
const POSTGRES: &str = "POSTGRES_URL";

static REDIS_CONNECTION: LazyLock<Mutex<redis::Connection>> = LazyLock::new(|| {
    let client = redis::Client::open(variable(REDIS)).expect("a URL");
    Mutex::new(client.get_connection().expect("Redis is there"))
});

static REDIS_POOL: LazyLock<Pool<redis::Client>> = LazyLock::new(|| {
    let client = redis::Client::open(variable(REDIS)).expect("a URL");
    Pool::builder()
        .max_size(4)
        .build(client)
        .expect("Redis is there")
});

static POSTGRES_POOL: LazyLock<Pool<PostgresConnectionManager<NoTls>>> = LazyLock::new(|| {
    let config = variable(POSTGRES).parse().expect("a URL");
    let manager = PostgresConnectionManager::new(config, NoTls);
    Pool::builder()
        .max_size(4)
        .build(manager)
        .expect("PostgreSQL is there")
});

pub fn add(rows: &mut Rows) {
    rows.get(
        "/redis/connection",
        "redis: a connection per request",
        redis_connection,
    )
    .needs(REDIS)
    .answers(|| text("value {n}"));
    rows.get(
        "/redis/static",
        "redis: a static `Mutex<Connection>`",
        redis_static,
    )
    .needs(REDIS)
    .answers(|| text("value {n}"));
    rows.get("/redis/pool", "redis: a static r2d2 pool", redis_pool)
        .needs(REDIS)
        .answers(|| text("value {n}"));
    rows.get(
        "/postgres/connection",
        "postgres: a connection per request",
        postgres_connection,
    )
    .needs(POSTGRES)
    .answers(|| text("row {n}"));
    rows.get(
        "/postgres/pool",
        "postgres: a static r2d2 pool",
        postgres_pool,
    )
    .needs(POSTGRES)
    .answers(|| text("row {n}"));
}

/// Sets a key that no other request uses at the same time, and reads it.
fn set_and_get(connection: &mut impl ConnectionLike, n: u64) -> Result<String, RedisError> {
    let key = format!("key {}", n % 1000);
    let () = connection.set(&key, format!("value {n}"))?;
    connection.get(&key)
}

fn redis_connection(request: &Request) -> Result<String, Failure> {
    let client = redis::Client::open(variable(REDIS))?;
    let mut connection = client.get_connection()?;
    Ok(set_and_get(&mut connection, number(request)?)?)
}

fn redis_static(request: &Request) -> Result<String, Failure> {
    let n = number(request)?;
    let connection = REDIS_CONNECTION.lock();
    let mut connection =
        connection.map_err(|_| Failure::internal("the connection's lock is poisoned"))?;
    Ok(set_and_get(&mut *connection, n)?)
}

fn redis_pool(request: &Request) -> Result<String, Failure> {
    let n = number(request)?;
    let mut connection = REDIS_POOL.get()?;
    Ok(set_and_get(&mut *connection, n)?)
}

fn select(client: &mut Client, n: u64) -> Result<String, postgres::Error> {
    let row = client.query_one("SELECT 'row ' || $1::bigint", &[&(n as i64)])?;
    row.try_get(0)
}

fn postgres_connection(request: &Request) -> Result<String, Failure> {
    let mut client = Client::connect(&variable(POSTGRES), NoTls)?;
    Ok(select(&mut client, number(request)?)?)
}

fn postgres_pool(request: &Request) -> Result<String, Failure> {
    let n = number(request)?;
    Ok(select(&mut *POSTGRES_POOL.get()?, n)?)
}
