//! What the main thread of a server does while the others serve: it waits for signals, looks after the
//! buckets, and says why the server has to end.
//!
//! What may come at the same time:
//!
//! - Threads that leave, and buckets that are lost, at any time: each wait looks after them (`care`), so that
//!   there are threads for requests while a new instance starts, and until the last request of a drain.
//! - SIGTERM while a new instance starts: that one is told to end too, and this one drains, as if there were
//!   none.
//! - SIGTERM while the old instance drains: of a hand-over it makes an ordinary drain; a second one cuts.
//! - SIGHUP while a new instance starts, or while this one drains: the access log is opened anew, and nothing
//!   is read again, since the new instance reads it anyway.
//! - SIGUSR2 while a new instance starts: it is what was asked for, and nothing more happens. While lost
//!   buckets wait for their turn: the hand-over takes place at once, and the new instance is told when the
//!   last recycle was.
//! - Buckets that are lost while a new instance starts, be it 32 in a second: they are in the process that
//!   ends anyway. If the hand-over was SIGUSR2's and fails, the next look finds them.
//! - Too many lost buckets soon after the last recycle: they wait for their turn, and for the predecessor's
//!   end.
//! - A new instance that ends at its start, or is not ready in time: after SIGUSR2 this one goes on, else it
//!   drains and exits, to be started anew.
//! - A full table of descriptors, a lock of the C library that is never given back: starting a new instance
//!   needs neither (`handover`).

use super::handover::{Handover, Outcome, What};
use super::predecessor::Note;
use super::recycle::{Recycling, Step};
use super::signals::{Signals, Wake};
use super::why::End;
use std::time::{Duration, Instant};
use transom_wire::own_log::{error, info, warn};

/// Waits until there is a reason to drain. `recycling` is none for a server without buckets of its own;
/// `reload` is what SIGHUP asks for, beside opening the access log anew.
pub(super) fn until_told(
    signals: &Signals,
    handover: &mut Handover,
    recycling: Option<&mut Recycling>,
    reload: impl FnMut(&mut Handover),
) -> End {
    let end = wait(signals, handover, recycling, reload);
    if end != End::HandedOver {
        signals.notify().stopping();
    }
    end
}

/// Goes on serving for `delay` after the process was told to end, until those who send it requests know that.
/// A second signal ends the delay. A new instance that has taken over needs none.
pub(super) fn delay_drain(signals: &Signals, why: End, delay: Duration) {
    if delay.is_zero() || why == End::HandedOver {
        return;
    }
    info!(
        delay_ms = delay.as_millis() as u64,
        "not ready any more, and still accepting (--drain-delay)"
    );
    let deadline = Instant::now() + delay;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || signals.wait_while_ending(left) {
            return;
        }
    }
}

/// What SIGHUP does where there is no file to read again.
pub(super) fn nothing_to_reload(_: &mut Handover) {
    info!(
        "SIGHUP: the access log is opened anew if it is a file; there is no configuration file to read again (SIGUSR2 \
         starts a new instance)"
    );
}

fn wait(
    signals: &Signals,
    handover: &mut Handover,
    mut recycling: Option<&mut Recycling>,
    mut reload: impl FnMut(&mut Handover),
) -> End {
    loop {
        let pause = match recycling.as_deref_mut().map(|one| (one.step(), one)) {
            None => None,
            Some((Step::Serve(pause), _)) => Some(pause),
            Some((Step::Exit, recycling)) => {
                recycling.say_that_it_begins();
                return End::Recycle;
            }
            Some((Step::HandOver, recycling)) => {
                recycling.say_that_it_begins();
                return replace(signals, handover, &recycling.note());
            }
        };
        match (signals.wait(pause), handover.what()) {
            (Wake::Signal, _) => return End::Told,
            (Wake::Parked | Wake::TimedOut, _) => {}
            (Wake::HangUp, _) => {
                signals.notify().reloading();
                reload(handover);
                signals.notify().ready();
            }
            (Wake::HandOver, _) if std::process::id() == 1 => warn!(
                "SIGUSR2 would start a new instance, and this process is process 1: everything in its PID namespace would \
                 end with it. Start another container, then end this one with SIGTERM"
            ),
            (Wake::HandOver, What::Path) => warn!(
                "SIGUSR2 hands over listeners, and a door has none: start the next instance with --door-wait 10s, then end \
                 this one"
            ),
            (Wake::HandOver, What::Listeners) => {
                let history = recycling.as_deref().map(Recycling::history);
                match hand_over(signals, handover, history.as_ref()) {
                    Ok(end) => return end,
                    Err(failure) => error!("{failure}: this one goes on"),
                }
            }
        }
    }
}

/// Has a new instance take over because of lost buckets. If it cannot, there is only the end.
fn replace(signals: &Signals, handover: &Handover, note: &Note) -> End {
    hand_over(signals, handover, Some(note)).unwrap_or_else(|failure| {
        error!("{failure}: draining, to be started anew");
        End::Recycle
    })
}

fn hand_over<'h>(
    signals: &Signals,
    handover: &'h Handover,
    note: Option<&Note>,
) -> Result<End, super::handover::Failure<'h>> {
    match handover.run(signals, note)? {
        Outcome::Ready(pid) => {
            match handover.what() {
                What::Listeners => info!(pid, "the new instance has the listeners"),
                What::Path => info!(pid, "the new instance waits for the path of the door"),
            }
            signals.notify().main_pid(pid);
            Ok(End::HandedOver)
        }
        Outcome::Told => Ok(End::Told),
    }
}
