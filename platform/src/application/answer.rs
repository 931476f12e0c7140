//! What runs inside of a bucket for a call: its handler, and the writing of its answer.

use super::Application;
use crate::connection::Connection;
use crate::datagram::{Datagram, DatagramReply};
use crate::pace::Leave;
use crate::request::Request;
use crate::response::{Response, Status};
use crate::router::{Routes, Takes};
use crate::service::Service;
use crate::sign::RouteNote;
use crate::slot_io::{Port, SlotBody, Written, write_response};
use std::cell::Cell;
use std::io::{self, Read};
use std::net::TcpStream;
use transom_arena::{Bump, current_largest_piece, exhausted};
use transom_doors::Words;
use transom_wire::frame::{
    self, RawRequest, decode_connection, decode_datagram, decode_request, outcome,
};
use transom_wire::own_log::{debug, error};

/// A call while it is answered.
pub(super) struct OpenCall<'o, 'p, 'c> {
    pub(super) application: &'static Application,
    /// What has come with it.
    pub(super) frame: *const [u8],
    pub(super) deadline_ns: u64,
    /// The connection that has come with it.
    pub(super) stream: Option<&'o TcpStream>,
    pub(super) port: &'o Port<'p, 'c>,
    pub(super) route: &'o RouteNote<'o>,
    /// The handler could not answer: what is written says so.
    pub(super) has_failed: Cell<bool>,
}

impl OpenCall<'_, '_, '_> {
    /// Runs the handler, and writes its answer into the reply slot. `None`: the bytes are no frame of the
    /// kind that the application serves.
    ///
    /// # Safety
    /// The frame stays as it is meanwhile, but for the place of a streamed body, which may be written inside
    /// `Port::hand_over`.
    #[inline]
    pub(super) unsafe fn answer(&self, arena: &Bump) -> Option<Written> {
        // SAFETY: the caller's promise.
        let written = unsafe { self.answer_ours(arena) };
        if written.is_none() {
            self.say_not_ours();
        }
        written
    }

    /// # Safety
    /// As for [`answer`](Self::answer).
    #[inline]
    unsafe fn answer_ours(&self, arena: &Bump) -> Option<Written> {
        // SAFETY: (of each use) the caller's promise.
        let request = || unsafe { &*self.frame };
        match self.application.service {
            // SAFETY: as for `request`.
            Service::Requests(routes) => unsafe { self.answer_request(routes, arena) },
            Service::Connections(handler) => {
                let peer = decode_connection(request()).ok()?;
                let mut connection = Connection::new(self.stream?, peer);
                if let Err(error) = handler.call(&mut connection) {
                    debug!(error = %Words(&error), "a connection ended early");
                }
                Some(Written::Whole(0))
            }
            Service::Datagrams(handler) => {
                let datagram = Datagram::new(decode_datagram(request()).ok()?);
                let mut slot = self.port.reply_slot();
                // SAFETY: the slot's reply part is valid as long as the call, which outlives this function,
                // and ours to write until the call is completed; the port gives it to nothing else meanwhile.
                let mut reply = DatagramReply::new(unsafe { slot.as_mut() });
                handler.call(&datagram, &mut reply);
                Some(Written::Whole(reply.finish()))
            }
        }
    }

    /// Runs the handler that a request's route leads to, and writes its response into the reply slot. `None`:
    /// the bytes are no request.
    ///
    /// # Safety
    /// As for [`answer`](Self::answer).
    #[inline]
    unsafe fn answer_request(&self, routes: &'static Routes, arena: &Bump) -> Option<Written> {
        let (port, frame) = (self.port, self.frame);
        // SAFETY: the caller's promise; what is read of the request while a piece of its body is fetched lies
        // before it.
        let raw = match decode_request(unsafe { &*frame }) {
            Ok(raw) => raw,
            Err(frame::FrameError::PathNotUtf8) => {
                let response =
                    Response::text("the path is not UTF-8\n").with_status(Status::BAD_REQUEST);
                return Some(write_response(response, port, false, false, |_| {}));
            }
            Err(_) => return None,
        };
        if raw.early
            && let Some(outcome) = wants_body_first(routes, &raw, port)
        {
            return Some(Written::BodyFirst(outcome));
        }
        let mut body = SlotBody::new(port, frame.len(), raw.body.len());
        let stream = raw.streamed.then_some(&mut body as &mut dyn Read);
        let head_only = raw.head_only;
        // SAFETY: slot, arena and body outlive the request, which is dropped at the end of this function; the
        // routes were leaked with the application.
        let mut incoming = unsafe { Request::from_raw(raw, arena, self.deadline_ns, stream) };
        // SAFETY: note and port outlive this function, and so the request.
        unsafe {
            incoming.note_route_in(self.route);
            incoming.ask_at(port);
        }
        let response = routes.dispatch(&mut incoming);
        if exhausted().is_some() {
            return Some(Written::Unwritten); // its answer is a 500, whatever it would be
        }
        self.say_why_not(&response);
        let memory_header = self.application.options.memory_header;
        let written = write_response(response, port, head_only, memory_header, |error| {
            self.say_why_not_all(error);
        });
        if let Written::TooLarge(needed) = written {
            self.say_too_large(needed);
        }
        Some(written)
    }

    /// Says that the head of an answer needs so many bytes, which are more than its slot has.
    #[cold]
    fn say_too_large(&self, needed: usize) {
        if let Some(Leave { unlogged }) = self.application.lines.take() {
            error!(
                route = self.pattern(),
                needed,
                size = self.port.reply_slot().len(),
                raise = "--reply-size",
                unlogged,
                "the fields of an answer do not fit its slot"
            );
        }
    }

    /// Says that what has come is nothing that this application serves.
    #[cold]
    fn say_not_ours(&self) {
        if let Some(Leave { unlogged }) = self.application.lines.take() {
            error!(
                unlogged,
                "a front end has sent what is no request of this application: its forward has another scheme, or it is of another version"
            );
        }
    }

    /// Says why a handler could not answer, if that is so.
    #[inline]
    fn say_why_not(&self, response: &Response<'_>) {
        let Some(reason) = response.diagnostic() else {
            return;
        };
        self.has_failed.set(true);
        // If it fails because its client has gone, that is not the handler's fault.
        if !self.port.client_is_gone()
            && let Some(Leave { unlogged }) = self.application.lines.take()
        {
            error!(
                route = self.pattern(),
                status = response.status().code(),
                reason,
                unlogged,
                "a handler could not answer"
            );
        }
    }

    /// Says why a streamed body ends early.
    fn say_why_not_all(&self, error: &io::Error) {
        if exhausted().is_none()
            && let Some(Leave { unlogged }) = self.application.lines.take()
        {
            error!(
                route = self.pattern(),
                reason = %Words(error),
                unlogged,
                "a handler could not write all of its answer"
            );
        }
    }

    /// What the log calls the route of a request.
    fn pattern(&self) -> &'static str {
        self.route
            .get()
            .map_or("(no route)", |matched| matched.pattern)
    }
}

/// For a request that came before its body: the outcome that says that its handler does not run before the
/// body is there.
///
/// A client that waits to be asked for its body gets at once any answer that is possible without it.
fn wants_body_first(routes: &Routes, raw: &RawRequest<'_>, port: &Port<'_, '_>) -> Option<u32> {
    let mut fields = raw.fields;
    let waits = fields.any(|(name, value)| {
        name.eq_ignore_ascii_case(b"expect") && value.eq_ignore_ascii_case(b"100-continue")
    });
    let runs = match routes.takes(raw.method, raw.path) {
        Takes::Pieces => true,
        Takes::Nothing => waits,
        Takes::Whole => waits && !may_collect(raw, port),
    };
    match (runs, routes.streams()) {
        (true, _) => None,
        (false, true) => Some(outcome::BODY_FIRST),
        (false, false) => Some(outcome::BODIES_FIRST),
    }
}

/// Whether a body may fit: its slot, or else what is free in the bucket in one piece.
fn may_collect(raw: &RawRequest<'_>, port: &Port<'_, '_>) -> bool {
    let Some(length) = raw.content_length else {
        return true;
    };
    let room = port
        .request_slot_len()
        .max(current_largest_piece().unwrap_or(0));
    usize::try_from(length).is_ok_and(|length| length <= room)
}
