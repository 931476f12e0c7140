//! What must happen at the end of a request on every way out of it: a list per bucket, run last-in-first-out.
//!
//! A handler that is left by an escape runs no destructors; a parked one never returns. What it must not leave behind
//! (a descriptor, a lock, a half-written cell) it registers here. Nodes lie in the bucket's arena, because the stack
//! they were made on may be gone when they run.

use std::cell::Cell;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};

/// How the request ended, for a cleanup that cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WayOut {
    /// The handler returned.
    Returned,
    /// It panicked, or unwound because of an allocation through `&Bump`.
    Unwound,
    /// It was left by a jump, or will never run again, because its arena is exhausted.
    ExhaustedArena,
    /// The same because of its stack: it was stopped between two arbitrary instructions.
    ExhaustedStack,
}

type Run = unsafe fn(NonNull<Node>, WayOut);

/// One registered cleanup; `#[repr(C)]` first field of whatever it is part of.
#[repr(C)]
pub(crate) struct Node {
    run: Run,
    /// The one registered before.
    older: Cell<*const Node>,
    /// Cleared when it has been withdrawn or has run.
    armed: Cell<bool>,
}

impl Node {
    pub(crate) const fn new(run: Run) -> Self {
        Node {
            run,
            older: Cell::new(ptr::null()),
            armed: Cell::new(true),
        }
    }
}

/// The list of one bucket.
#[derive(Debug)]
pub(crate) struct Cleanups {
    newest: Cell<*const Node>,
    not_sync: PhantomData<*const ()>,
}

impl Cleanups {
    pub(crate) const fn new() -> Self {
        Cleanups {
            newest: Cell::new(ptr::null()),
            not_sync: PhantomData,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.newest.get().is_null()
    }

    /// Registers a node.
    ///
    /// # Safety
    /// The node stays where it is and valid to the end of the request (or until [`Cleanups::withdraw`] has taken it off
    /// the top), and is registered once. Its `run` may be called with it, once, on this thread.
    pub(crate) unsafe fn push(&self, node: NonNull<Node>) {
        // SAFETY: valid by the caller's promise.
        let entry = unsafe { node.as_ref() };
        entry.older.set(self.newest.get());
        self.newest.set(node.as_ptr());
    }

    /// Withdraws a node without running it. True if it is off the list, so that its memory may be used again at once;
    /// else that must wait for the request's end.
    ///
    /// # Safety
    /// The node was pushed on this list.
    pub(crate) unsafe fn withdraw(&self, node: NonNull<Node>) -> bool {
        // SAFETY: valid by the caller's promise.
        let entry = unsafe { node.as_ref() };
        entry.armed.set(false);
        // Forget it if it is on top, and disarmed ones below it, so that their memory can be used again. One in the
        // middle stays linked: its memory is valid to the request's end.
        let mut top = self.newest.get();
        let mut is_off = false;
        while let Some(entry) = NonNull::new(top.cast_mut()) {
            is_off |= entry == node;
            // SAFETY: everything on the list is valid by the promise of `push`.
            let entry = unsafe { entry.as_ref() };
            if entry.armed.get() {
                break;
            }
            top = entry.older.get();
        }
        self.newest.set(top);
        is_off
    }

    /// Runs everything that is registered, newest first. A node is off the list before it runs, so one that panics or
    /// never returns is not run again.
    pub(crate) fn run(&self, way_out: WayOut) {
        while let Some(node) = NonNull::new(self.newest.get().cast_mut()) {
            // SAFETY: everything on the list is valid by the promise of `push`.
            let entry = unsafe { node.as_ref() };
            self.newest.set(entry.older.get());
            if entry.armed.replace(false) {
                // SAFETY: armed means that it has neither run nor been withdrawn.
                unsafe { (entry.run)(node, way_out) };
            }
        }
    }
}

/// A node with the closure it runs, as one block.
#[repr(C)]
pub(crate) struct Deferred<F> {
    node: Node,
    closure: Cell<Option<F>>,
}

impl<F: FnOnce(WayOut)> Deferred<F> {
    pub(crate) fn new(closure: F) -> Self {
        Deferred {
            node: Node::new(Self::run),
            closure: Cell::new(Some(closure)),
        }
    }

    pub(crate) fn node(this: &Self) -> NonNull<Node> {
        NonNull::from(this).cast() // first field, repr(C)
    }

    /// # Safety
    /// `node` is the first field of a valid `Deferred<F>`.
    unsafe fn run(node: NonNull<Node>, way_out: WayOut) {
        // SAFETY: by the caller's promise; repr(C) puts the node first.
        let this = unsafe { node.cast::<Self>().as_ref() };
        if let Some(closure) = this.closure.take() {
            closure(way_out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[test]
    fn cleanups_run_last_in_first_out_and_once() {
        let order = RefCell::new(Vec::new());
        let list = Cleanups::new();
        let first = Deferred::new(|way| order.borrow_mut().push((1, way)));
        let second = Deferred::new(|way| order.borrow_mut().push((2, way)));
        // SAFETY: both outlive the runs below.
        unsafe {
            list.push(Deferred::node(&first));
            list.push(Deferred::node(&second));
        }
        list.run(WayOut::Unwound);
        list.run(WayOut::Returned);
        assert_eq!(
            *order.borrow(),
            [(2, WayOut::Unwound), (1, WayOut::Unwound)]
        );
        assert!(list.is_empty());
    }

    #[test]
    fn a_withdrawn_cleanup_does_not_run_wherever_it_stood() {
        for withdrawn in 0..3 {
            let order = RefCell::new(Vec::new());
            let list = Cleanups::new();
            let nodes = [0, 1, 2].map(|n| {
                let order = &order;
                Deferred::new(move |_| order.borrow_mut().push(n))
            });
            // SAFETY: the array outlives the run.
            unsafe {
                for node in &nodes {
                    list.push(Deferred::node(node));
                }
                let newest = withdrawn == 2;
                assert_eq!(list.withdraw(Deferred::node(&nodes[withdrawn])), newest);
            }
            list.run(WayOut::Returned);
            let expected: Vec<_> = [2, 1, 0].into_iter().filter(|&n| n != withdrawn).collect();
            assert_eq!(*order.borrow(), expected);
        }
    }

    #[test]
    fn a_cleanup_that_panics_is_off_the_list_and_the_others_still_run() {
        let order = RefCell::new(Vec::new());
        let list = Cleanups::new();
        let first = Deferred::new(|_| order.borrow_mut().push(1));
        let second = Deferred::new(|_| panic!("from a cleanup"));
        // SAFETY: both outlive the runs below.
        unsafe {
            list.push(Deferred::node(&first));
            list.push(Deferred::node(&second));
        }
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            list.run(WayOut::Returned);
        }));
        assert!(outcome.is_err());
        list.run(WayOut::Unwound);
        assert_eq!(*order.borrow(), [1]);
    }
}
