//! [`Request`]: what a handler sees of a request.
//!
//! It reads the request where it lies in the slot and copies only what it must; what needs decoding is
//! decoded into the bucket's arena. It has no lifetime parameter, so that elision gives `fn hello(request:
//! &Request) -> Response` the right meaning: the response may borrow from the request and from its bucket,
//! and from nothing shorter. The price is one `unsafe` constructor, which only the platform calls.
//!
//! It does not know where slot and bucket come from, nor anything about sockets.

mod body;
mod query;

use std::fmt;
use std::io::Read;
use std::mem;
use std::net::SocketAddr;
use std::ptr::NonNull;
use std::str::{self, FromStr};
use std::time::Duration;

use bumpalo::Bump;
use matchit::Params;
use serde::Deserialize;
use transom_doors::now_ns;

use crate::failure::{Failure, unless_exhausted};
use crate::json;
use crate::reserve::TryReserve;
use crate::sign::{Matched, RouteNote};
use crate::slot_io::Port;
use transom_wire::frame::RawRequest;

pub use crate::memory::Memory;
pub use body::BodyReader;

/// A request, for as long as it is being answered.
///
/// Handlers get `&Request`; what they take from it lives as long as that reference, which Rust checks:
///
/// ```compile_fail
/// # use transom_platform::Request;
/// fn keep(request: &Request) -> &'static str {
///     request.path()
/// }
/// ```
pub struct Request {
    /// Not truly `'static`: see [`Request::from_raw`]. It leaves this type only with the lifetime of `&self`.
    raw: RawRequest<'static>,
    /// A pointer also keeps the request on the thread whose bucket it is in: it is neither `Send` nor `Sync`.
    arena: NonNull<Bump>,
    deadline_ns: u64,
    stream: body::Stream,
    /// What the router matched; borrowed from the router and from the path.
    route: Option<&'static str>,
    params: Params<'static, 'static>,
    spilled: query::Spilled,
    /// The body, where it was larger than its slot.
    collected: Vec<u8>,
    /// Where the route is noted for the report about a request that is gone; see `note_route_in`.
    route_note: Option<NonNull<RouteNote<'static>>>,
    /// The call that brought it, with lifetimes that are not truly so; see `ask_at`.
    port: Option<NonNull<Port<'static, 'static>>>,
}

/// The version of HTTP that the client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1 (or a later 1.x, which is treated like it).
    Http11,
}

impl Request {
    /// Makes a request out of what lies in a slot. `deadline_ns` is a `CLOCK_MONOTONIC` time in nanoseconds,
    /// 0 for none.
    ///
    /// When `raw.streamed` is set, the whole body, its first part included, is read from `stream`, and
    /// `raw.body` is not looked at: its bytes may be overwritten by the pieces that follow.
    ///
    /// # Safety
    /// The caller must see to it that, until the request is dropped,
    /// - the bytes that `raw` borrows live and are not written (of a streamed request: without the body's),
    /// - `arena` lives and is not reset,
    /// - `stream` lives and is used by nothing else,
    /// - every [`Routes`](crate::router::Routes) that the request is dispatched to lives.
    pub unsafe fn from_raw(
        raw: RawRequest<'_>,
        arena: &Bump,
        deadline_ns: u64,
        stream: Option<&mut dyn Read>,
    ) -> Self {
        // SAFETY: only the lifetime changes. The bytes live and stay as they are until the request is
        // dropped, by the caller's promise, and no method gives out a part of `raw` with a longer lifetime
        // than its `&self` has.
        let mut raw = unsafe { mem::transmute::<RawRequest<'_>, RawRequest<'static>>(raw) };
        let stream = if raw.streamed {
            raw.body = &[];
            // SAFETY: the caller promises that the stream lives and is ours alone until the request is
            // dropped.
            unsafe { body::Stream::new(stream) }
        } else {
            body::Stream::none()
        };
        Self {
            raw,
            arena: NonNull::from(arena),
            deadline_ns,
            stream,
            route_note: None,
            port: None,
            route: None,
            params: Params::new(),
            spilled: query::Spilled::default(),
            collected: Vec::new(),
        }
    }

    /// The method, as it came: `"GET"`.
    pub fn method(&self) -> &str {
        self.raw.method
    }

    /// The path, percent-decoded and with its dot segments resolved: `"/a b"` for `/a%20b`. Always text: the
    /// front end refuses a path that is not.
    pub fn path(&self) -> &str {
        self.raw.path
    }

    /// The request target as it came: `"/a%20b?c=d"`.
    pub fn raw_target(&self) -> &str {
        self.raw.target
    }

    /// What follows the target's first `?`, not decoded.
    pub fn query_string(&self) -> Option<&str> {
        self.raw.query
    }

    /// The value of the first query parameter of that name, decoded as HTML forms are (`+` is a space, `%41`
    /// an `A`, an escape that is none stays as it is, bytes that are no UTF-8 become U+FFFD). `Some("")` for
    /// `?name` alone.
    pub fn query(&self, name: &str) -> Option<&str> {
        let (_, value) = query::pairs(self.raw.query).find(|(raw, _)| query::means(raw, name))?;
        Some(query::decode(value, self.arena(), &self.spilled))
    }

    /// The value of the first query parameter of that name, if there is one, as a `T`.
    ///
    /// # Errors
    /// 400 when the value is not one of a `T`.
    pub fn query_as<T: FromStr>(&self, name: &str) -> Result<Option<T>, Failure> {
        unless_exhausted()?;
        let Some(value) = self.query(name) else {
            return Ok(None);
        };
        match value.parse() {
            Ok(value) => Ok(Some(value)),
            Err(_) => Err(Failure::bad_request(format!(
                "the query parameter {name:?} has a value that does not fit"
            ))),
        }
    }

    /// All query parameters in their order, decoded. What must be decoded takes room in the bucket each time.
    pub fn queries(&self) -> impl Iterator<Item = (&str, &str)> {
        let decode = |part| query::decode(part, self.arena(), &self.spilled);
        query::pairs(self.raw.query).map(move |(name, value)| (decode(name), decode(value)))
    }

    /// The value of the first field of that name (in any case), if it is UTF-8. `header("host")` is the host
    /// that the request is for, see [`Request::host`].
    ///
    /// A cookie:
    ///
    /// ```
    /// use transom_platform::{Request, Response};
    ///
    /// fn cookie<'r>(request: &'r Request, name: &str) -> Option<&'r str> {
    ///     let pairs = request.header("cookie")?.split("; ");
    ///     let mut pairs = pairs.filter_map(|pair| pair.split_once('='));
    ///     pairs.find_map(|(its, value)| (its == name).then_some(value))
    /// }
    ///
    /// fn visit(request: &Request) -> Response<'_> {
    ///     let visits = cookie(request, "visits").and_then(|text| text.parse().ok()).unwrap_or(0_u32);
    ///     let visits = visits.saturating_add(1);
    ///     let attributes = "Path=/; Max-Age=86400; Secure; HttpOnly; SameSite=Lax";
    ///     Response::text(format!("visit {visits}\n"))
    ///         .header("set-cookie", format_args!("visits={visits}; {attributes}"))
    /// }
    /// ```
    pub fn header(&self, name: &str) -> Option<&str> {
        str::from_utf8(self.header_bytes(name)?).ok()
    }

    /// The value of the first field of that name (in any case). Values may hold bytes that are no UTF-8.
    pub fn header_bytes(&self, name: &str) -> Option<&[u8]> {
        self.headers()
            .find(|(other, _)| other.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// All fields in their order, with their names as they came.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.raw.fields.map(|(name, value)| {
            // Names are tokens, and those are text; `decode_request` has checked.
            let name = str::from_utf8(name).unwrap_or_default();
            let host = self.raw.host.filter(|_| name.eq_ignore_ascii_case("host"));
            (name, host.map_or(value, str::as_bytes))
        })
    }

    /// The host that the request is for, with its port if it has one: that of an absolute target, which goes
    /// before the Host field (RFC 9112 §3.2.2), else that field's. Only HTTP/1.0 may leave it out.
    pub fn host(&self) -> Option<&str> {
        self.raw.host
    }

    /// The whole body. It is there before the handler runs; one that is larger than its slot has been
    /// collected into the bucket. Empty in handlers marked [`streaming`](crate::handler::streaming) when the
    /// body comes in pieces.
    pub fn body(&self) -> &[u8] {
        self.raw.body
    }

    /// The body as text.
    ///
    /// # Errors
    /// 400 when it is not UTF-8.
    pub fn body_str(&self) -> Result<&str, Failure> {
        unless_exhausted()?;
        str::from_utf8(self.body()).map_err(|_| Failure::bad_request("the body is not UTF-8 text"))
    }

    /// The body as a value read from JSON; it may borrow from the request.
    ///
    /// # Errors
    /// 400 that says what is wrong and where, when the body is not JSON or not that of a `T`. The parser
    /// stops when the request outgrows its bucket, however long the body is; the answer is a 500 then.
    ///
    /// 500 too when `T` holds an untagged or tagged enum or a flattened struct, which serde reads into a
    /// buffer first, and the document has more elements than the rest of the bucket would hold at 320 bytes
    /// each: what serde makes of its buffer cannot be stopped half-way. If such a `T` has lists of structs
    /// that are larger, and whose fields may all be left out, box them: a client can make the request need
    /// more than its share of the overdraft otherwise.
    pub fn json<'r, T: Deserialize<'r>>(&'r self) -> Result<T, Failure> {
        unless_exhausted()?;
        json::read(self.body())
    }

    /// Reads the body piece by piece, as it comes from the client if the handler is marked
    /// [`streaming`](crate::handler::streaming). Bytes of a streamed body are given once, to whichever reader
    /// asks.
    pub fn body_reader(&self) -> BodyReader<'_> {
        BodyReader::new(self.raw.body, &self.stream)
    }

    /// As [`Request::body_reader`], in short.
    pub fn reader(&self) -> BodyReader<'_> {
        self.body_reader()
    }

    /// The announced length of the body, `None` when it came in chunks or there is none.
    pub fn content_length(&self) -> Option<u64> {
        self.raw.content_length
    }

    /// Whether the reply's body will not be sent (HEAD). A handler need not care, but may save itself the
    /// work.
    pub fn is_head_only(&self) -> bool {
        self.raw.head_only
    }

    /// The client's address, or the last proxy's; `None` over a Unix socket.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.raw.peer
    }

    /// The version of HTTP that the client speaks.
    pub fn version(&self) -> Version {
        if self.raw.minor == 0 {
            Version::Http10
        } else {
            Version::Http11
        }
    }

    /// The part of the path that a `{name}` of the route's pattern stands for.
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params.get(name)
    }

    /// As [`Request::param`], as a `T`: `let id: u64 = request.param_as("id")?;`
    ///
    /// # Errors
    /// 404 when the part is not one of a `T`: a path that cannot name anything names nothing. 500 when the
    /// pattern has no such name, which is the application's mistake.
    pub fn param_as<T: FromStr>(&self, name: &str) -> Result<T, Failure> {
        unless_exhausted()?;
        let Some(value) = self.param(name) else {
            let route = self.route.unwrap_or("the fallback");
            return Err(Failure::internal(format!(
                "the route {route:?} has no parameter {name:?}"
            )));
        };
        value.parse().map_err(|_| Failure::not_found("Not Found"))
    }

    /// The pattern of the route that matched, as the application wrote it; `None` in a fallback. Made for
    /// logs and metrics: there are only as many patterns as routes, but clients can invent any number of
    /// paths.
    pub fn route(&self) -> Option<&str> {
        self.route
    }

    /// The bucket's arena. `bumpalo`'s collections work in it; ordinary `String`s and `Vec`s land in the same
    /// bucket.
    pub fn arena(&self) -> &Bump {
        // SAFETY: `from_raw`'s caller promised that the arena lives, and only shared references to it are
        // ever made.
        unsafe { self.arena.as_ref() }
    }

    /// How much of the bucket this request has used so far, and how much is left: for a handler that would
    /// rather answer with less than with a 500, and for tests.
    ///
    /// In a test that calls a handler on a thread without a bucket, all numbers are 0.
    pub fn memory(&self) -> Memory {
        Memory::now().unwrap_or(Memory {
            used: 0,
            free: 0,
            high_water: 0,
        })
    }

    /// Makes room for `additional` more elements in a collection, if the bucket has it: see
    /// [`try_reserve`](crate::try_reserve).
    ///
    /// # Errors
    /// 413 that says so, when it has not. The request goes on.
    pub fn try_reserve(
        &self,
        collection: &mut impl TryReserve,
        additional: usize,
    ) -> Result<(), Failure> {
        crate::reserve::try_reserve(collection, additional).map_err(|_| {
            Failure::content_too_large("that is more than the memory that a request has here")
        })
    }

    /// When the client will have got a 504 in place of our answer: a `CLOCK_MONOTONIC` time in nanoseconds.
    pub fn deadline_ns(&self) -> Option<u64> {
        Some(self.deadline_ns).filter(|&deadline| deadline != 0)
    }

    /// How long there is until the deadline; zero when it has passed, `None` when there is none.
    pub fn time_left(&self) -> Option<Duration> {
        self.deadline_ns()
            .map(|deadline| Duration::from_nanos(deadline.saturating_sub(now_ns())))
    }

    /// Whether the answer will reach no client any more: the client has reset its connection, or the server
    /// has given the request up, because its deadline or the drain's timeout has passed. It stays so. That
    /// the process drains is told by [`is_draining`](crate::is_draining). This is an atomic load, so a
    /// handler that waits or works for long can ask often. A handler that does not ask runs to its end, and
    /// its answer is thrown away.
    ///
    /// A client that has closed only its sending side still gets its answer, and a client that has closed its
    /// connection altogether looks the same until something is sent to it. So a handler that streams until
    /// its client leaves should send something now and then.
    ///
    /// In a test that calls a handler, it is false.
    pub fn client_is_gone(&self) -> bool {
        // SAFETY: `ask_at`'s caller promised that the port outlives the request.
        self.port
            .is_some_and(|port| unsafe { port.as_ref() }.client_is_gone())
    }

    /// Whether the body is still to come, in pieces.
    pub fn is_streamed(&self) -> bool {
        self.raw.streamed
    }

    /// Notes the matched route in `note` too. A handler that is left by a jump takes the request with it, and
    /// the log must still name the route.
    ///
    /// # Safety
    /// `note` outlives the request. What is noted is valid as long as the [`Routes`](crate::router::Routes)
    /// that matched.
    pub(crate) unsafe fn note_route_in(&mut self, note: &RouteNote<'_>) {
        // Only the lifetime changes: the note, and with it the sign that it refers to, outlives the request.
        self.route_note = Some(NonNull::from(note).cast());
    }

    /// Makes [`Request::client_is_gone`] ask there.
    ///
    /// # Safety
    /// `port` outlives the request.
    pub(crate) unsafe fn ask_at(&mut self, port: &Port<'_, '_>) {
        // Only the lifetimes change, and the caller promises that they are long enough.
        self.port = Some(NonNull::from(port).cast());
    }

    /// Reads a streamed body into the bucket, so that [`Request::body`] has all of it.
    pub(crate) fn collect_body(&mut self) -> Result<(), Failure> {
        self.collected = body::collect(&self.stream, self.raw.content_length)?;
        // SAFETY: only the lifetime changes. The block is the request's, which neither changes nor frees it
        // until it is dropped, and `body` gives the bytes out with the lifetime of its `&self` only.
        self.raw.body = unsafe { mem::transmute::<&[u8], &'static [u8]>(&self.collected) };
        self.raw.streamed = false;
        self.stream = body::Stream::none();
        Ok(())
    }

    /// The path, for matching: the parameters found in it may be given to [`Request::set_match`].
    pub(crate) fn path_to_match(&self) -> &'static str {
        self.raw.path
    }

    /// Notes what the router found. `params` must be of this request's path.
    pub(crate) fn set_match(&mut self, number: usize, pattern: &str, params: Params<'_, 'static>) {
        // SAFETY: only the lifetimes change. Pattern and names belong to a `Routes` that lives until the
        // request is dropped, by the promise of `from_raw`'s caller; both leave this type only with the
        // lifetime of a `&self`.
        (self.route, self.params) = unsafe {
            (
                Some(mem::transmute::<&str, &'static str>(pattern)),
                mem::transmute::<Params<'_, 'static>, Params<'static, 'static>>(params),
            )
        };
        if let (Some(note), Some(pattern)) = (self.route_note, self.route) {
            // SAFETY: `note_route_in`'s caller promised that it outlives the request; it is used on this
            // thread only.
            unsafe { note.as_ref() }.set(Matched { number, pattern });
        }
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Request({} {:?}, {} bytes of body)",
            self.method(),
            self.path(),
            self.body().len()
        )
    }
}
