//! The routes, by what they are about. The order is that of the table.

mod channels;
mod collections;
mod compression;
mod logs;
mod random;
mod standard;
mod text;
mod times;

#[cfg(feature = "heavy")]
mod caches;
#[cfg(feature = "heavy")]
mod databases;
#[cfg(feature = "heavy")]
mod errors;
#[cfg(feature = "heavy")]
mod pictures;
#[cfg(feature = "heavy")]
mod runtimes;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(feature = "heavy")]
mod templates;
#[cfg(feature = "heavy")]
mod upstream;

use crate::listing::Rows;

/// Adds all that this server is built with.
pub fn add(rows: &mut Rows) {
    random::add(rows);
    times::add(rows);
    text::add(rows);
    #[cfg(feature = "heavy")]
    templates::add(rows);
    compression::add(rows);
    #[cfg(feature = "heavy")]
    pictures::add(rows);
    #[cfg(feature = "sqlite")]
    sqlite::add(rows);
    #[cfg(feature = "heavy")]
    databases::add(rows);
    #[cfg(feature = "heavy")]
    upstream::add(rows);
    #[cfg(feature = "heavy")]
    runtimes::add(rows);
    channels::add(rows);
    #[cfg(feature = "heavy")]
    caches::add(rows);
    collections::add(rows);
    #[cfg(feature = "heavy")]
    errors::add(rows);
    logs::add(rows);
    standard::add(rows);
}
