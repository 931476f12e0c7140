//! [`EachThread`]: what an author wants each thread to do.

/// Runs once on each door server thread before its first call.
pub type EachThread = Box<dyn Fn() + Send + Sync>;
