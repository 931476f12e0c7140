//! Which doorway a request goes to: by the longest prefix of its path, and by its method where a route names
//! one.
//!
//! A table is only read once it is made. Paths are matched as the application will see them: decoded,
//! and with their dot segments resolved.

use std::sync::{Mutex, PoisonError};

/// The longest `Allow` list: what fits the front end's own answers beside everything else.
const ALLOW_MAX: usize = 256;

/// What a route is for, and where it leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The one method that it takes; `None`: all.
    pub method: Option<String>,
    /// Begins with `/`. It matches at the borders of segments: `/a` is a prefix of `/a/b`, not of `/ab`.
    pub prefix: String,
    /// The doorway, by its place in the loop's list.
    pub doorway: u16,
}

/// What a table says of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Match {
    Doorway(u16),
    /// The path has routes, but for other methods: these. `None`: more than an answer can list.
    OtherMethod(Option<&'static str>),
    Nothing,
}

/// The routes of one forward.
#[derive(Debug)]
pub struct RouteTable {
    routes: Box<[Route]>,
    /// By route: the methods that are taken where it is the longest match. Answers refer to them, and each
    /// list is kept for ever, once.
    allow: Box<[Option<&'static str>]>,
    only: Option<u16>,
}

impl RouteTable {
    /// A table. Of two routes with one method and one prefix the first one counts.
    pub fn new(routes: Vec<Route>) -> Self {
        let only = match &routes[..] {
            [only] if only.method.is_none() && only.prefix == "/" => Some(only.doorway),
            _ => None,
        };
        RouteTable {
            allow: routes
                .iter()
                .map(|route| allowed(&routes, &route.prefix))
                .collect(),
            routes: routes.into_boxed_slice(),
            only,
        }
    }

    /// A table that sends everything to one doorway.
    pub fn everything_to(doorway: u16) -> Self {
        RouteTable::new(vec![Route {
            method: None,
            prefix: "/".to_owned(),
            doorway,
        }])
    }

    /// The doorway of every request, if it is the same for all: then it is known before a request has been
    /// read.
    pub(crate) fn only(&self) -> Option<u16> {
        self.only
    }

    /// The route of a request: of those that take its method the one with the longest prefix, and of two such
    /// the one that names the method. A HEAD goes where the GET would go, unless a route names it.
    pub(crate) fn find(&self, method: &str, path: &[u8]) -> Match {
        let mut best: Option<((usize, u8), u16)> = None;
        let mut other: Option<(usize, Option<&'static str>)> = None;
        for (route, allow) in self.routes.iter().zip(&self.allow) {
            if !is_prefix(&route.prefix, path) {
                continue;
            }
            let len = route.prefix.len();
            let precision = match route.method.as_deref() {
                Some(named) if named == method => 2,
                Some("GET") if method == "HEAD" => 1,
                None => 0,
                Some(_) => {
                    if other.is_none_or(|(longest, _)| longest < len) {
                        other = Some((len, *allow));
                    }
                    continue;
                }
            };
            if best.is_none_or(|(longest, _)| longest < (len, precision)) {
                best = Some(((len, precision), route.doorway));
            }
        }
        match (best, other) {
            (Some((_, doorway)), _) => Match::Doorway(doorway),
            (None, Some((_, allow))) => Match::OtherMethod(allow),
            (None, None) => Match::Nothing,
        }
    }
}

fn is_prefix(prefix: &str, path: &[u8]) -> bool {
    path.strip_prefix(prefix.as_bytes())
        .is_some_and(|rest| prefix.ends_with('/') || matches!(rest, [] | [b'/', ..]))
}

/// The methods that a path takes of which `prefix` is the longest match.
fn allowed(routes: &[Route], prefix: &str) -> Option<&'static str> {
    let mut methods: Vec<&str> = Vec::new();
    let named = routes
        .iter()
        .filter(|route| is_prefix(&route.prefix, prefix.as_bytes()))
        .filter_map(|route| route.method.as_deref());
    for method in named {
        let implied = (method == "GET").then_some("HEAD");
        for method in std::iter::once(method).chain(implied) {
            if !methods.contains(&method) {
                methods.push(method);
            }
        }
    }
    let list = methods.join(", ");
    (list.len() <= ALLOW_MAX).then(|| for_ever(list))
}

/// A list of methods that is never freed. Tables are made again and again, and have the same lists.
fn for_ever(list: String) -> &'static str {
    static LISTS: Mutex<Vec<&'static str>> = Mutex::new(Vec::new());
    let mut lists = LISTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = lists.iter().find(|known| **known == list) {
        return known;
    }
    let list: &'static str = Box::leak(list.into_boxed_str());
    lists.push(list);
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(routes: &[(&str, &str)]) -> RouteTable {
        RouteTable::new(
            (0..)
                .zip(routes)
                .map(|(doorway, (method, prefix))| Route {
                    method: Some((*method).to_owned()).filter(|method| method != "*"),
                    prefix: (*prefix).to_owned(),
                    doorway,
                })
                .collect(),
        )
    }

    #[test]
    fn prefixes_match_at_the_borders_of_segments() {
        let table = table(&[("*", "/primes"), ("*", "/a/b/"), ("*", "/sp ace")]);
        for (path, doorway) in [
            ("/primes", Some(0)),
            ("/primes/", Some(0)),
            ("/primes/7", Some(0)),
            ("/primesieve", None),
            ("/prime", None),
            ("/", None),
            ("/x/primes", None),
            ("/Primes", None),
            ("//primes", None),
            ("/a/b/", Some(1)),
            ("/a/b/c", Some(1)),
            ("/a/b", None),
            ("/a/bc", None),
            ("/sp ace/x", Some(2)),
            ("", None),
        ] {
            let expected = doorway.map_or(Match::Nothing, Match::Doorway);
            assert_eq!(table.find("GET", path.as_bytes()), expected, "{path}");
        }
        assert_eq!(
            table.find("GET", b"/primes/\xff\x00"),
            Match::Doorway(0),
            "a path is bytes"
        );
    }

    #[test]
    fn the_longest_prefix_wins_and_then_the_one_that_names_the_method() {
        let routes = [
            ("*", "/"),
            ("*", "/a"),
            ("GET", "/a"),
            ("POST", "/a/b"),
            ("HEAD", "/h"),
            ("GET", "/h"),
        ];
        type Row = (&'static str, &'static str);
        let find = |routes: &[Row], method: &str, path: &str| -> Option<Row> {
            match table(routes).find(method, path.as_bytes()) {
                Match::Doorway(doorway) => Some(routes[usize::from(doorway)]),
                Match::OtherMethod(_) | Match::Nothing => None,
            }
        };
        let reversed: Vec<_> = routes.iter().rev().copied().collect();
        for (method, path, expected) in [
            ("GET", "/x", ("*", "/")),
            ("GET", "/a", ("GET", "/a")),
            ("HEAD", "/a/x", ("GET", "/a")),
            ("POST", "/a/x", ("*", "/a")),
            ("POST", "/a/b", ("POST", "/a/b")),
            ("GET", "/a/b/c", ("GET", "/a")),
            ("PUT", "/a/b", ("*", "/a")),
            ("BREW", "/", ("*", "/")),
            ("HEAD", "/h", ("HEAD", "/h")),
            ("GET", "/h", ("GET", "/h")),
            ("get", "/h", ("*", "/")),
        ] {
            assert_eq!(find(&routes, method, path), Some(expected), "{path}");
            assert_eq!(find(&reversed, method, path), Some(expected), "{path}");
        }
    }

    #[test]
    fn a_path_that_has_only_other_methods_says_which() {
        let table = table(&[
            ("GET", "/a"),
            ("POST", "/a"),
            ("PUT", "/a/b"),
            ("GET", "/a/b"),
            ("DELETE", "/c"),
        ]);
        for (method, path, expected) in [
            ("PUT", "/a", Match::OtherMethod(Some("GET, HEAD, POST"))),
            ("PUT", "/a/x", Match::OtherMethod(Some("GET, HEAD, POST"))),
            (
                "BREW",
                "/a/b",
                Match::OtherMethod(Some("GET, HEAD, POST, PUT")),
            ),
            ("GET", "/c", Match::OtherMethod(Some("DELETE"))),
            ("GET", "/d", Match::Nothing),
        ] {
            assert_eq!(table.find(method, path.as_bytes()), expected, "{path}");
        }
        let method = "X".repeat(32);
        let many: Vec<_> = (0..8).map(|n| format!("{n}{}", &method[1..])).collect();
        let many: Vec<_> = many.iter().map(|method| (&**method, "/")).collect();
        assert_eq!(
            self::table(&many).find("GET", b"/"),
            Match::OtherMethod(None),
            "the list fits no answer"
        );
    }

    #[test]
    fn only_one_route_for_everything_is_known_before_the_request() {
        assert_eq!(RouteTable::everything_to(3).only(), Some(3));
        assert_eq!(table(&[("*", "/")]).only(), Some(0));
        for routes in [
            &[("GET", "/")][..],
            &[("*", "/a")],
            &[("*", "/"), ("*", "/a")],
            &[],
        ] {
            assert_eq!(table(routes).only(), None, "{routes:?}");
        }
    }
}
