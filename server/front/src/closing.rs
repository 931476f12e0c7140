//! Answers of our own, and what becomes of a connection after an answer: the next request, or its end.

use crate::connection::Connection;
use crate::exchange::{Exchange, OwnAnswer, State};
use crate::lists::List;
use crate::orders::Order;
use crate::turn::Loop;
use crate::world::{Caller, World};
use std::io;
use transom_http::{Fate, Note, refusals};
use transom_net::addresses::Counted;
use transom_net::pace::Pace;

/// How long it is listened to while it sends, at `--body-rate` or faster: many clients read no answer before
/// they have sent all of their body. As nginx has it.
const LINGER_MS: u64 = 30_000;

/// Reads of what such a client sends before the others are looked after.
const DISCARDS_AT_A_TIME: usize = 64;

impl<W: World> Loop<W> {
    /// Closes what no request has begun on, or only half a head.
    pub(crate) fn close_what_is_not_a_request(&mut self) {
        self.serve_ready(); // those whose turn was next
        while let Some(index) = self.table.first(List::Idle) {
            // What has come since the last look is a request that arrived before the end.
            self.table[index].transport.readable = true;
            self.drive(index);
            if self.table.stands_in(index, List::Idle) {
                self.end(index);
            }
        }
        while let Some(index) = self.table.first(List::Header) {
            self.cut_head(index);
        }
    }

    /// Closes a connection whose head will not be waited for.
    pub(crate) fn cut_head(&mut self, index: u32) {
        self.stats.cut.bump();
        self.stats.cut_heads.bump();
        match self.send_gathered(index, false) {
            // It is still to take the answers before it.
            Ok(false) => self.refuse(index, 503),
            Ok(true) => self.end(index),
            Err(_) => self.close(index),
        }
    }

    /// The process ends: what clients have not taken is for the kernel to send.
    pub(crate) fn close_everything(&mut self) {
        let mut from = 0;
        while let Some(index) = self.table.next_open(from) {
            let of_its_kind = match self.table[index].exchange.state {
                State::Closed | State::Idle | State::Lingering { .. } => None,
                State::Head if self.table[index].inbox.wanted == 0 => Some(&self.stats.cut_heads),
                State::Head | State::Filling { .. } | State::BodyWanted { .. } => {
                    Some(&self.stats.cut_bodies)
                }
                State::Waiting { .. } | State::Calling { .. } => Some(&self.stats.cut_calls),
                State::Writing(_) => Some(&self.stats.cut_answers),
            };
            if let Some(count) = of_its_kind {
                self.stats.cut.bump();
                count.bump();
            }
            self.forget(index);
            from = index + 1;
        }
    }

    /// Answers with one of our own replies, then closes or goes on as the status allows.
    pub(crate) fn answer(&mut self, index: u32, status: u16, note: Option<Note>) {
        if !self.renew_taker(index) {
            return;
        }
        let connection = &self.table[index];
        let keep_alive = self.may_keep_alive(connection) && refusals::may_keep_alive(status);
        let fate = Fate::after(keep_alive, connection.exchange.minor);
        let mut reply = [0; refusals::ANSWER_MAX];
        let len = refusals::render(
            &mut reply,
            status,
            note,
            connection.exchange.head_only,
            fate,
            &self.clock.date,
        );
        self.stats.answered(status);
        if status >= 500 {
            self.note_time(index); // there was a whole request
        }
        // After the answers before it.
        let result = match self.send_gathered(index, true) {
            Ok(true) => self.table[index].transport.send::<W>(&reply[..len], false),
            Ok(false) => Ok(0),
            Err(error) => Err(error),
        };
        let sent = match result {
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(_) => {
                self.note_answer(index, status, &reply[..len], 0..0);
                self.close(index);
                return;
            }
        };
        self.note_answer(index, status, &reply[..len], 0..sent);
        if sent < len {
            // Its client has not even taken what it was sent before: it is not read from until it has.
            if !keep_alive {
                self.let_go_of_buffer(index);
            }
            self.put_aside(
                index,
                OwnAnswer {
                    status,
                    note,
                    fate,
                    keep_alive,
                    seconds: self.clock.date.unix_seconds(),
                    sent: sent as u16,
                },
            );
        } else if keep_alive {
            self.next_request(index);
        } else {
            self.close_politely(index);
        }
    }

    /// Whether the connection may stay open after the present request.
    pub(crate) fn may_keep_alive(&self, connection: &Connection) -> bool {
        self.would_keep_alive(connection) && connection.exchange.upload.rest.is_empty()
    }

    /// The same, if the rest of the request's body is read before its answer ends.
    pub(crate) fn would_keep_alive(&self, connection: &Connection) -> bool {
        connection.exchange.keep_alive
            && self.policy.order == Order::Serve
            && connection.requests + 1 < self.policy.limits.requests_per_connection
    }

    /// The present request has been answered and the next one may come.
    pub(crate) fn next_request(&mut self, index: u32) {
        let connection = &mut self.table[index];
        connection.requests += 1;
        connection.exchange = Exchange::new(self.clock.now_ns);
        connection.inbox.wanted = 0;
        if connection.inbox.buffer.is_some() {
            connection.exchange.state = State::Head;
            connection.inbox.unparsed = true;
            // In no list until it has been looked at, which is before the loop sleeps: it may be a whole
            // request.
            self.table.unlink(index);
            self.note_arrival(index);
            self.queue(index);
            return;
        }
        let readable = connection.transport.readable;
        if self.policy.order >= Order::Drain {
            // What was promised to stay open was promised before the drain began.
            self.close_politely(index);
            return;
        }
        self.wait_for_request(index);
        if readable {
            self.queue(index);
        }
    }

    /// Nothing of the next request has come. Its client may still be taking answers.
    pub(crate) fn wait_for_request(&mut self, index: u32) {
        self.set_timer(index, List::Idle, self.policy.limits.timeouts.idle);
        self.resume_accepting(); // a new connection may wait for room that this one can make
    }

    /// Closes a connection whose client is in the middle of nothing, or after what it still has to take.
    pub(crate) fn end(&mut self, index: u32) {
        self.let_go_of_gathered(index);
        match self.table[index].transport.has_all_taken::<W>() {
            true => self.forget(index),
            false => self.close_politely(index),
        }
    }

    /// Closes such that the client can still read what it was sent: a close with unread bytes resets the
    /// connection, and a reset may overtake the answer.
    pub(crate) fn close_politely(&mut self, index: u32) {
        self.let_go_of_gathered(index);
        self.let_go_of_slot(index);
        self.let_go_of_buffer(index);
        let transport = &mut self.table[index].transport;
        let has_read = transport.half_closed && !transport.readable;
        if has_read && transport.is_done::<W>() {
            self.close(index);
            return;
        }
        let connection = &mut self.table[index];
        connection.transport.shutdown_write::<W>();
        connection.transport.readable = true;
        let (until_ms, mut pace) = (self.clock.now_ms + LINGER_MS, Pace::default());
        pace.begin(self.clock.now_ns);
        connection.exchange.state = State::Lingering { until_ms, pace };
        self.wait_for_end(index, until_ms, pace);
        self.queue(index);
        self.keep_connections_for_others();
        self.resume_accepting(); // as for one that is idle
    }

    pub(crate) fn read_and_discard(&mut self, index: u32) {
        for _ in 0..DISCARDS_AT_A_TIME {
            let connection = &mut self.table[index];
            match connection.transport.discard::<W>(self.memory.read) {
                Ok(0) => {
                    let transport = &mut self.table[index].transport;
                    transport.half_closed = true;
                    if transport.is_done::<W>() {
                        self.close(index);
                    } // else the kernel tells when both sides have had all
                    return;
                }
                Ok(len) => {
                    let (now, limit) = (self.clock.now_ns, self.policy.limits.linger_pace_limit);
                    if let State::Lingering { pace, .. } = &mut connection.exchange.state {
                        pace.earn(limit, len as u64, now);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.close(index),
            }
        }
        self.queue(index); // there may be more, and no event will tell
    }

    /// Closes a connection. What its client has not taken is thrown away, which a reset tells it: the kernel
    /// keeps nothing for connections that have no place, but for those of Unix sockets.
    pub(crate) fn close(&mut self, index: u32) {
        self.let_go_of_gathered(index);
        let transport = &self.table[index].transport;
        if !transport.has_all_taken::<W>() {
            transport.reset_at_close::<W>();
        }
        self.forget(index);
    }

    /// Closes a connection, and leaves with the kernel what its client has not taken.
    pub(crate) fn forget(&mut self, index: u32) {
        self.note_close(index);
        self.let_go_of_gathered(index);
        self.let_go_of_slot(index);
        self.let_go_of_buffer(index);
        // The place first: a client that sees the end connects again, and another loop may accept it at once.
        let counted = self.table[index].transport.counted.take();
        self.forget_address(counted);
        if !std::mem::take(&mut self.acceptor.leaves_its_place) {
            self.acceptor.limit.give_back();
        }
        self.table[index].transport.close::<W>();
        self.table.remove(index);
        self.resume_accepting();
        // It may have been the last one, or have had the slot that others wait for.
        let mut doorways = self.doorways.all();
        let is_waited_for = self.policy.order != Order::Serve
            || doorways.any(|doorway| self.table.first(List::Waiting(doorway)).is_some());
        self.agenda.again |= is_waited_for;
    }

    pub(crate) fn forget_address(&self, counted: Option<Counted>) {
        if let (Some(table), Some(counted)) = (&self.acceptor.addresses, counted) {
            table.leave(counted);
        }
    }

    /// Gives the slot back, or, if a handler has it, leaves it to be freed when that ends.
    pub(crate) fn let_go_of_slot(&mut self, index: u32) {
        let exchange = &mut self.table[index].exchange;
        let Some(slot) = exchange.slot() else {
            return;
        };
        let (at, submitted) = (exchange.at, exchange.is_submitted());
        exchange.state = State::Idle;
        if submitted {
            self.count_early(index);
        }
        let client = self.doorways[at].client_mut();
        if submitted {
            client.abandon(slot);
        } else {
            client.release(slot);
        }
    }

    pub(crate) fn let_go_of_buffer(&mut self, index: u32) {
        let connection = &mut self.table[index];
        connection.inbox.filled = 0;
        connection.inbox.used = 0;
        connection.inbox.unparsed = false;
        if let Some(buffer) = connection.inbox.buffer.take() {
            self.memory.pool.give_back(buffer);
        }
    }

    pub(crate) fn set_timer(&mut self, index: u32, list: List, after_ms: u64) {
        // One more than asked for, because the clock is cut to milliseconds.
        self.table
            .set_timer(index, list, self.clock.now_ms + after_ms + 1);
    }
}
