//! The file. Values are read by `serde`; keys are compared with the known ones before that, so that a wrong
//! one is told together with the one that was meant, and all wrong ones at once.

use super::draft::{Draft, DraftRoute, Drafts, Located};
use super::keys::{Keys, Source};
use super::meaning::Setting;
use super::nearest::nearest;
use super::problem::{Place, Problem};
use serde::Deserialize;
use std::ops::Range;
use std::sync::Arc;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

const FORWARD_KEYS: [&str; 4] = ["listen", "door", "owner", "map"];
const ROUTE_KEYS: [&str; 4] = ["method", "path", "door", "owner"];

#[derive(Deserialize)]
#[serde(expecting = "a table with `listen` and `door` or `map`")]
struct FileForward {
    listen: Spanned<String>,
    door: Option<Spanned<String>>,
    owner: Option<Spanned<String>>,
    #[serde(default)]
    map: Vec<Spanned<FileRoute>>,
}

#[derive(Deserialize)]
#[serde(expecting = "a table with `path` and `door`")]
struct FileRoute {
    method: Option<Spanned<String>>,
    path: Spanned<String>,
    door: Spanned<String>,
    owner: Option<Spanned<String>>,
}

/// Turns offsets into places.
struct Text<'t> {
    name: Arc<str>,
    text: &'t str,
}

impl Text<'_> {
    fn place(&self, span: &Range<usize>) -> Place {
        place(&self.name, self.text.as_bytes(), span.start)
    }

    fn problem(&self, span: &Range<usize>, what: impl Into<String>) -> Problem {
        Problem {
            place: self.place(span),
            what: what.into(),
        }
    }

    fn error(&self, error: &toml::de::Error, otherwise: &Range<usize>) -> Problem {
        let span = error.span().unwrap_or(otherwise.clone());
        self.problem(&span, error.message().replace('\n', "; "))
    }

    fn located(&self, value: Spanned<String>) -> Located {
        Located {
            place: self.place(&value.span()),
            value: value.into_inner(),
        }
    }
}

fn place(name: &Arc<str>, bytes: &[u8], offset: usize) -> Place {
    let before = &bytes[..offset.min(bytes.len())];
    let line_from = before
        .iter()
        .rposition(|&b| b == b'\n')
        .map_or(0, |n| n + 1);
    Place::File {
        name: name.clone(),
        line: 1 + before.iter().filter(|&&b| b == b'\n').count(),
        column: 1 + String::from_utf8_lossy(&before[line_from..])
            .chars()
            .count(),
    }
}

/// Reads a file.
pub(super) fn read(source: Source<'_>, keys: &Keys<'_>, drafts: &mut Drafts) {
    let name: Arc<str> = source.name.into();
    let text = match std::str::from_utf8(source.bytes) {
        Ok(text) => text,
        Err(error) => {
            drafts.problems.push(Problem {
                place: place(&name, source.bytes, error.valid_up_to()),
                what: "this byte is not UTF-8, as TOML must be".to_owned(),
            });
            return;
        }
    };
    let text = Text { name, text };
    let table = match DeTable::parse(text.text) {
        Ok(table) => table.into_inner(),
        Err(error) => {
            drafts.problems.push(text.error(&error, &(0..0)));
            return;
        }
    };
    for (key, value) in table {
        match key.get_ref().as_ref() {
            "forward" => forwards(&text, value, drafts),
            name if keys.names.iter().any(|known| known == name) => {
                match setting(&text, name, &value, keys) {
                    Ok(setting) => drafts.settings.push(setting),
                    Err(problem) => drafts.problems.push(problem),
                }
            }
            name => {
                let known = keys.names.iter().map(String::as_str);
                let what = unknown_key(
                    name,
                    known.chain(["forward"]),
                    "beside [[forward]], a file has flags of `transom serve` as keys, above it",
                );
                drafts.problems.push(text.problem(&key.span(), what));
            }
        }
    }
}

fn unknown_key<'k>(name: &str, known: impl Iterator<Item = &'k str>, otherwise: &str) -> String {
    let name = name.escape_debug();
    match nearest(&name.to_string(), known) {
        Some(meant) => format!("unknown key `{name}`; did you mean `{meant}`?"),
        None => format!("unknown key `{name}`; {otherwise}"),
    }
}

/// A value as it would stand behind a flag.
fn word(text: &Text<'_>, name: &str, value: &Spanned<DeValue<'_>>) -> Result<String, Problem> {
    let what = match value.get_ref() {
        DeValue::String(string) => return Ok(string.as_ref().to_owned()),
        DeValue::Integer(integer) if integer.radix() == 10 => {
            return Ok(integer.as_str().to_owned());
        }
        DeValue::Integer(_) => "an integer of another base".to_owned(),
        DeValue::Array(_) => "an array".to_owned(),
        other => format!("a {}", other.type_str()),
    };
    let what = format!("`{name}` is a whole number, or text as behind --{name}; not {what}");
    Err(text.problem(&value.span(), what))
}

/// A flag of the front end.
fn setting(
    text: &Text<'_>,
    name: &str,
    value: &Spanned<DeValue<'_>>,
    keys: &Keys<'_>,
) -> Result<Setting, Problem> {
    let is_list = keys.lists.iter().any(|list| list == name);
    let written = match value.get_ref() {
        DeValue::Array(values) if is_list => {
            let words = values.iter().map(|value| word(text, name, value));
            let words = words.collect::<Result<Vec<_>, _>>()?;
            if words.is_empty() {
                let what = format!("`{name}` is an empty list: leave it out");
                return Err(text.problem(&value.span(), what));
            }
            words.join(",")
        }
        DeValue::Array(_) => {
            let what = format!("`{name}` has one value, not a list of them");
            return Err(text.problem(&value.span(), what));
        }
        DeValue::Boolean(value) if keys.switches.iter().any(|switch| switch == name) => {
            value.to_string()
        }
        _ => word(text, name, value)?,
    };
    (keys.check)(name, &written)
        .map_err(|why| text.problem(&value.span(), format!("`{name}`: {why}")))?;
    Ok(Setting {
        name: name.to_owned(),
        value: written,
        place: text.place(&value.span()),
    })
}

fn forwards(text: &Text<'_>, value: Spanned<DeValue<'_>>, drafts: &mut Drafts) {
    let span = value.span();
    let DeValue::Array(forwards) = value.into_inner() else {
        let what = "there can be several forwards: write [[forward]], with two brackets";
        drafts.problems.push(text.problem(&span, what));
        return;
    };
    for forward in forwards {
        let span = forward.span();
        let before = drafts.problems.len();
        check_keys(text, &forward, &mut drafts.problems);
        // A misspelt key is missing as well; that need not be said too.
        if drafts.problems.len() != before {
            continue;
        }
        match FileForward::deserialize(ValueDeserializer::from(forward)) {
            Ok(forward) => drafts.forwards.push(draft(text, &span, forward)),
            Err(error) => drafts.problems.push(text.error(&error, &span)),
        }
    }
}

/// Tells of every key of a forward, and of its map, that there is not.
fn check_keys(text: &Text<'_>, forward: &Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) {
    let Some(table) = forward.get_ref().as_table() else {
        return; // which serde refuses
    };
    let mut check = |table: &DeTable<'_>, known: [&str; 4], otherwise| {
        for key in table.keys() {
            let name = key.get_ref().as_ref();
            if !known.contains(&name) {
                let what = unknown_key(name, known.into_iter(), otherwise);
                problems.push(text.problem(&key.span(), what));
            }
        }
    };
    check(
        table,
        FORWARD_KEYS,
        "a forward has `listen`, `door` or `map` and, if need be, `owner`",
    );
    let Some((_, map)) = table.iter().find(|(key, _)| key.get_ref() == "map") else {
        return;
    };
    match map.get_ref().as_array() {
        Some(routes) => {
            for route in routes.iter().filter_map(|route| route.get_ref().as_table()) {
                check(
                    route,
                    ROUTE_KEYS,
                    "a map has `path`, `door` and, if need be, `method` and `owner`",
                );
            }
        }
        None => {
            let what = "a map has several entries: write [[forward.map]], with two brackets";
            problems.push(text.problem(&map.span(), what));
        }
    }
}

fn draft(text: &Text<'_>, span: &Range<usize>, forward: FileForward) -> Draft {
    Draft {
        place: text.place(span),
        listen: text.located(forward.listen),
        door: forward.door.map(|door| text.located(door)),
        owner: forward.owner.map(|owner| text.located(owner)),
        routes: forward
            .map
            .into_iter()
            .map(|route| {
                let place = text.place(&route.span());
                let route = route.into_inner();
                DraftRoute {
                    place,
                    method: route.method.map(|method| text.located(method)),
                    path: text.located(route.path),
                    door: text.located(route.door),
                    owner: route.owner.map(|owner| text.located(owner)),
                }
            })
            .collect(),
    }
}
