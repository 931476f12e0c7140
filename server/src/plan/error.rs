//! Why settings cannot be served with, by the names of their flags.

use transom_arena::{BoundError, GeometryError};
use transom_doors::GeometryError as ChannelError;

/// Why these settings cannot be served with.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A bucket that cannot work.
    #[error(transparent)]
    Bucket(#[from] GeometryError),
    /// Slots that cannot work.
    #[error("--slots, --request-size or --reply-size: {0}")]
    Channel(#[from] ChannelError),
    /// A sum that does not fit.
    #[error(transparent)]
    Bound(#[from] BoundError),
    /// A value below what works.
    #[error("{flag} is {was}; it must be at least {least}: {why}")]
    TooSmall {
        /// The flag.
        flag: &'static str,
        /// What it is.
        was: String,
        /// The least that works.
        least: String,
        /// Why.
        why: &'static str,
    },
    /// A flag that needs another one.
    #[error("{flag} needs {other}: {todo}")]
    Alone {
        /// The flag.
        flag: &'static str,
        /// The one that it needs.
        other: &'static str,
        /// What to do.
        todo: &'static str,
    },
    /// Two flags that contradict each other.
    #[error("{flag} cannot be used with {other}: {why}")]
    Together {
        /// The flag.
        flag: &'static str,
        /// The other one.
        other: &'static str,
        /// Why.
        why: &'static str,
    },
    /// A value that is in a list more than once.
    #[error("{flag} {value} is given twice: leave one of them out")]
    Twice {
        /// The flag.
        flag: &'static str,
        /// The value.
        value: String,
    },
    /// A value above what works.
    #[error("{flag} is {was}; it must be at most {most}: {why}")]
    TooLarge {
        /// The flag.
        flag: &'static str,
        /// What it is.
        was: String,
        /// The most that works.
        most: String,
        /// Why.
        why: &'static str,
    },
}

impl PlanError {
    /// Whether it is for want of what the machine has, and not of the flags alone.
    pub(crate) fn is_of_the_machine(&self) -> bool {
        matches!(self, PlanError::Bound(BoundError::OverLimit { .. }))
    }
}
