//! The answers on a connection, one after the other: what a client knows of them.

use transom_http::answer::{Part, Reader};

/// An answer, as a client reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Heard {
    pub status: u16,
    /// Names in lower case.
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// It promises that the connection stays open.
    pub keeps: bool,
    /// It ends where the connection does.
    pub until_close: bool,
    /// Where it begins and ends in what was read.
    pub from: usize,
    pub to: usize,
    /// Nothing of it is missing.
    pub is_whole: bool,
}

impl Heard {
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        let mut all = self.fields.iter().filter(|(known, _)| known == name);
        let first = all.next();
        assert!(all.next().is_none(), "two fields {name}");
        first.map(|(_, value)| value.as_str())
    }

    /// Whose answer it is, if an application has made it.
    pub(super) fn id(&self) -> Option<usize> {
        self.field("x-id").map(|id| id.parse().expect("a number"))
    }
}

/// The answer at the beginning of `bytes`, which may have come in part; `None` if not even its head is there.
/// At the end of the connection nothing more comes.
fn read(bytes: &[u8], head_only: bool, ended: bool) -> Result<Option<Heard>, String> {
    let mut reader = Reader::strict();
    reader.expect(head_only);
    let (mut rest, mut head, mut body) = (bytes, Vec::new(), Vec::new());
    let whole = reader.read(&mut rest, &mut |part| match part {
        Part::Head(part) => head.extend_from_slice(part),
        Part::Body(part) => body.extend_from_slice(part),
    });
    let whole =
        whole.map_err(|garbled| format!("{garbled}: {:?}", String::from_utf8_lossy(bytes)))?;
    if whole.is_none() && !reader.has_head() {
        return Ok(None);
    }
    let at_the_end = if ended { reader.end() } else { None };
    let head = String::from_utf8(head).map_err(|error| error.to_string())?;
    let lines = head.split("\r\n").skip(1);
    let fields = lines.filter_map(|line| line.split_once(':'));
    let mut answer = Heard {
        status: head
            .get(9..12)
            .and_then(|digits| digits.parse().ok())
            .unwrap_or(0),
        fields: fields
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect(),
        body,
        keeps: true,
        until_close: at_the_end.is_some(),
        from: 0,
        to: bytes.len() - rest.len(),
        is_whole: whole.or(at_the_end).is_some(),
    };
    answer.keeps = answer.field("connection") != Some("close") && !answer.until_close;
    Ok(Some(answer))
}

/// All answers, interim ones apart; how many of these came before each; and where the bytes begin that are
/// none.
pub(super) struct Answers {
    pub all: Vec<Heard>,
    pub interim: Vec<u32>,
    pub end: usize,
}

/// Reads on from `known`, as far as there are whole answers; the last one may be cut if the connection ended.
/// `kind` says of each request whether it is a HEAD, and its minor version.
pub(super) fn read_on(
    known: &mut Answers,
    bytes: &[u8],
    kind: impl Fn(usize) -> (bool, u8),
    requests: usize,
    ended: bool,
) -> Result<(), String> {
    while known.all.len() < requests && known.all.last().is_none_or(|last| last.keeps) {
        let rest = &bytes[known.end..];
        let number = known.all.len();
        let (head_only, minor) = kind(number);
        let Some(mut answer) = read(rest, head_only, ended)? else {
            return Ok(());
        };
        if minor == 0 {
            // Such a client is told, or it closes.
            answer.keeps &= answer.field("connection") == Some("keep-alive");
        }
        if answer.status == 100 {
            known.interim[number] += 1;
            known.end += answer.to;
            continue;
        }
        if answer.status < 200 {
            return Err(format!("an interim answer {}", answer.status));
        }
        if !answer.is_whole && !ended {
            return Ok(());
        }
        let at = known.end;
        (answer.from, answer.to) = (at, at + answer.to);
        known.end = answer.to;
        known.all.push(answer);
    }
    Ok(())
}

impl Answers {
    pub(super) fn new(requests: usize) -> Self {
        Answers {
            all: Vec::new(),
            interim: vec![0; requests],
            end: 0,
        }
    }
}
