//! Clients that are slow to send or to take, on purpose or not: how they are told from others, and who has to
//! go.
//!
//! A connection that waits for its client stands in a list by the time that the client has left (see
//! [`Pace`]). Bytes make that time longer, and the list is not put in order again for each of them: when the
//! timer strikes, it is looked whether it still means anything.
//!
//! [`Pace`]: transom_net::pace::Pace

use crate::exchange::{Answer, OwnAnswer, State};
use crate::lists::List;
use crate::orders::Order;
use crate::rules::{LINGER_SILENCE, MISSABLE_NS};
use crate::turn::Loop;
use crate::world::{Caller, World};
use std::io;
use transom_http::{DateCache, refusals};
use transom_net::pace::{Pace, PaceLimit};

/// How long no request may be served at a doorway, though some wait, before slow clients have to go. Less
/// than a person notices, and more than the threads of a busy application are all busy at once.
const PRESSED_MS: u64 = 20;

/// How soon it is looked again, once a client has to go.
const AGAIN_MS: u64 = 10;

/// How far behind a client must be to have to go for others: a client that is merely far away answers within
/// that time.
const BEHIND_NS: u64 = 100_000_000;

/// The same of a client that has sent requests ahead, if a head in parts finds no other buffer.
const AHEAD_NS: u64 = 1_000_000_000;

/// How long bytes may be on their way to a client, and the answer of its kernel on the way back.
const ON_ITS_WAY_NS: u64 = 2_000_000_000;

/// How soon it is looked again whether such a client has taken something.
const LOOK_AGAIN_MS: u32 = 100;

/// Clients that have to go before the others are looked after.
const CUTS_AT_A_TIME: usize = 16;

/// The part of a loop's connections that may linger: they have had their answer, and others want one.
const LINGERING_PART: u32 = 4;

impl<W: World> Loop<W> {
    /// Before more is given to the kernel: a client that has taken all has all of its time for what comes.
    /// False if it has used up that time already, for what it was given before; then it has been cut.
    pub(super) fn renew_taker(&mut self, index: u32) -> bool {
        let now_ms = self.clock.now_ms as u32;
        let outbox = &mut self.table[index].outbox;
        if now_ms.wrapping_sub(outbox.renewed_ms) < LOOK_AGAIN_MS {
            return true; // without a system call: every answer comes by here
        }
        outbox.renewed_ms = now_ms;
        self.look_at_taker(index);
        let limit = self.policy.limits.write_pace_limit;
        let pace = self.table[index].outbox.pace;
        let is_over = pace.is_over(limit, self.clock.now_ns);
        if is_over {
            self.cut(index);
        }
        !is_over
    }

    /// Looks what a client has taken. One that has taken all has all of its time again; and so has one that
    /// has soon taken all that there was when its time last began, while more comes now and then: it may be
    /// far away, so that something is always on its way.
    fn look_at_taker(&mut self, index: u32) {
        self.credit_taker(index);
        let now_ns = self.clock.now_ns;
        let connection = &mut self.table[index];
        let is_stuck = matches!(connection.exchange.state, State::Writing(_));
        let (outbox, handed) = (&mut connection.outbox, connection.transport.handed);
        let is_soon = !is_stuck && outbox.pace.used_ns(now_ns) < ON_ITS_WAY_NS;
        if outbox.taken == handed || (outbox.taken >= outbox.mark && is_soon) {
            outbox.pace.begin(now_ns);
        }
        if outbox.taken >= outbox.mark {
            outbox.mark = handed;
        }
    }

    /// From now on the client is waited for, to take its answer.
    fn wait_for_taker(&mut self, index: u32, list: List) {
        let limit = self.policy.limits.write_pace_limit;
        let due = self.table[index].outbox.pace.due_ms(limit);
        self.table.set_timer(index, list, due);
    }

    /// Gives a client what it has earned by taking some of its answer.
    ///
    /// What counts is what its side of the connection has acknowledged: the socket has room again only when a
    /// good part of its buffer is empty, which for a client that is just fast enough can be long.
    fn credit_taker(&mut self, index: u32) {
        let (now, limit) = (self.clock.now_ns, self.policy.limits.write_pace_limit);
        let connection = &mut self.table[index];
        if connection.outbox.taken == connection.transport.handed {
            return connection.outbox.pace.earn(limit, 0, now); // nothing new, without a system call
        }
        let taken = connection.transport.taken::<W>();
        let new = taken.saturating_sub(connection.outbox.taken);
        connection.outbox.taken += new;
        connection.outbox.pace.earn(limit, new, now);
    }

    /// The socket has no room for the rest of an answer.
    pub(super) fn writer_is_stuck(&mut self, index: u32) {
        let list = List::Write(self.table[index].exchange.at.doorway);
        self.credit_taker(index);
        if !self.table.stands_in(index, list) {
            self.wait_for_taker(index, list);
        }
    }

    /// A part of an answer, or all of it, has been given to the socket.
    pub(super) fn writer_is_done(&mut self, index: u32) {
        if self.waits_for_taker(index) {
            self.credit_taker(index);
            self.table.unlink(index);
        }
    }

    fn waits_for_taker(&self, index: u32) -> bool {
        let list = List::Write(self.table[index].exchange.at.doorway);
        self.table.stands_in(index, list)
    }

    /// From now on the client is waited for, to send more of its body.
    pub(super) fn wait_for_body(&mut self, index: u32, list: List) {
        let now = self.clock.now_ns;
        let pace = &mut self.table[index].exchange.upload.pace;
        pace.resume(now);
        let due = pace.due_ms(self.policy.limits.body_pace_limit);
        self.table.set_timer(index, list, due);
    }

    /// Bytes of a body have come.
    pub(super) fn credit_sender(&mut self, index: u32, bytes: usize) {
        let (now, limit) = (self.clock.now_ns, self.policy.limits.body_pace_limit);
        self.table[index]
            .exchange
            .upload
            .pace
            .earn(limit, bytes as u64, now);
    }

    /// The timer of a body has struck: whether its client has no time left. If it has, the timer is set
    /// again.
    pub(super) fn sender_is_late(&mut self, index: u32, list: List) -> bool {
        let limit = self.policy.limits.body_pace_limit;
        self.is_over(index, list, self.table[index].exchange.upload.pace, limit)
    }

    /// The timer of a client has struck: whether it has used up its time. If not, the timer is set again.
    fn is_over(&mut self, index: u32, list: List, pace: Pace, limit: PaceLimit) -> bool {
        let is_over = pace.is_over(limit, self.clock.now_ns);
        if !is_over {
            self.table.set_timer(index, list, pace.due_ms(limit));
        }
        is_over
    }

    /// Waits for a client that was sent its last answer to send its end, for as long as it sends fast enough.
    pub(super) fn wait_for_end(&mut self, index: u32, until_ms: u64, pace: Pace) {
        let due = pace.due_ms(self.policy.limits.linger_pace_limit);
        self.table.set_timer(index, List::Linger, due.min(until_ms));
    }

    /// The timer of such a client has struck. While it takes its last answer, it has the time for that which
    /// others have, also in a drain. In a drain a client that only lingers has the time that has begun.
    pub(super) fn lingers_no_longer(&mut self, index: u32) {
        let State::Lingering { until_ms, pace } = self.table[index].exchange.state else {
            return self.close(index);
        };
        if !self.table[index].transport.has_all_taken::<W>() {
            self.credit_taker(index);
            let (taker, limit) = (
                self.table[index].outbox.pace,
                self.policy.limits.write_pace_limit,
            );
            if taker.is_over(limit, self.clock.now_ns) {
                return self.cut(index);
            }
            let look_ms = self.clock.now_ms + LINGER_SILENCE.as_millis() as u64;
            let due = taker.due_ms(limit).min(look_ms);
            return self.table.set_timer(index, List::Linger, due);
        }
        let may_go_on = self.policy.order < Order::Drain
            && !self.table[index].transport.half_closed
            && self.clock.now_ms < until_ms
            && !pace.is_over(self.policy.limits.linger_pace_limit, self.clock.now_ns);
        match may_go_on {
            true => self.wait_for_end(index, until_ms, pace),
            false => self.close(index),
        }
    }

    /// As [`Loop::sender_is_late`], for who takes an answer.
    pub(super) fn taker_is_late(&mut self, index: u32, list: List) -> bool {
        self.credit_taker(index);
        let limit = self.policy.limits.write_pace_limit;
        self.is_over(index, list, self.table[index].outbox.pace, limit)
    }

    /// Closes on a client that has not taken what it was sent. A plain close would leave the kernel with its
    /// bytes, for as long as the client pleases.
    pub(super) fn cut(&mut self, index: u32) {
        self.stats.slow_cut.bump();
        self.table[index].transport.reset_at_close::<W>();
        self.close(index);
    }

    /// Puts an answer of ours aside until the socket has room again. Nothing more is read meanwhile.
    pub(super) fn put_aside(&mut self, index: u32, own: OwnAnswer) {
        self.let_go_of_slot(index);
        let connection = &mut self.table[index];
        connection.exchange.state = State::Writing(Answer::Own(own));
        let list = match connection.inbox.buffer {
            Some(_) => List::AnswerAhead,
            None => List::Answer,
        };
        self.wait_until_all_has_left(index, list);
    }

    /// Waits until the socket has room for what was put aside, for as long as its client takes what was sent
    /// before fast enough.
    pub(super) fn wait_until_all_has_left(&mut self, index: u32, list: List) {
        self.look_at_taker(index);
        self.wait_for_taker(index, list);
    }

    /// Sends the rest of an answer that was put aside.
    pub(super) fn go_on_answering(&mut self, index: u32, own: OwnAnswer) {
        match self.send_gathered(index, true) {
            Ok(true) => {}
            Ok(false) => return,
            Err(_) => return self.close(index),
        }
        let connection = &mut self.table[index];
        let mut reply = [0; refusals::ANSWER_MAX];
        let len = refusals::render(
            &mut reply,
            own.status,
            own.note,
            connection.exchange.head_only,
            own.fate,
            &DateCache::new(own.seconds),
        );
        let sent = usize::from(own.sent);
        match connection.transport.send::<W>(&reply[sent..len], false) {
            Ok(more) => {
                self.note_answer(index, own.status, &reply[..len], sent..sent + more);
                let connection = &mut self.table[index];
                if sent + more < len {
                    // Its time goes on: it is for the whole of so short an answer.
                    let sent = own.sent + more as u16;
                    let own = OwnAnswer { sent, ..own };
                    connection.exchange.state = State::Writing(Answer::Own(own));
                    return;
                }
                if own.keep_alive {
                    self.next_request(index);
                } else {
                    self.close_politely(index);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.close(index),
        }
    }

    /// Of those who wait for the rest of a head or of a small body, the one that has sent the least for its
    /// time.
    pub(super) fn slowest_partial(&self) -> Option<u32> {
        let both = [List::Header, List::SmallBody];
        let entries = both.into_iter().flat_map(|list| self.table.entries(list));
        entries.reduce(|slowest, other| self.slower(slowest, other))
    }

    /// Which of two has sent less for its time.
    fn slower(&self, one: u32, other: u32) -> u32 {
        let now = self.clock.now_ns;
        let [a, b] = [one, other].map(|index| {
            let connection = &self.table[index];
            let age = now.saturating_sub(connection.exchange.arrived_ns) / 1_000_000 + 1;
            (u64::from(connection.inbox.filled), age)
        });
        // Bytes a millisecond, compared without a division.
        match b.0 * a.1 < a.0 * b.1 {
            true => other,
            false => one,
        }
    }

    /// Frees a buffer of the pool, if one can be had from who can do without or is slow; false if none can.
    pub(super) fn free_a_buffer(&mut self) -> bool {
        // A client that sends ahead and takes no answer is worse than one that is only slow.
        let slowest = self.slowest_partial();
        let least_ns = match slowest {
            Some(_) => MISSABLE_NS,
            None => AHEAD_NS,
        };
        if let Some(ahead) = self.slowest_ahead(least_ns) {
            self.cut(ahead);
            return true;
        }
        let Some(slowest) = slowest else {
            return false;
        };
        self.stats.partial_evicted.bump();
        self.refuse(slowest, 408);
        // An answer that does not fit its socket keeps no buffer of a request that will not be served.
        true
    }

    /// Whether a client loses nothing, or is so slow to take what it was sent that others have its place.
    fn can_be_missed(&mut self, index: u32) -> bool {
        let (now_ms, now_ns) = (self.clock.now_ms as u32, self.clock.now_ns);
        let limit = self.policy.limits.write_pace_limit;
        let outbox = &self.table[index].outbox;
        let was_looked_at = now_ms.wrapping_sub(outbox.looked_ms) < LOOK_AGAIN_MS;
        if was_looked_at && !is_behind(outbox.pace, limit, now_ns) {
            return false; // without a system call: there may be many
        }
        if !self.is_taking(index) {
            return true;
        }
        self.look_at_taker(index);
        let outbox = &mut self.table[index].outbox;
        outbox.looked_ms = now_ms;
        is_behind(outbox.pace, limit, now_ns)
    }

    /// Of all connections, whatever they are at, one whose client takes nothing of what it was sent: a
    /// streamed answer between two pieces, or answers before the present request.
    fn some_slow_taker(&mut self) -> Option<u32> {
        let mut from = 0;
        while let Some(index) = self.table.next_open(from) {
            if self.is_behind_by(index, MISSABLE_NS) {
                return Some(index);
            }
            from = index + 1;
        }
        None
    }

    /// Whether a client is so far behind with taking what it was sent. With a system call only if it may be.
    fn is_behind_by(&mut self, index: u32, least_ns: u64) -> bool {
        let (now, limit) = (self.clock.now_ns, self.policy.limits.write_pace_limit);
        let least_ns = least_ns.min(limit.stall_ns);
        if self.table[index].outbox.pace.used_ns(now) < least_ns {
            return false;
        }
        self.look_at_taker(index);
        self.table[index].outbox.pace.used_ns(now) >= least_ns
    }

    /// Of the clients that have sent more requests than one, and are so far behind with taking the answers to
    /// the first, the one that is furthest behind. What it has sent ahead lies in a buffer.
    fn slowest_ahead(&mut self, least_ns: u64) -> Option<u32> {
        let mut slowest: Option<(u64, u32)> = None;
        let lists = self.doorways.all().map(List::Write);
        for list in lists.chain([List::AnswerAhead]) {
            let mut next = self.table.first(list);
            while let Some(index) = next {
                next = self.table.after(index);
                if self.table[index].inbox.buffer.is_some() && self.is_behind_by(index, least_ns) {
                    let used_ns = self.table[index].outbox.pace.used_ns(self.clock.now_ns);
                    slowest = slowest.max(Some((used_ns, index)));
                }
            }
        }
        slowest.map(|(_, index)| index)
    }

    /// Whether a client has not taken all of its answers.
    fn is_taking(&self, index: u32) -> bool {
        let connection = &self.table[index];
        matches!(connection.exchange.state, State::Writing(_))
            || connection.outbox.gathered.is_some()
            || !connection.transport.has_all_taken::<W>()
    }

    /// The first of a list that can be missed.
    fn first_missable(&mut self, list: List) -> Option<u32> {
        let mut next = self.table.first(list);
        while let Some(index) = next {
            if self.can_be_missed(index) {
                return Some(index);
            }
            next = self.table.after(index);
        }
        None
    }

    /// Which connection can be closed for a new one: the one that loses the least by it.
    pub(super) fn evictable(&mut self) -> Option<u32> {
        let lists = [List::Linger, List::Idle, List::Answer, List::AnswerAhead];
        let doorways = self.doorways.all().map(List::Write);
        let mut lists = lists.into_iter().chain(doorways);
        let missable = lists.find_map(|list| self.first_missable(list));
        let missable = missable.or_else(|| self.slowest_missable_head());
        if missable.is_some() || self.clock.now_ms < self.acceptor.search_ms {
            return missable;
        }
        let found = (self.slowest_missable_sender()).or_else(|| self.some_slow_taker());
        if found.is_none() {
            // Not again at once: there may be many, and others may want a place all the time.
            self.acceptor.search_ms = self.clock.now_ms + u64::from(LOOK_AGAIN_MS);
        }
        found
    }

    /// Of the clients that are to send a body, and send so little of it that others have their place, the one
    /// that is furthest behind.
    fn slowest_missable_sender(&self) -> Option<u32> {
        let (now, limit) = (self.clock.now_ns, self.policy.limits.body_pace_limit);
        let pace = |index: &u32| self.table[*index].exchange.upload.pace;
        let senders = self.doorways.all().map(List::Body);
        let senders = senders.chain([List::SmallBody]);
        let senders = senders.flat_map(|list| self.table.entries(list));
        let behind = senders.filter(|index| is_behind(pace(index), limit, now));
        behind.max_by_key(|index| pace(index).used_ns(now))
    }

    /// Tells such a client that it was too slow, and has its place free at once.
    fn close_slow_sender(&mut self, index: u32) {
        self.stats.slow_cut.bump();
        self.give_up(index, 408);
        // It has read that, or it has not: its place is wanted.
        let mut waits = [List::Linger, List::Answer, List::AnswerAhead].into_iter();
        if waits.any(|list| self.table.stands_in(index, list)) {
            self.close(index);
        }
    }

    /// Of the clients that have sent a part of a head, and can be missed, the one that has sent the least for
    /// its time. (A whole head whose body is coming is a request already.)
    fn slowest_missable_head(&mut self) -> Option<u32> {
        let (mut slowest, mut next) = (None, self.table.first(List::Header));
        while let Some(index) = next {
            if self.can_be_missed(index) {
                slowest = Some(slowest.map_or(index, |slowest| self.slower(slowest, index)));
            }
            next = self.table.after(index);
        }
        slowest
    }

    /// Closes one of those.
    pub(super) fn close_for_newcomer(&mut self, index: u32) {
        let exchange = &self.table[index].exchange;
        let (body, pace) = (List::Body(exchange.at.doorway), exchange.upload.pace);
        let sends =
            self.table.stands_in(index, body) || self.table.stands_in(index, List::SmallBody);
        if sends && is_behind(pace, self.policy.limits.body_pace_limit, self.clock.now_ns) {
            return self.close_slow_sender(index);
        }
        if self.table.stands_in(index, List::Header) {
            self.stats.partial_evicted.bump();
        } else if self.is_taking(index) {
            return self.cut(index);
        } else if !self.table.stands_in(index, List::Linger) {
            self.stats.evicted.bump();
        }
        self.close(index);
    }

    /// Lingering connections have a share of the table; beyond it the oldest goes that can be missed.
    pub(super) fn keep_connections_for_others(&mut self) {
        let most = (self.table.size() / LINGERING_PART).max(1);
        while self.table.len(List::Linger) > most {
            let Some(oldest) = self.first_missable(List::Linger) else {
                return;
            };
            self.close_for_newcomer(oldest);
        }
    }

    /// The slot or the handler of a doorway that has been held the longest for a client that is behind.
    fn slowest_at(&mut self, doorway: u16, bodies_only: bool) -> Option<u32> {
        let now = self.clock.now_ns;
        let mut slowest: Option<(u64, u32)> = None;
        let mut consider = |used: u64, index| {
            if used >= BEHIND_NS && slowest.is_none_or(|(most, _)| used > most) {
                slowest = Some((used, index));
            }
        };
        for index in self.table.entries(List::Body(doorway)) {
            consider(self.table[index].exchange.upload.pace.used_ns(now), index);
        }
        if !bodies_only {
            let mut next = self.table.first(List::Write(doorway));
            while let Some(index) = next {
                self.credit_taker(index);
                consider(self.table[index].outbox.pace.used_ns(now), index);
                next = self.table.after(index);
            }
        }
        slowest.map(|(_, index)| index)
    }

    /// Bodies that trickle in may hold half of the slots; beyond that the slowest of them has to go.
    pub(super) fn keep_slots_for_others(&mut self, newest: u32) {
        let at = self.table[newest].exchange.at;
        let half = self.doorways[at].client().usable_slots().div_ceil(2);
        while self.table.len(List::Body(at.doorway)) as usize > half {
            match self.slowest_at(at.doorway, true) {
                Some(slowest) if slowest != newest => {
                    self.stats.slow_cut.bump();
                    self.give_up(slowest, 408);
                }
                _ => return,
            }
        }
    }

    /// Where requests wait and nothing goes on, clients that are behind may not hold more than their share.
    pub(super) fn relieve_doorways(&mut self) {
        for doorway in self.doorways.all() {
            if self.is_pressed(doorway) {
                self.relieve(doorway);
            }
        }
    }

    /// What slow clients may hold at a doorway. Its slots are twice its buckets, unless it was set up
    /// otherwise, and all loops share these: so this is half of the buckets.
    fn share_of_slow_clients(&self, doorway: u16) -> u32 {
        let Some(instance) = self.doorways[doorway].server() else {
            return u32::MAX;
        };
        let slots = instance.client().usable_slots() as u32;
        (slots / 4 / self.policy.loops).max(1)
    }

    fn held_by_waiters(&self, doorway: u16) -> u32 {
        self.table.len(List::Write(doorway)) + self.table.len(List::Body(doorway))
    }

    /// Whether requests have waited at a doorway for so long, and nothing was answered meanwhile, that a slow
    /// client has to go: at once if slow clients have more than their share, else before those who wait are
    /// sent away.
    fn is_pressed(&mut self, doorway: u16) -> bool {
        let held = self.held_by_waiters(doorway);
        if held == 0 {
            self.doorways.pressure[usize::from(doorway)].due_ms = 0;
            return false;
        }
        let pressed = self.doorways[doorway].serving.is_some()
            && (self.table.first(List::Waiting(doorway)).is_some()
                || self.doorways[doorway].has_unclaimed_calls());
        let bearable = if held > self.share_of_slow_clients(doorway) {
            PRESSED_MS
        } else {
            PRESSED_MS.max(self.policy.limits.timeouts.queue / 2)
        };
        let now = self.clock.now_ms;
        let pressure = &mut self.doorways.pressure[usize::from(doorway)];
        if !pressed {
            pressure.due_ms = 0;
            return false;
        }
        if pressure.due_ms == 0 {
            pressure.since_ms = now;
        }
        // In a moment a client may be far enough behind that is not now.
        let due = pressure.since_ms + bearable;
        pressure.due_ms = due.max(now + AGAIN_MS);
        due <= now
    }

    fn relieve(&mut self, doorway: u16) {
        let share = self.share_of_slow_clients(doorway);
        for n in 0..CUTS_AT_A_TIME {
            if n > 0 && self.held_by_waiters(doorway) <= share {
                return;
            }
            let Some(slowest) = self.slowest_at(doorway, false) else {
                return;
            };
            if self.table.stands_in(slowest, List::Body(doorway)) {
                self.stats.slow_cut.bump();
                self.give_up(slowest, 408);
            } else {
                self.cut(slowest);
            }
        }
    }
}

/// Whether a client is so slow to take or to send that others have its place, if they want it.
fn is_behind(pace: Pace, limit: PaceLimit, now_ns: u64) -> bool {
    pace.used_ns(now_ns) >= MISSABLE_NS.min(limit.stall_ns)
}
