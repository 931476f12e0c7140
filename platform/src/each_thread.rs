//! [`EachThread`]: what an author wants to have done on each thread.

/// Runs once on each door server thread before its first call.
pub type EachThread = Box<dyn Fn() + Send + Sync>;
