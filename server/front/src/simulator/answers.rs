//! A naive reader of answers: it knows nothing of the server but what a client knows.

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

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// The answer at the beginning of `bytes`, which may have come in part; `None` if not even its head is there.
/// At the end of the connection nothing more comes.
pub(super) fn read(bytes: &[u8], head_only: bool, ended: bool) -> Result<Option<Heard>, String> {
    let Some(head_len) = find(bytes, b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = std::str::from_utf8(&bytes[..head_len]).map_err(|error| error.to_string())?;
    let mut lines = head.split("\r\n");
    let line = lines.next().unwrap_or_default();
    let rest = line
        .strip_prefix("HTTP/1.1 ")
        .ok_or_else(|| format!("an answer begins with {line:?}"))?;
    let status = rest.get(..3).and_then(|digits| digits.parse().ok());
    let status: u16 = status.ok_or_else(|| format!("no status in {line:?}"))?;
    let mut fields = Vec::new();
    for line in lines {
        let (name, value) = line
            .split_once(':')
            .ok_or_else(|| format!("no field: {line:?}"))?;
        if name.is_empty() || name.contains(' ') {
            return Err(format!("no name of a field: {name:?}"));
        }
        fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut answer = Heard {
        status,
        fields,
        body: Vec::new(),
        keeps: true,
        until_close: false,
        from: 0,
        to: head_len + 4,
        is_whole: true,
    };
    answer.keeps = answer.field("connection") != Some("close");
    if head_only || matches!(status, 100..=199 | 204 | 304) {
        return Ok(Some(answer));
    }
    let behind = &bytes[head_len + 4..];
    match (
        answer.field("transfer-encoding"),
        answer.field("content-length"),
    ) {
        (Some("chunked"), None) => {
            let (body, len) = chunks(behind)?;
            answer.is_whole = len.is_some();
            answer.to = len.map_or(bytes.len(), |len| answer.to + len);
            answer.body = body;
        }
        (None, Some(len)) => {
            let len: usize = len.parse().map_err(|_| format!("a length of {len:?}"))?;
            answer.is_whole = behind.len() >= len;
            answer.body = behind[..len.min(behind.len())].to_vec();
            answer.to += answer.body.len();
        }
        (None, None) => {
            answer.until_close = true;
            answer.keeps = false;
            answer.is_whole = ended;
            answer.body = behind.to_vec();
            answer.to = bytes.len();
        }
        (coding, len) => return Err(format!("framed by {coding:?} and {len:?}")),
    }
    Ok(Some(answer))
}

/// The bytes of chunks, and the length of all if the last one is there.
fn chunks(bytes: &[u8]) -> Result<(Vec<u8>, Option<usize>), String> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let Some(line_len) = find(&bytes[at..], b"\r\n") else {
            return Ok((body, None));
        };
        let line = std::str::from_utf8(&bytes[at..at + line_len]).unwrap_or("?");
        let len = usize::from_str_radix(line, 16).map_err(|_| format!("a chunk of {line:?}"))?;
        at += line_len + 2;
        let there = len.min(bytes.len() - at);
        body.extend(&bytes[at..at + there]);
        at += there;
        let Some(end) = bytes.get(at..at + 2) else {
            return Ok((body, None));
        };
        if end != b"\r\n" {
            return Err(format!("a chunk ends in {end:?}"));
        }
        at += 2;
        if len == 0 {
            return Ok((body, Some(at)));
        }
    }
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
