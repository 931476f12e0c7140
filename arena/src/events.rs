//! What has happened to the request that a bucket holds, apart from the ordinary: one word, so that a request
//! to which nothing has happened is begun with one store and ended with one test.

use std::cell::Cell;

/// The request has outgrown its bucket, and goes on to its return: its answer is a 500.
pub(crate) const MARKED: u8 = 1;
/// Its stack has overflowed, and is extended.
pub(crate) const EXTENDED: u8 = 1 << 1;
/// The panic hook has seen a panic after which the runtime aborts.
pub(crate) const ABORTING: u8 = 1 << 2;
/// There is a note of a panic.
pub(crate) const NOTED: u8 = 1 << 3;
/// It has drawn on the overdraft, and a share is set aside for it.
pub(crate) const DRAWS_ITS_SHARE: u8 = 1 << 4;
/// It has drawn on the overdraft, after it had waited in vain for a share: it takes what is free, up to as
/// much.
pub(crate) const DRAWS_WHAT_IS_FREE: u8 = 1 << 5;
/// It has drawn on the overdraft.
pub(crate) const DRAWS: u8 = DRAWS_ITS_SHARE | DRAWS_WHAT_IS_FREE;
/// It has asked the C heap for something.
#[cfg(all(feature = "c-heap", not(miri)))]
pub(crate) const USES_C: u8 = 1 << 6;
/// It has drawn on the overdraft while a panic unwound, or in a cleanup. If it then returns, its answer is a
/// 500.
pub(crate) const DREW_FAILING: u8 = 1 << 7;

/// The word.
#[derive(Debug)]
pub(crate) struct Events(Cell<u8>);

impl Events {
    pub(crate) const fn new() -> Self {
        Events(Cell::new(0))
    }

    /// Whether one of these has happened.
    #[inline(always)]
    pub(crate) fn any(&self, of: u8) -> bool {
        self.0.get() & of != 0
    }

    /// Whether nothing has.
    #[inline(always)]
    pub(crate) fn none(&self) -> bool {
        self.0.get() == 0
    }

    pub(crate) fn add(&self, event: u8) {
        self.0.set(self.0.get() | event);
    }

    pub(crate) fn remove(&self, event: u8) {
        self.0.set(self.0.get() & !event);
    }

    /// For the next request. A stack that is still extended stays so, until it can be closed.
    #[inline(always)]
    pub(crate) fn clear(&self) {
        self.0.set(self.0.get() & EXTENDED);
    }
}
