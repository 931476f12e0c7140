//! This project's own lines go to its own log, whatever else the application has installed.
//!
//! An application may have a subscriber of its own for `tracing`. Ours cannot go through it: a line of ours
//! may be written by a thread that is parked for ever inside that subscriber, under its lock, or that stands
//! on its last few KiB of stack. So the macros here make `tracing` events and hand them to our own
//! subscriber, without asking for the process's.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use tracing::field::{Value, ValueSet};
use tracing::{Dispatch, Event, Metadata, dispatcher};

static LOG: OnceLock<Dispatch> = OnceLock::new();

/// From now on our lines go there. False if they go somewhere already.
pub fn log_to(log: Dispatch) -> bool {
    LOG.set(log).is_ok()
}

/// Whether something was last said long enough ago to be said again, in the caller's units of time; then this
/// becomes the last time. `said` is 0 for never. Of several threads only one gets true.
#[must_use]
pub fn is_time_to_say(said: &AtomicU64, now: u64, pause: u64) -> bool {
    let before = said.load(Ordering::Relaxed);
    (before == 0 || now.saturating_sub(before) >= pause)
        && said
            .compare_exchange(before, now.max(1), Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
}

/// Hands an event over. The values are in the order of the fields.
#[doc(hidden)]
pub fn submit(metadata: &'static Metadata<'static>, values: &[Option<&dyn Value>]) {
    let hand_over = |log: &Dispatch| {
        if log.enabled(metadata) {
            let values: ValueSet<'_> = metadata.fields().value_set_all(values);
            log.event(&Event::new(metadata, &values));
        }
    };
    match LOG.get() {
        Some(log) => hand_over(log),
        None => dispatcher::get_default(hand_over),
    }
}

/// As the macros of `tracing`, with a level in front, fields (`name`, `%name`, `name = value`, `name =
/// %value`, `name = ?value`), and a message.
#[doc(hidden)]
#[macro_export]
macro_rules! own_event {
    (@ $level:ident [$($name:expr,)*] [$($value:expr,)*] $message:literal $(, $argument:expr)* $(,)?) => {{
        use $crate::own_log::tracing_core as core;
        static CALLSITE: core::callsite::DefaultCallsite =
            core::callsite::DefaultCallsite::new(&METADATA);
        static METADATA: core::Metadata<'static> = core::Metadata::new(
            "event",
            module_path!(),
            core::Level::$level,
            Some(file!()),
            Some(line!()),
            Some(module_path!()),
            core::field::FieldSet::new(
                &["message", $($name,)*],
                core::callsite::Identifier(&CALLSITE),
            ),
            core::metadata::Kind::EVENT,
        );
        $crate::own_log::submit(
            &METADATA,
            &[Some(&format_args!($message $(, $argument)*) as &dyn core::field::Value), $(Some(&$value),)*],
        );
    }};
    (@ $level:ident [$($name:expr,)*] [$($value:expr,)*] $field:ident = %$shown:expr, $($rest:tt)+) => {
        $crate::own_event!(@ $level [$($name,)* stringify!($field),]
            [$($value,)* $crate::own_log::tracing_core::field::display(&$shown),] $($rest)+)
    };
    (@ $level:ident [$($name:expr,)*] [$($value:expr,)*] $field:ident = ?$shown:expr, $($rest:tt)+) => {
        $crate::own_event!(@ $level [$($name,)* stringify!($field),]
            [$($value,)* $crate::own_log::tracing_core::field::debug(&$shown),] $($rest)+)
    };
    (@ $level:ident [$($name:expr,)*] [$($value:expr,)*] $field:ident = $plain:expr, $($rest:tt)+) => {
        $crate::own_event!(@ $level [$($name,)* stringify!($field),] [$($value,)* $plain,] $($rest)+)
    };
    (@ $level:ident [$($name:expr,)*] [$($value:expr,)*] %$field:ident, $($rest:tt)+) => {
        $crate::own_event!(@ $level [$($name,)* stringify!($field),]
            [$($value,)* $crate::own_log::tracing_core::field::display(&$field),] $($rest)+)
    };
    (@ $level:ident [$($name:expr,)*] [$($value:expr,)*] $field:ident, $($rest:tt)+) => {
        $crate::own_event!(@ $level [$($name,)* stringify!($field),] [$($value,)* $field,] $($rest)+)
    };
}

/// A line of ours that says what an operator has to mend.
#[doc(hidden)]
#[macro_export]
macro_rules! own_error {
    ($($event:tt)+) => { $crate::own_event!(@ ERROR [] [] $($event)+) };
}

/// A line of ours about something that is not as it should be.
#[doc(hidden)]
#[macro_export]
macro_rules! own_warn {
    ($($event:tt)+) => { $crate::own_event!(@ WARN [] [] $($event)+) };
}

/// A line of ours that says what happens.
#[doc(hidden)]
#[macro_export]
macro_rules! own_info {
    ($($event:tt)+) => { $crate::own_event!(@ INFO [] [] $($event)+) };
}

/// A line of ours for debugging.
#[doc(hidden)]
#[macro_export]
macro_rules! own_debug {
    ($($event:tt)+) => { $crate::own_event!(@ DEBUG [] [] $($event)+) };
}

pub use crate::{own_debug as debug, own_error as error, own_info as info, own_warn as warn};

#[doc(hidden)]
pub mod tracing_core {
    pub use tracing::field;
    pub use tracing::{Level, Metadata, callsite, metadata};
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::{Debug, Write};
    use std::sync::{Arc, Mutex};
    use tracing::field::{Field, Visit};
    use tracing::{Subscriber, span};

    #[derive(Default, Clone)]
    struct Notes(Arc<Mutex<String>>);

    impl Visit for Notes {
        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            let _ = write!(self.0.lock().expect("whole"), "{}={value:?};", field.name());
        }

        fn record_u64(&mut self, field: &Field, value: u64) {
            let _ = write!(self.0.lock().expect("whole"), "{}:{value};", field.name());
        }
    }

    impl Subscriber for Notes {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            *metadata.level() <= tracing::Level::WARN
        }
        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }
        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
        fn event(&self, event: &Event<'_>) {
            let level = event.metadata().level();
            let _ = write!(self.0.lock().expect("whole"), "{level} ");
            event.record(&mut self.clone());
        }
        fn enter(&self, _: &span::Id) {}
        fn exit(&self, _: &span::Id) {}
    }

    #[test]
    fn an_event_has_its_level_its_fields_in_order_and_its_message() {
        let notes = Notes::default();
        let (shown, plain, none) = ("x", 7_u64, None::<u64>);
        dispatcher::with_default(&Dispatch::new(notes.clone()), || {
            warn!(plain, %shown, none, again = %shown, code = ?shown, sum = plain + 1, "said {shown} and {}", 2);
            info!(plain, "not at this level");
            error!("alone");
        });
        let all = notes.0.lock().expect("whole");
        assert_eq!(
            *all,
            "WARN message=said x and 2;plain:7;shown=x;again=x;code=\"x\";sum:8;ERROR message=alone;"
        );
    }
}
