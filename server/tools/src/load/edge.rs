//! The edge: the largest request that fits, found by bisection.

use super::mix::Entry;
use super::tally::is_good;
use serde::Serialize;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::RangeInclusive;
use std::thread;
use std::time::Duration;
use transom_http::answer::{Answer, Reader};

/// How often the two sides of an edge are asked again once it is found.
const CONFIRMATIONS: usize = 2;

/// How often a request is tried that the server has no room for.
const TRIES: usize = 5;

/// Where sizes stop fitting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "found")]
pub enum Edge {
    /// Between two sizes.
    Between {
        /// The largest size that fits.
        fits: u64,
        /// The next one's status.
        status: u16,
        /// It said that its bucket was exhausted.
        exhausted: bool,
        /// Requests that it took to find.
        requests: u32,
    },
    /// All of the range fits.
    AllFit {
        /// Its end.
        largest: u64,
    },
    /// Not even the smallest fits.
    NoneFits {
        /// The range's beginning.
        smallest: u64,
        /// What it got.
        status: u16,
    },
    /// There is none to find.
    Unclear {
        /// Why.
        why: String,
    },
}

/// What a size got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    status: u16,
    exhausted: bool,
}

impl Verdict {
    fn fits(self) -> bool {
        is_good(self.status)
    }
}

/// Looks for the edge of a range.
pub fn find(
    range: &RangeInclusive<u64>,
    mut ask: impl FnMut(u64) -> Result<Verdict, String>,
) -> Edge {
    let mut requests = 0;
    let mut asked = |size: u64| {
        requests += 1;
        ask(size)
    };
    match bisect(range, &mut asked) {
        Ok(Edge::Between {
            fits,
            status,
            exhausted,
            ..
        }) => Edge::Between {
            fits,
            status,
            exhausted,
            requests,
        },
        Ok(edge) => edge,
        Err(why) => Edge::Unclear { why },
    }
}

fn bisect(
    range: &RangeInclusive<u64>,
    ask: &mut impl FnMut(u64) -> Result<Verdict, String>,
) -> Result<Edge, String> {
    let (mut fits, mut fails) = (*range.start(), *range.end());
    let first = ask(fits)?;
    if !first.fits() {
        return Ok(Edge::NoneFits {
            smallest: fits,
            status: first.status,
        });
    }
    let mut refusal = ask(fails)?;
    if refusal.fits() {
        return Ok(Edge::AllFit { largest: fails });
    }
    while fails - fits > 1 {
        let middle = fits + (fails - fits) / 2;
        let verdict = ask(middle)?;
        if verdict.fits() {
            fits = middle;
        } else {
            (fails, refusal) = (middle, verdict);
        }
    }
    // An edge that moves is none: its memory is shared, or garbage is collected now and then.
    for _ in 0..CONFIRMATIONS {
        let (below, above) = (ask(fits)?, ask(fails)?);
        if !below.fits() || above.fits() {
            return Err(format!(
                "{fits} got {} and {fails} got {}, which was otherwise a moment before: there is no fixed edge",
                below.status, above.status
            ));
        }
    }
    Ok(Edge::Between {
        fits,
        status: refusal.status,
        exhausted: refusal.exhausted,
        requests: 0,
    })
}

/// Asks one question after the other on a connection.
#[derive(Debug)]
pub struct Prober<'m> {
    /// What is asked.
    pub entry: &'m Entry,
    /// Whom.
    pub address: SocketAddr,
    /// What requests say in their field `Host`.
    pub host: &'m str,
    /// The longest that an answer may take.
    pub timeout: Duration,
    /// The connection, once there is one.
    pub stream: Option<TcpStream>,
}

impl Prober<'_> {
    /// What a request of this size gets, when the server has room for it.
    ///
    /// # Errors
    /// Why that is not known.
    pub fn ask(&mut self, size: u64) -> Result<Verdict, String> {
        let mut why = String::new();
        for again in 0..TRIES {
            if again > 0 {
                thread::sleep(Duration::from_millis(100));
            }
            match self.once(size) {
                Ok(answer) if answer.status == 503 => {
                    why = format!("the request of {size} got 503 {TRIES} times");
                }
                Ok(answer) => {
                    let status = answer.status;
                    // 413 says that it is too large; other 4xx errors say that the request itself was wrong.
                    if (400..500).contains(&status) && status != 413 {
                        return Err(format!(
                            "the request of {size} got {status}, which is not about memory"
                        ));
                    }
                    return Ok(Verdict {
                        status,
                        exhausted: answer.exhausted,
                    });
                }
                Err(error) => {
                    self.stream = None;
                    why = format!("the request of {size} got no answer: {error}");
                }
            }
        }
        Err(why)
    }

    fn once(&mut self, size: u64) -> Result<Answer, String> {
        let text = |error: std::io::Error| error.to_string();
        if self.stream.is_none() {
            let stream = TcpStream::connect_timeout(&self.address, self.timeout).map_err(text)?;
            stream.set_read_timeout(Some(self.timeout)).map_err(text)?;
            stream.set_write_timeout(Some(self.timeout)).map_err(text)?;
            self.stream = Some(stream);
        }
        let stream = self.stream.as_mut().ok_or("there is no connection")?;
        let mut request = Vec::new();
        self.entry.write_request(self.host, size, &mut request);
        stream.write_all(&request).map_err(text)?;
        let mut reader = Reader::new();
        reader.expect(self.entry.method == "HEAD");
        let mut buffer = [0; 16 << 10];
        let answer = loop {
            let len = stream.read(&mut buffer).map_err(text)?;
            let whole = match len {
                0 => Some(reader.end().ok_or("the connection was closed")?),
                _ => reader
                    .feed(&buffer[..len], &mut |_| {})
                    .map_err(|error| error.to_string())?,
            };
            if let Some(answer) = whole {
                break answer;
            }
        };
        if answer.closes {
            self.stream = None;
        }
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Verdict = Verdict {
        status: 200,
        exhausted: false,
    };
    const BAD: Verdict = Verdict {
        status: 500,
        exhausted: true,
    };

    fn found(range: RangeInclusive<u64>, edge: u64) -> Edge {
        find(&range, |size| Ok(if size <= edge { GOOD } else { BAD }))
    }

    #[test]
    fn every_edge_is_found() {
        for edge in 100..2000 {
            let Edge::Between {
                fits,
                status,
                exhausted,
                requests,
            } = found(100..=2000, edge)
            else {
                panic!("there is one at {edge}");
            };
            assert_eq!((fits, status, exhausted), (edge, 500, true));
            assert!(requests <= 17, "{requests}");
        }
        assert_eq!(found(100..=2000, 2000), Edge::AllFit { largest: 2000 });
        let none = Edge::NoneFits {
            smallest: 100,
            status: 500,
        };
        assert_eq!(found(100..=2000, 99), none);
        assert_eq!(found(5..=5, 5), Edge::AllFit { largest: 5 });
    }

    #[test]
    fn an_edge_that_moves_is_none() {
        let mut asked = 0;
        let edge = find(&(1..=1000), |size| {
            asked += 1;
            let edge = if asked < 10 { 300 } else { 600 };
            Ok(if size <= edge { GOOD } else { BAD })
        });
        assert!(
            matches!(&edge, Edge::Unclear { why } if why.contains("no fixed edge")),
            "{edge:?}"
        );
        let edge = find(&(1..=1000), |_| Err("gone".to_owned()));
        assert_eq!(
            edge,
            Edge::Unclear {
                why: "gone".to_owned()
            }
        );
    }
}
