//! What must hold of a configuration whatever its bytes are, as a function of them that panics where it does
//! not. The same of HTTP is in `transom_http`.
//!
//! The tests here call it on mutations of a seed corpus and on arbitrary bytes; `tests/fuzz.sh` has libFuzzer
//! look for more. It is compiled for these two only.

#[cfg(test)]
#[path = "../../http/src/fuzz/mutations.rs"]
mod mutations;
#[cfg(test)]
mod tests;

use crate::config::{Config, Keys, Source};

/// A configuration file is read or refused, each problem with a place in it, and the same way each time.
///
/// # Panics
/// If that does not hold.
pub fn configuration(bytes: &[u8]) {
    let check = |_: &str, value: &str| match value.parse::<u32>() {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    };
    let read = || {
        let keys = Keys {
            lists: Vec::new(),
            switches: Vec::new(),
            names: vec!["connections".to_owned(), "queue-timeout".to_owned()],
            check: &check,
        };
        let name = "front.toml";
        Config::read(Some(Source { name, bytes }), &[], &keys)
    };
    let config = read();
    match &config {
        Ok(config) => {
            assert!(!config.forwards.is_empty(), "a front end that does nothing");
            assert!(config.doors().iter().all(|door| door.is_absolute()));
            // The table that `transom check` prints.
            assert!(config.rows().len() >= config.forwards.len());
        }
        Err(error) => {
            let said = error.to_string();
            assert!(
                !said.is_empty() && said.lines().all(|line| line.contains("front.toml:")),
                "{said}"
            );
        }
    }
    assert_eq!(
        config.map_err(|e| e.to_string()),
        read().map_err(|e| e.to_string())
    );
}
