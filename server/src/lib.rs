//! A web server platform whose memory is decided before it starts. What handlers are written with, and what
//! serves them, is here: this is the one dependency of an application.
//!
//! ```no_run
//! use transom::{Request, Response, Router};
//!
//! fn hello(request: &Request) -> Response<'_> {
//!     let name = request.query("name").unwrap_or("world");
//!     Response::text(format!("hello, {name}\n"))
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     transom::serve(Router::new().get("/", hello))
//! }
//! ```
//!
//! That is front end and application in one process, joined by a door in memory. With `--door
//! /run/hello.door` the same binary is an application on its own, and [`serve_forwards`] (`transom serve`) a
//! front end for any number of them, as a [`config::Config`] says.

mod admin;
pub mod config;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
mod plan;
mod serve;
mod settings;

#[doc(hidden)]
pub use admin::document as snapshot;
pub use plan::{Plan, PlanError};
pub use serve::parts::process::constant_for;
pub use serve::{
    App, check_file, print_asked, refuse_line, refuse_plan, serve, serve_escaping, serve_forwards,
};
pub use settings::{
    AccessLogSetting, ApplicationSettings, ChannelSettings, DoorSettings, ForwardSettings,
    ForwardedSetting, FrontSettings, LogSetting, OnExhaustion, ProxySetting, Settings, WipeSetting,
    parse_count, parse_duration,
};
pub use transom_http::peer::Trusted;
pub use transom_net::ListenAddress;
#[doc(inline)]
pub use transom_platform::{
    AnswerTooLarge, Body, BodyReader, BodyWriter, Bump, Connection, ConnectionHandler, Datagram,
    DatagramHandler, DatagramReply, Failure, Handler, HandlerFn, IntoResponse, Memory, Registered,
    Request, Response, Router, RouterError, Shared, SharedError, Status, TryReserve, Version,
    WayOut, defer, escape_contract, handler, headers, is_draining, outside, refusing, request,
    streaming, try_reserve,
};
