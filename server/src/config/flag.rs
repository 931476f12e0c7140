//! `--forward http://127.0.0.1:8080/prefix=/run/hello.door`.

use super::draft::{Draft, DraftRoute, Drafts, Located};
use super::problem::{Place, Problem};

/// Parts a prefix from an address that begins there. The path of a Unix socket ends with a colon, as nginx
/// has it: `http://unix:/run/hello.sock:/prefix`.
fn split_path(source: &str, address_from: usize) -> (&str, &str) {
    if let Some(socket) = source[address_from..].strip_prefix("unix:") {
        return match socket.split_once(":/") {
            Some((path, _)) => {
                let (listen, prefix) = source.split_at(address_from + "unix:".len() + path.len());
                (listen, &prefix[1..])
            }
            None => (source, ""),
        };
    }
    let path_from = source[address_from..]
        .find('/')
        .map_or(source.len(), |at| address_from + at);
    source.split_at(path_from)
}

/// Reads the values of the flags. Those of one HTTP address are routes of one forward.
pub(super) fn read(flags: &[String], drafts: &mut Drafts) {
    let mut forwards: Vec<Draft> = Vec::new();
    for text in flags {
        let place = Place::Flag(format!("--forward {text}"));
        let Some((source, door)) = text.split_once('=') else {
            drafts.problems.push(Problem {
                place,
                what: "it needs an address, `=` and a door, as in http://127.0.0.1:8080=/run/hello.door"
                    .to_owned(),
            });
            continue;
        };
        let here = |value: &str| Located {
            value: value.to_owned(),
            place: place.clone(),
        };
        let address_from = source.find("://").map_or(0, |at| at + "://".len());
        let (listen, path) = split_path(source, address_from);
        let mut draft = Draft {
            place: place.clone(),
            listen: here(listen),
            door: None,
            owner: None,
            routes: Vec::new(),
        };
        if listen.starts_with("http://") {
            let route = DraftRoute {
                place: place.clone(),
                method: None,
                path: here(if path.is_empty() { "/" } else { path }),
                door: here(door),
                owner: None,
            };
            let same = forwards
                .iter_mut()
                .find(|forward| forward.listen.value == listen);
            if let Some(forward) = same {
                forward.routes.push(route);
                continue;
            }
            draft.routes.push(route);
        } else {
            // A path is no part of other addresses, and refused with them.
            draft.listen = here(source);
            draft.door = Some(here(door));
        }
        forwards.push(draft);
    }
    drafts.forwards.append(&mut forwards);
}
