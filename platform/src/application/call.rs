//! One call, from when a door server thread has it until the front end has its answer.

use super::Application;
use super::answer::OpenCall;
use crate::meter::RouteMeter;
use crate::service::Service;
use crate::sign::{Matched, RouteNote, Sign, Until};
use crate::slot_io::{Port, Written};
use std::cell::{Cell, RefCell};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::Ordering;
use transom_arena::{
    Bump, Failed, Outcome, Pieces, Policy, Reason, Report, Tenant, exhausted, is_deferred,
};
use transom_doors::{Call, DoorHandler, EmergencyReply, Status as CallStatus, now_ns};
use transom_wire::frame::outcome;

impl Application {
    /// Until when a call may keep its bucket. A connection has no deadline, and may be used for as long as it
    /// is there.
    #[inline]
    fn until(&self, deadline_ns: u64) -> Until {
        match (self.service, deadline_ns) {
            (Service::Connections(_), _) => Until::ClientHasGone,
            (Service::Requests(_) | Service::Datagrams(_), 0) => Until::Ever,
            (Service::Requests(_) | Service::Datagrams(_), at_ns) => Until::Deadline(at_ns),
        }
    }
}

/// What a door server thread answers calls with.
pub(super) struct Server {
    application: &'static Application,
    /// The number of the thread, and of its bucket.
    thread: u32,
    /// What is said of the present call.
    sign: &'static Sign,
    /// Borrowed for the length of a call; calls of one thread do not overlap.
    tenant: RefCell<Tenant>,
    /// The bucket keeps too much, or the thread is spoilt: it ends, and another one takes its place.
    leaves: Cell<bool>,
    /// The bucket is noted as cut.
    is_cut: Cell<bool>,
    /// When the last call ended.
    ended_ns: Cell<u64>,
}

impl Server {
    /// For the thread of that number, which has begun to serve in its bucket.
    pub(super) fn new(application: &'static Application, thread: u32, tenant: Tenant) -> Self {
        Server {
            application,
            thread,
            sign: application.signs.of(thread),
            tenant: RefCell::new(tenant),
            leaves: Cell::new(false),
            is_cut: Cell::new(application.is_noted_as_cut(thread)),
            ended_ns: Cell::new(0),
        }
    }

    /// Counts a call that has ended.
    #[inline]
    fn count(
        &self,
        meter: &RouteMeter,
        outcome: &Outcome<'_, Option<Written>>,
        claimed_at_ns: u64,
    ) {
        let application = self.application;
        // The front end has only asked: the real call comes with the body.
        let has_run = !matches!(&outcome.result, Ok(Some(Written::BodyFirst(_))));
        if has_run {
            application.counters.calls.fetch_add(1, Ordering::Relaxed);
        }
        if outcome.c_left > 0 && application.policy == Policy::Escape && outcome.result.is_err() {
            meter.count_c_leak(outcome.c_left);
        }
        if let Some(refusal) = outcome.c_refused {
            application.say_refused(meter.route, refusal);
        }
        if has_run
            && !matches!(&outcome.result, Err(Failed::Exhausted(exhaustion)) if exhaustion.reason == Reason::Arena)
        {
            // Of the others the culprit's line has said more.
            meter.memory.observe(outcome.usage.extent as u64);
        }
        if has_run {
            self.note_time(meter, claimed_at_ns);
        }
    }

    /// Counts for how long a call has held its bucket. One that follows another at once began when that
    /// ended: the door's own clock stands still for a few calls then.
    #[inline]
    fn note_time(&self, meter: &RouteMeter, claimed_at_ns: u64) {
        let now_ns = now_ns();
        let began_ns = claimed_at_ns.max(self.ended_ns.replace(now_ns));
        meter.call_time.observe(now_ns.saturating_sub(began_ns));
    }

    /// After a call with which something is kept in the bucket, or that has come to one which is cut, or that
    /// has left its thread inside a panic.
    fn look_at_thread(
        &self,
        tenant: &mut Tenant,
        meter: &RouteMeter,
        kept: usize,
        found_no_piece: Option<Pieces>,
    ) {
        let (application, thread) = (self.application, self.thread);
        if tenant.is_spoilt() {
            application.spoilt_thread_leaves(thread, tenant, meter.route);
            self.leaves.set(true);
        } else if application.is_to_leave(thread, tenant, kept, found_no_piece) {
            application.thread_leaves(thread, tenant, (meter.route, kept));
            self.leaves.set(true);
        }
        self.is_cut.set(application.is_noted_as_cut(thread));
    }
}

/// Tells the client, and the log, how a call ends: before its cleanups run if it has failed, else when all of
/// it has ended.
struct Ending<'e, 'p, 'c> {
    application: &'static Application,
    stream: Option<&'e TcpStream>,
    port: &'e Port<'p, 'c>,
    route: &'e RouteNote<'e>,
    sign: &'static Sign,
    emergency: EmergencyReply,
    /// The outcome that a failure was counted and logged with.
    failure: Cell<Option<u32>>,
    /// The client has its answer.
    is_answered: Cell<bool>,
}

impl Ending<'_, '_, '_> {
    /// What is counted for the route.
    #[inline]
    fn meter(&self) -> &'static RouteMeter {
        let matched: Option<Matched> = self.route.get();
        let number = matched.map(|matched| matched.number);
        self.application.meters.of(number)
    }

    /// Counts a failure, has `answer` tell the client of it if that is to be now, and writes its line. Gives
    /// its outcome.
    fn fail(&self, failed: &Failed<'_>, answer: impl FnOnce(u32)) -> u32 {
        let outcome = self.application.count_failure(failed);
        self.failure.set(Some(outcome));
        answer(outcome);
        self.application.name_culprit(self.meter(), failed, false);
        outcome
    }

    /// Answers a call of which something is still to run. A client that has sent a connection sees its end;
    /// the call itself ends with the connection's descriptor.
    ///
    /// # Safety
    /// As for [`Port::answer_early`].
    unsafe fn answer_early(&self, (len, outcome): (usize, u32)) {
        if let Some(stream) = self.stream {
            // An error says that it has ended already.
            let _ = stream.shutdown(Shutdown::Both);
        } else if !self.is_answered.replace(true) {
            self.sign.cleans_up_from(now_ns());
            // SAFETY: the caller's promise.
            unsafe { self.port.answer_early(len, CallStatus(outcome)) };
        }
    }

    /// Runs the handler, and writes its answer. One that says that the handler has failed is sent at once if
    /// cleanups are still to run.
    ///
    /// # Safety
    /// As for [`OpenCall::answer`].
    #[inline]
    unsafe fn answer(&self, open: &OpenCall<'_, '_, '_>, arena: &Bump) -> Option<Written> {
        // SAFETY: the caller's promise.
        let written = unsafe { open.answer(arena) };
        let reply = reply_of(written);
        let is_failure = open.has_failed.get() || reply.1 != outcome::OK;
        if is_failure && is_deferred() && exhausted().is_none() {
            // SAFETY: the handler has returned, and all that it has borrowed is dropped.
            unsafe { self.answer_early(reply) };
        }
        written
    }

    /// What the door is told of a call that has ended in this way.
    #[inline]
    fn reply_of(&self, result: &Result<Option<Written>, Failed<'_>>) -> (usize, u32) {
        match (result, self.failure.get()) {
            (Ok(written), _) => reply_of(*written),
            (Err(_), Some(outcome)) => (0, outcome),
            (Err(failed), None) => (0, self.fail(failed, |_| {})),
        }
    }
}

impl Report for Ending<'_, '_, '_> {
    fn failed(&self, failed: Failed<'_>) {
        // SAFETY: what the handler's frames have borrowed is given up when this is called.
        self.fail(&failed, |outcome| unsafe {
            self.answer_early((0, outcome));
        });
    }

    fn stuck(&self, failed: Failed<'_>) {
        let (meter, stream) = (self.meter(), self.stream);
        // SAFETY: called on this thread, at most once, below the handler's frames; it is parked right after.
        unsafe {
            self.application
                .lose(meter, &failed, stream, &self.emergency);
        };
    }
}

/// What the door is told of an answer: bytes of it in the slot, and how it went.
#[inline]
fn reply_of(written: Option<Written>) -> (usize, u32) {
    match written {
        Some(Written::Whole(len)) => (len, outcome::OK),
        Some(Written::TooLarge(_)) => (0, outcome::REPLY_TOO_LARGE),
        Some(Written::Broken) => (0, outcome::STREAM_BROKEN),
        Some(Written::Unwritten) => (0, outcome::UNWRITTEN),
        Some(Written::BodyFirst(outcome)) => (0, outcome),
        None => (0, outcome::BAD_FRAME),
    }
}

impl DoorHandler for Server {
    fn call(&self, _: u32, call: &mut Call<'_>) {
        let application = self.application;
        let mut tenant = self.tenant.borrow_mut();
        let emergency = call.emergency();
        let frame: *const [u8] = call.request();
        let deadline_ns = call.deadline();
        let claimed_at_ns = call.claimed_at_ns();

        self.sign
            .begins(claimed_at_ns, application.until(deadline_ns));

        let route = RouteNote::new(self.sign);
        let stream = match application.service {
            Service::Connections(_) => take_connection(call),
            Service::Requests(_) | Service::Datagrams(_) => None,
        };

        let port = Port::new(call, self.sign);
        let ending = Ending {
            application,
            stream: stream.as_ref(),
            port: &port,
            route: &route,
            sign: self.sign,
            emergency,
            failure: Cell::new(None),
            is_answered: Cell::new(false),
        };
        let open = OpenCall {
            application,
            frame,
            deadline_ns,
            stream: stream.as_ref(),
            port: &port,
            route: &route,
            has_failed: Cell::new(false),
        };
        // SAFETY: the frame stays as it is until the call is completed, but for the place of a streamed
        // body, which the front end writes only inside `Port::hand_over`; what is read of the request while
        // that runs (method, path, fields) lies before it.
        let answer = |arena: &Bump| unsafe { ending.answer(&open, arena) };
        let outcome = match application.policy {
            Policy::Overdraft => tenant.enter(&ending, answer),
            // SAFETY: the application was made by `escaping`, whose caller promised the contract for its
            // handlers. Ours above hold nothing but memory of the bucket (a body that was collected) and a
            // borrow of the port when a handler runs, and the port is used after a jump only where that does
            // not matter (`answer_early`). A connection is owned by this frame, which is not jumped over.
            Policy::Escape => unsafe { tenant.enter_escaping(&ending, answer) },
        };

        let meter = ending.meter();
        let (len, status) = ending.reply_of(&outcome.result);
        let is_answered = ending.is_answered.get();
        self.count(meter, &outcome, claimed_at_ns);
        let (left, kept, change) = (outcome.left, outcome.kept, outcome.last_change);
        let found_no_piece = outcome.found_no_piece;
        // Before the front end learns of it: it then waits for one descriptor less.
        drop(stream);
        match is_answered {
            true => self.sign.has_cleaned_up(),
            false => call.complete(len, CallStatus(status)),
        }
        if left != 0 {
            application.note_left(meter, left, change);
        }
        // Two tests for nearly all requests: nothing is kept or cut, and nothing panics.
        if kept | usize::from(self.is_cut.get()) != 0 || tenant.is_spoilt() {
            self.look_at_thread(&mut tenant, meter, kept, found_no_piece);
        }
    }

    fn leaves(&self) -> bool {
        self.leaves.get()
    }
}

/// The connection that came with a call, as its handler expects it: one whose reads wait.
fn take_connection(call: &mut Call<'_>) -> Option<TcpStream> {
    let stream = TcpStream::from(call.take_descriptors().next()?);
    stream.set_nonblocking(false).ok()?;
    Some(stream)
}
