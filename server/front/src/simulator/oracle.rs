//! The oracle: after a run it says whether what was sent was right. It knows what was asked, what the
//! application did and what went wrong, and nothing of the loop.

use super::answers::{Answers, Heard, read_on};
use super::clients::{Client, Ending};
use super::clock::{MS, US};
use super::requests::{End, Entry, Facts, Request, Target};
use super::schedule::Plan;
use super::sockets::Socket;
use super::stage::Stage;
use crate::stats::LoopStats;
use std::time::Duration;
use transom_net::addresses::Admission;

/// The time that a loop may take for anything beside the work itself.
const LATENCY_NS: u64 = 25 * MS;

/// How far the loop's clock may be behind.
const TURN_NS: u64 = 5 * MS;

/// What is wrong, if something is.
type Verdict = Result<(), String>;

fn demand(holds: bool, wrong: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(wrong()) }
}

/// One client's connection, and what was sent there.
struct Case<'a> {
    plan: &'a Plan,
    stage: &'a Stage,
    client: &'a Client,
    socket: &'a Socket,
    answers: Answers,
}

/// Judges a run.
pub(super) fn judge(plan: &Plan, stage: &Stage, stats: &LoopStats) -> Verdict {
    if let Some(complaint) = stage.complaints.first() {
        return Err(complaint.clone());
    }
    let mut sums = Sums::default();
    for client in &stage.clients {
        let Some(at) = client.socket else { continue };
        let socket = &stage.ground.kernel.sockets[at];
        let mut answers = Answers::new(client.requests.len());
        let book = &stage.ground.book;
        let kind = |n: usize| book[client.requests[n]].request.kind();
        let log = &socket.outbound.log;
        let count = client.requests.len();
        let named = |wrong: String| format!("client {}: {wrong}", client.number);
        read_on(&mut answers, log, kind, count, true).map_err(named)?;
        let case = Case {
            plan,
            stage,
            client,
            socket,
            answers,
        };
        case.judge().map_err(named)?;
        sums.count(&case.answers);
    }
    judge_figures(plan, stage, stats, &sums)
}

/// How many answers there were of which kind.
#[derive(Default)]
struct Sums {
    good: u64,
    client_errors: u64,
    not_implemented: u64,
    server_errors: u64,
}

impl Sums {
    fn count(&mut self, answers: &Answers) {
        for answer in &answers.all {
            match answer.status {
                0..=399 => self.good += 1,
                400..=499 => self.client_errors += 1,
                501 => self.not_implemented += 1,
                _ => self.server_errors += 1,
            }
        }
    }
}

fn judge_figures(plan: &Plan, stage: &Stage, stats: &LoopStats, sums: &Sums) -> Verdict {
    let mut places = 0;
    while stage.limit.take() {
        places += 1;
    }
    let expected = plan.places - stage.watch.neighbours;
    demand(places == expected, || {
        format!("{places} places are free at the end, not {expected}")
    })?;
    judge_addresses(plan, stage)?;
    let sockets = stage.ground.kernel.sockets.iter();
    let last = sockets
        .filter_map(|socket| socket.ends.server_closed_ns)
        .max();
    let told = stage.watch.drained_ns.unwrap_or(0);
    let late = stage.ground.clock.now_ns - last.unwrap_or(0).max(told);
    demand(late <= LATENCY_NS, || {
        format!("it ended {} ms after its last connection", late / MS)
    })?;
    let accepted = stage.ground.kernel.accepted;
    let counted = stats.accepted.get() + stats.address_refused.get();
    demand(counted == accepted, || {
        format!("{accepted} connections were accepted, {counted} counted")
    })?;
    if !plan.traits.is_fast() || plan.traits.resets {
        return Ok(());
    }
    let runs: u64 = stage
        .ground
        .book
        .iter()
        .map(|entry| u64::from(entry.facts.runs))
        .sum();
    for (name, counted, seen) in [
        ("good", stats.good.get(), sums.good),
        (
            "client_errors",
            stats.client_errors.get(),
            sums.client_errors,
        ),
        (
            "not_implemented",
            stats.not_implemented.get(),
            sums.not_implemented,
        ),
        (
            "server_errors",
            stats.server_errors.get(),
            sums.server_errors,
        ),
        ("requests", stats.requests.get(), runs),
    ] {
        demand(counted == seen, || {
            format!("{name} is {counted}, and {seen} were seen")
        })?;
    }
    Ok(())
}

/// Every address may have as many connections again as it may have at all.
fn judge_addresses(plan: &Plan, stage: &Stage) -> Verdict {
    let limits = &plan.allowance;
    let (Some(table), Some(most)) = (&stage.addresses, limits.connections_per_address) else {
        return Ok(());
    };
    for socket in &stage.ground.kernel.sockets {
        let mut counted = Vec::new();
        while let Admission::Admitted(Some(one)) = table.enter(Some(socket.peer)) {
            counted.push(one);
        }
        let free = counted.len();
        counted.into_iter().for_each(|one| table.leave(one));
        demand(free == most as usize, || {
            format!(
                "{} may have {free} connections at the end, not {most}",
                socket.peer
            )
        })?;
    }
    Ok(())
}

impl Case<'_> {
    fn entry(&self, n: usize) -> &Entry {
        &self.stage.ground.book[self.client.requests[n]]
    }

    /// The longest time of a request, which is last of all: the sum of all requests' times. The plan does not
    /// know in how many pieces a body comes, and a handler takes time for each piece.
    fn most_ns(&self) -> u64 {
        let reads = self.stage.ground.book.iter();
        let reading = reads.map(|entry| entry.facts.reads * (entry.request.app.gap_ns + 100 * US));
        LATENCY_NS + self.plan.busy_ns + reading.sum::<u64>()
    }

    /// The client has done nothing that would excuse the server.
    fn is_good(&self) -> bool {
        self.client.manner.is_good()
    }

    fn judge(&self) -> Verdict {
        let log = &self.socket.outbound.log;
        demand(log.starts_with(&self.client.received), || {
            "it has received what was not sent".to_owned()
        })?;
        if self.socket.ends.accepted_ns.is_none() {
            return demand(log.is_empty(), || "sent to, and never accepted".to_owned());
        }
        demand(self.socket.is_closed(), || {
            "its connection is left open".to_owned()
        })?;
        demand(!self.socket.ends.was_held_to_the_end, || {
            "what was held back for the next answer left only when the kernel's time was up"
                .to_owned()
        })?;
        for (n, answer) in self.answers.all.iter().enumerate() {
            let entry = self.entry(n);
            let id = entry.request.id;
            self.judge_answer(n, entry, answer)
                .map_err(|wrong| format!("request {id}, answer {}: {wrong}", answer.status))?;
        }
        for (n, interim) in self.answers.interim.iter().enumerate() {
            let most = u32::from(self.entry(n).request.expects);
            demand(*interim <= most, || {
                format!("{interim} interim answers to its request {n}")
            })?;
        }
        self.judge_end()?;
        self.judge_reset()?;
        if self.plan.traits.serves_all() && self.is_good() {
            self.judge_service()?;
        }
        Ok(())
    }

    /// Checks the bytes behind the last answer, and whether that answer may be cut.
    fn judge_end(&self) -> Verdict {
        let traits = &self.plan.traits;
        let log = &self.socket.outbound.log;
        // A client that has sent half of the word HEAD may get a body.
        let is_unread_head = self.answers.all.last().is_some_and(|last| {
            let request = &self.entry(self.answers.all.len() - 1).request;
            request.head_only() && last.id().is_none() && !last.keeps
        });
        let is_cut = self.answers.all.last().is_some_and(|last| !last.is_whole)
            || (self.answers.end < log.len() && !is_unread_head);
        let mut is_done = self.answers.all.len() == self.client.requests.len();
        is_done |= self
            .answers
            .all
            .last()
            .is_some_and(|last| !last.keeps && last.is_whole);
        demand(
            self.answers.end == log.len() || !is_done || is_unread_head,
            || {
                let more = String::from_utf8_lossy(&log[self.answers.end..]).into_owned();
                format!("{more:?} follows its last answer")
            },
        )?;
        let is_excused = traits.slow
            || traits.short_times
            || traits.deaths
            || traits.failures
            || traits.early_end
            || traits.crowded
            || traits.mishaps
            || traits.neighbours
            || self.is_too_large()
            || self.socket.was_left();
        demand(!is_cut || is_excused, || "an answer is cut".to_owned())
    }

    /// The body of the last request that was answered is larger than may be, which may be seen when its
    /// answer has begun.
    fn is_too_large(&self) -> bool {
        let last = self.answers.all.len().checked_sub(1);
        last.is_some_and(|last| {
            let body = self.entry(last).request.body;
            body.len() as u64 > self.plan.allowance.body_limit
        })
    }

    /// A connection that was reset is closed at once.
    fn judge_reset(&self) -> Verdict {
        let ends = &self.socket.ends;
        let (Some(reset), Some(accepted)) = (ends.client_reset_ns, ends.accepted_ns) else {
            return Ok(());
        };
        let closed = ends.server_closed_ns.unwrap_or(u64::MAX);
        let late = closed.saturating_sub(reset.max(accepted));
        demand(late <= LATENCY_NS, || {
            format!("it was reset, and closed {} ms later", late / MS)
        })
    }

    fn judge_answer(&self, n: usize, entry: &Entry, answer: &Heard) -> Verdict {
        let Entry { request, facts } = entry;
        demand(facts.begun_ns.is_some(), || {
            "it was not asked for".to_owned()
        })?;
        if n > 0 {
            let before = &self.entry(n - 1).request;
            demand(before.wants_more(), || {
                "the request before was the last".to_owned()
            })?;
        }
        demand(!answer.keeps || request.wants_more(), || {
            "the connection stays open, and its client does not want that".to_owned()
        })?;
        match answer.id() {
            Some(id) => {
                demand(id == request.id, || {
                    format!("it is the one to request {id}")
                })?;
                judge_reply(request, facts, answer)
            }
            None => self.judge_own(request, facts, answer),
        }
    }

    /// An answer of the front end: there must be a reason for it.
    fn judge_own(&self, request: &Request, facts: &Facts, answer: &Heard) -> Verdict {
        let traits = &self.plan.traits;
        let limits = &self.plan.allowance;
        let begun = facts.begun_ns.unwrap_or(0);
        let sent = self.socket.sent_at(answer.from);
        // The loop's clock stands during a turn, which may be long where much comes between.
        let took = Duration::from_nanos(sent.saturating_sub(begun) + TURN_NS);
        let times = &limits.timeouts;
        let is_draining = self
            .stage
            .watch
            .drained_ns
            .is_some_and(|drained| drained <= sent);
        let is_large = request.body.len() as u64 > limits.body_limit;
        let broke_off = facts.sent_ns.is_none() && self.socket.ends.client_fin_ns.is_some();
        let end = request.app.end;
        let has_run = facts.claims > 0;
        let is_expected = match (answer.status, request.target) {
            (413, _) if is_large => true,
            (204, Target::Server) | (404, Target::Nothing) | (405, Target::OtherMethod) => true,
            (status, Target::Refused(expected)) if status == expected => true,
            (204 | 404 | 405, _) => false,
            (400, _) => broke_off,
            (408, _) => traits.slow || traits.crowded || took >= times.header || took >= times.body,
            (413, _) => has_run && end == End::Outcome(3),
            (500, _) => has_run && !matches!(end, End::Heard | End::Never | End::Meddles),
            (502, _) => {
                has_run
                    && (facts.died
                        || end == End::Noise
                        || matches!(end, End::Outcome(1..=9))
                        || traits.deaths)
            }
            (503, _) => took >= times.queue || is_draining || traits.crowded || traits.deaths,
            (504, _) => times.deadline.is_some_and(|deadline| took >= deadline),
            _ => false,
        };
        demand(is_expected, || {
            format!(
                "there is no reason for it: {request:?} took {took:?}, {}",
                summary(facts)
            )
        })
    }

    /// A client that behaves as it should gets all its answers, whole and in time.
    fn judge_service(&self) -> Verdict {
        let ends = &self.socket.ends;
        let last = self.answers.all.last();
        demand(
            self.client.received.len() == self.socket.outbound.log.len() || self.is_too_large(),
            || format!("it has not received all that was sent: {ends:?}"),
        )?;
        let drained = self.stage.watch.drained_ns.unwrap_or(u64::MAX);
        let closed = ends.server_closed_ns.unwrap_or(u64::MAX);
        let left = ends.client_fin_ns.is_some_and(|fin| fin <= closed);
        // The rest of a body that a handler has not read looks like the next request.
        let has_read = self.answers.all.is_empty() || {
            let Entry { request, facts } = self.entry(self.answers.all.len() - 1);
            facts.body_ended || request.body.len() == 0
        };
        let promised = last.is_none_or(|last| last.keeps) && has_read;
        let missing = self.client.requests.len() - self.answers.all.len();
        demand(missing == 0 || !promised, || {
            format!("{missing} answers are missing")
        })?;
        let log_times = &self.socket.outbound.times;
        let idle_since = log_times.last().map(|(_, when)| *when);
        let idle_since = idle_since.or(ends.accepted_ns).unwrap_or(0);
        let idle = self.plan.allowance.timeouts.idle.as_nanos() as u64;
        let was_idle = closed.saturating_sub(idle_since) >= idle;
        demand(!promised || left || was_idle || closed >= drained, || {
            "its connection was closed though it was to stay open".to_owned()
        })?;
        let are_whole = self.answers.all.iter().all(|answer| answer.is_whole);
        demand(are_whole || self.is_too_large(), || {
            "its last answer is cut".to_owned()
        })?;
        for (n, answer) in self.answers.all.iter().enumerate() {
            let Entry { request, facts } = self.entry(n);
            let is_apps = matches!(request.target, Target::Door(_));
            let is_large = request.body.len() as u64 > self.plan.allowance.body_limit;
            // Slow clients may have held the slots that it waits for; see `judge_own`.
            let was_made_to_wait = self.plan.traits.slow && answer.status == 503;
            demand(
                !is_apps || is_large || was_made_to_wait || answer.id().is_some(),
                || format!("{} to {request:?}, {}", answer.status, summary(facts)),
            )?;
            self.judge_keeping(request, facts, answer)?;
            if self.plan.traits.is_fast() {
                self.judge_time(n, facts)?;
            }
        }
        self.judge_leaving()
    }

    /// A connection is not closed without a reason.
    fn judge_keeping(&self, request: &Request, facts: &Facts, answer: &Heard) -> Verdict {
        let sent = self.socket.sent_at(answer.to.saturating_sub(1));
        let may_close = !request.wants_more()
            || answer.id().is_none()
            || answer.until_close
            || (request.minor == 0 && (request.head_only() || !request.app.pieces.is_empty()))
            || !facts.body_ended
            || self.plan.allowance.requests_per_connection < 1000
            || self
                .stage
                .watch
                .drained_ns
                .is_some_and(|drained| drained <= sent);
        demand(answer.keeps || may_close, || {
            format!("the answer to {request:?} says close")
        })
    }

    fn judge_time(&self, n: usize, facts: &Facts) -> Verdict {
        let (Some(sent), Some(answered)) = (facts.sent_ns, facts.answered_ns) else {
            return Ok(());
        };
        let before = (n > 0)
            .then(|| self.entry(n - 1).facts.answered_ns)
            .flatten();
        let from = sent.max(before.unwrap_or(0));
        let took = answered.saturating_sub(from);
        let most = self.most_ns();
        demand(took <= most, || {
            let id = self.client.requests[n];
            format!(
                "request {id} took {} µs, of {} at most",
                took / 1000,
                most / 1000
            )
        })
    }

    /// The server closes the connection of a client that has left.
    fn judge_leaving(&self) -> Verdict {
        let ends = &self.socket.ends;
        let (Some(fin), Some(closed)) = (ends.client_fin_ns, ends.server_closed_ns) else {
            return Ok(());
        };
        if self.client.manner.ending != Ending::Closes || !self.plan.traits.is_fast() {
            return Ok(());
        }
        let late = closed.saturating_sub(fin);
        demand(late <= self.most_ns(), || {
            format!(
                "it has left, and its connection was closed {} ms later",
                late / MS
            )
        })
    }
}

fn summary(facts: &Facts) -> String {
    let Facts {
        runs,
        claims,
        ended,
        died,
        lost,
        given_up,
        ..
    } = facts;
    format!(
        "runs {runs}, claims {claims}, ended {ended}, died {died}, lost {lost}, given up {given_up}"
    )
}

/// The answer must be the one that the application has given.
fn judge_reply(request: &Request, facts: &Facts, answer: &Heard) -> Verdict {
    demand(facts.runs == 1, || format!("it ran {} times", facts.runs))?;
    demand(answer.status == request.app.status, || {
        format!("the application has said {}", request.app.status)
    })?;
    demand(answer.field("x-a") == answer.field("x-b"), || {
        format!("its fields are of two replies: {:?}", answer.fields)
    })?;
    let meant = facts
        .answer
        .as_deref()
        .ok_or("the application has not answered")?;
    let has_body = !request.head_only() && !matches!(answer.status, 204 | 304);
    if has_body {
        let fits = match answer.is_whole {
            true => answer.body == meant,
            false => meant.starts_with(&answer.body),
        };
        // Its end is where the connection's is: it may be cut without anybody's knowing.
        let may_be_short = answer.until_close && meant.starts_with(&answer.body);
        demand(fits || may_be_short, || {
            format!(
                "its body is not the one that was given, {} bytes of {}",
                answer.body.len(),
                meant.len()
            )
        })?;
        let has_end = answer.is_whole && answer.field("transfer-encoding").is_some();
        let broken = matches!(request.app.end, End::Outcome(_)) && has_end;
        demand(!broken, || {
            "the answer was broken off, and looks whole".to_owned()
        })?;
    }
    judge_body(request, facts)
}

/// What an application has read is the body that was sent.
fn judge_body(request: &Request, facts: &Facts) -> Verdict {
    let body = super::requests::body_of(request.id, request.body);
    let fits = match facts.body_ended {
        true => facts.body == body,
        false => body.starts_with(&facts.body),
    };
    demand(fits, || {
        let (read, all) = (facts.body.len(), body.len());
        format!(
            "the application read {read} bytes as the body, of {all}, ended: {}",
            facts.body_ended
        )
    })
}
