//! [`Router`]: which handler answers which path and method.
//!
//! Routes are written down with a [`Router`], checked as a whole by [`Router::build`], and then only looked
//! up: having a [`Routes`] proves that no two patterns contradict each other. A mistake in a pattern is noted
//! when it is made. `build` reports it with the pattern, so that the server does not start and says why.
//! Looking up allocates nothing outside the bucket.
//!
//! A path matches exactly: `/a` is not `/a/`. Patterns are [`matchit`]'s: `{id}` stands for one segment or a
//! part of one, `{*rest}` for all that is left (at least one byte), and fixed text goes before either.

use matchit::InsertError;
use thiserror::Error;
use transom_wire::method;
use transom_wire::syntax::is_token;

use crate::each_thread::EachThread;
use crate::handler::{Handler, HandlerFn};
use crate::request::Request;
use crate::response::{IntoResponse, Response, Status};

type BoxedHandler = Box<dyn for<'r> HandlerFn<'r> + Send + Sync>;

/// A table of routes in the making.
///
/// ```
/// use transom_platform::{Request, Response, Router};
///
/// fn hello(request: &Request) -> Response {
///     Response::text(request.param("name").unwrap_or("world"))
/// }
/// let routes = Router::new().get("/", hello).get("/hello/{name}", hello).build();
/// assert!(routes.is_ok());
/// ```
#[must_use = "a router does nothing until it is served"]
#[derive(Default)]
pub struct Router {
    routes: Routes,
    /// The first mistake; later ones often follow from it.
    problem: Option<RouterError>,
}

impl<H: Handler> From<H> for Router {
    /// One handler for every path and method.
    fn from(handler: H) -> Self {
        Self::new().fallback(handler)
    }
}

/// A mistake in a table of routes.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum RouterError {
    /// The pattern does not start with a slash, so no path matches it.
    #[error("the route pattern {pattern:?} must start with '/': every path does")]
    NoSlash {
        /// The pattern.
        pattern: String,
    },
    /// The pattern stands for paths that another one stands for as well.
    #[error(
        "the route pattern {pattern:?} contradicts {with:?}, which is there already: which of the two is meant?"
    )]
    Contradiction {
        /// The pattern.
        pattern: String,
        /// The one before it.
        with: String,
    },
    /// The pattern is not well-formed.
    #[error("the route pattern {pattern:?} is not well-formed: {why}")]
    Malformed {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Pattern and method have a handler.
    #[error("{method} {pattern:?} has a handler already: remove one of the two")]
    Duplicate {
        /// The method, or `ANY`.
        method: String,
        /// The pattern.
        pattern: String,
    },
    /// There is no such method, or it is not for applications.
    #[error("the route pattern {pattern:?} has the method {method:?}: {why}")]
    Method {
        /// The method.
        method: String,
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

impl Router {
    /// A table without routes: 404 for everything.
    pub fn new() -> Self {
        Self::default()
    }

    /// Answers GET, and HEAD unless that has a handler of its own.
    pub fn get(self, pattern: &str, handler: impl Handler) -> Self {
        self.method("GET", pattern, handler)
    }

    /// Answers POST.
    pub fn post(self, pattern: &str, handler: impl Handler) -> Self {
        self.method("POST", pattern, handler)
    }

    /// Answers PUT.
    pub fn put(self, pattern: &str, handler: impl Handler) -> Self {
        self.method("PUT", pattern, handler)
    }

    /// Answers DELETE.
    pub fn delete(self, pattern: &str, handler: impl Handler) -> Self {
        self.method("DELETE", pattern, handler)
    }

    /// Answers PATCH.
    pub fn patch(self, pattern: &str, handler: impl Handler) -> Self {
        self.method("PATCH", pattern, handler)
    }

    /// Answers any method by name (they are case-sensitive): `HEAD` or `OPTIONS`, to do better than the
    /// answers that are given without a handler, or one of WebDAV's, say.
    pub fn method(mut self, method: &str, pattern: &str, handler: impl Handler) -> Self {
        let added = check_method(method, pattern).and_then(|()| {
            let route = self.routes.route(pattern)?;
            if route.handler(method).is_some() {
                return Err(RouterError::Duplicate {
                    method: method.into(),
                    pattern: pattern.into(),
                });
            }
            route.handlers.push((method.into(), Box::new(handler)));
            Ok(())
        });
        self.note(added)
    }

    /// Answers every method of that path that has no handler of its own.
    pub fn any(mut self, pattern: &str, handler: impl Handler) -> Self {
        let added = self.routes.route(pattern).and_then(|route| {
            if route.any.is_some() {
                return Err(RouterError::Duplicate {
                    method: "ANY".into(),
                    pattern: pattern.into(),
                });
            }
            route.any = Some(Box::new(handler));
            Ok(())
        });
        self.note(added)
    }

    /// Answers every path that has no route; without it they get 404. The last one given counts.
    pub fn fallback(mut self, handler: impl Handler) -> Self {
        self.routes.fallback = Some(Box::new(handler));
        self
    }

    /// Runs `f` once on each door server thread before its first request: touch here what handlers make
    /// lazily for each thread or for all (`rand`'s generator, a `static` regular expression, the buffer of
    /// standard output). It stays in the thread's bucket, and costs only what it needs, not what a first
    /// request would need while making it. What all threads share is made by the first of them.
    ///
    /// It does not help for what later requests add: caches, leaks, values that are published to other
    /// threads. Bound those, raise `--keep`, or allocate them with [`outside`](crate::outside).
    ///
    /// ```
    /// use std::sync::LazyLock;
    /// use transom_platform::{Request, Router};
    ///
    /// static GREETING: LazyLock<String> = LazyLock::new(|| "hello\n".repeat(3));
    ///
    /// let router = Router::new()
    ///     .get("/", |_: &Request| GREETING.as_str())
    ///     .warm(|| drop(LazyLock::force(&GREETING)));
    /// ```
    pub fn warm(mut self, f: impl Fn() + Send + Sync + 'static) -> Self {
        self.routes.warm.push(Box::new(f));
        self
    }

    /// Checks the table and finishes it.
    ///
    /// # Errors
    /// The first mistake that was made, with the pattern that it was made in.
    pub fn build(mut self) -> Result<Routes, RouterError> {
        if let Some(problem) = self.problem {
            return Err(problem);
        }
        for route in &mut self.routes.routes {
            route.allow = route.allowed_methods();
        }
        let streams = self.routes.handlers().any(|handler| handler.streams_body());
        self.routes.streams = streams;
        Ok(self.routes)
    }

    fn note(mut self, added: Result<(), RouterError>) -> Self {
        self.problem = self.problem.or(added.err());
        self
    }
}

/// A finished table of routes. Having one proves that its patterns are well-formed and do not contradict each
/// other.
#[derive(Default)]
pub struct Routes {
    tree: matchit::Router<usize>,
    routes: Vec<Route>,
    fallback: Option<BoxedHandler>,
    warm: Vec<EachThread>,
    /// Some handler takes its body as it comes.
    streams: bool,
}

/// How a request's handler takes a body that is still coming.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Takes {
    /// It is marked [`streaming`](crate::handler::streaming).
    Pieces,
    /// It wants all of it.
    Whole,
    /// No handler will run.
    Nothing,
}

#[derive(Default)]
struct Route {
    pattern: String,
    /// In the order of registration; there are few, so looking through them beats a map.
    handlers: Vec<(String, BoxedHandler)>,
    any: Option<BoxedHandler>,
    /// What `Allow` says, made once.
    allow: String,
}

impl Routes {
    /// Finds the handler for a request and calls it.
    ///
    /// | the path | the method | the answer |
    /// |---|---|---|
    /// | has a route | has a handler, or the route has one for any | the handler's |
    /// | has a route | HEAD, and GET has a handler | that handler's; the body is not sent |
    /// | has a route | OPTIONS | 204 with `Allow` |
    /// | has a route | another that some route has, or a common one | 405 with `Allow` |
    /// | has none | the same | the fallback's, or 404 |
    /// | any | another | 501 |
    ///
    /// A streamed body is collected first, unless the handler is marked
    /// [`streaming`](crate::handler::streaming).
    pub fn dispatch<'r>(&self, request: &'r mut Request) -> Response<'r> {
        let Ok(found) = self.tree.at(request.path_to_match()) else {
            return match &self.fallback {
                Some(handler) if self.knows(request.method()) => run(handler, request),
                None if self.knows(request.method()) => Response::not_found(),
                _ => not_implemented(),
            };
        };
        let number = *found.value;
        let route = &self.routes[number];
        request.set_match(number, &route.pattern, found.params);
        match route.choose(request.method()) {
            Some(handler) => run(handler, request),
            None if request.method() == "OPTIONS" => {
                Response::empty(Status::NO_CONTENT).header("Allow", &route.allow)
            }
            None if self.knows(request.method()) => Response::text("Method Not Allowed\n")
                .with_status(Status::METHOD_NOT_ALLOWED)
                .header("Allow", &route.allow),
            None => not_implemented(),
        }
    }

    /// What the handler of such a request takes of a body.
    pub(crate) fn takes(&self, method: &str, path: &str) -> Takes {
        let handler = match self.tree.at(path) {
            Ok(found) => self.routes[*found.value].choose(method),
            Err(_) => self.fallback.as_ref().filter(|_| self.knows(method)),
        };
        match handler {
            Some(handler) if handler.streams_body() => Takes::Pieces,
            Some(_) => Takes::Whole,
            None => Takes::Nothing,
        }
    }

    /// Whether any handler takes its body as it comes.
    pub(crate) fn streams(&self) -> bool {
        self.streams
    }

    fn handlers(&self) -> impl Iterator<Item = &BoxedHandler> {
        let of_routes = self.routes.iter().flat_map(|route| {
            let named = route.handlers.iter().map(|(_, handler)| handler);
            named.chain(&route.any)
        });
        of_routes.chain(&self.fallback)
    }

    /// Whether requests with that method belong here at all; the front end answers the others with 501.
    pub fn knows(&self, method: &str) -> bool {
        method::KNOWN.contains(&method)
            || self
                .routes
                .iter()
                .any(|route| route.handler(method).is_some())
    }

    /// What is to run once on each door server thread before its first call.
    pub(crate) fn warm(&self) -> &[EachThread] {
        &self.warm
    }

    /// The patterns, in the order of registration.
    pub fn patterns(&self) -> impl Iterator<Item = &str> {
        self.routes.iter().map(|route| route.pattern.as_str())
    }

    /// The route of a pattern; a new one if there is none yet.
    fn route(&mut self, pattern: &str) -> Result<&mut Route, RouterError> {
        if let Some(at) = self
            .routes
            .iter()
            .position(|route| route.pattern == pattern)
        {
            return Ok(&mut self.routes[at]);
        }
        if !pattern.starts_with('/') {
            return Err(RouterError::NoSlash {
                pattern: pattern.into(),
            });
        }
        self.tree
            .insert(pattern, self.routes.len())
            .map_err(|error| pattern_error(pattern, error))?;
        Ok(self.routes.push_mut(Route {
            pattern: pattern.into(),
            ..Route::default()
        }))
    }
}

impl Route {
    fn handler(&self, method: &str) -> Option<&BoxedHandler> {
        self.handlers
            .iter()
            .find(|(name, _)| name == method)
            .map(|(_, handler)| handler)
    }

    fn choose(&self, method: &str) -> Option<&BoxedHandler> {
        let get_for_head = || {
            if method == "HEAD" {
                self.handler("GET")
            } else {
                None
            }
        };
        self.handler(method)
            .or_else(get_for_head)
            .or(self.any.as_ref())
    }

    fn allowed_methods(&self) -> String {
        let mut methods: Vec<&str> = self
            .handlers
            .iter()
            .map(|(method, _)| method.as_str())
            .collect();
        if methods.contains(&"GET") && !methods.contains(&"HEAD") {
            methods.push("HEAD");
        }
        if !methods.contains(&"OPTIONS") {
            methods.push("OPTIONS");
        }
        methods.join(", ")
    }
}

fn run<'r>(handler: &BoxedHandler, request: &'r mut Request) -> Response<'r> {
    if request.is_streamed()
        && !handler.streams_body()
        && let Err(failure) = request.collect_body()
    {
        return failure.into_response();
    }
    handler.call(request)
}

fn not_implemented<'r>() -> Response<'r> {
    Response::text("Not Implemented\n").with_status(Status::NOT_IMPLEMENTED)
}

fn check_method(method: &str, pattern: &str) -> Result<(), RouterError> {
    let why = if !is_token(method.as_bytes()) {
        "a method is a token"
    } else if method.len() > method::METHOD_MAX {
        "a method has at most 32 bytes"
    } else if ["CONNECT", "TRACE"].contains(&method) {
        "it is refused before it gets to an application"
    } else if method::KNOWN
        .iter()
        .any(|known| *known != method && known.eq_ignore_ascii_case(method))
    {
        "methods are case-sensitive, and this one is written in capitals"
    } else {
        return Ok(());
    };
    Err(RouterError::Method {
        method: method.into(),
        pattern: pattern.into(),
        why,
    })
}

fn pattern_error(pattern: &str, error: InsertError) -> RouterError {
    let pattern = pattern.into();
    let why = match error {
        InsertError::Conflict { with } => return RouterError::Contradiction { pattern, with },
        InsertError::InvalidParamSegment => "only one parameter fits between two slashes",
        InsertError::InvalidParam => {
            "a parameter is '{name}', and braces that are meant as such are doubled"
        }
        InsertError::InvalidCatchAll => "'{*name}' comes last",
        _ => "the router does not take it",
    };
    RouterError::Malformed { pattern, why }
}
