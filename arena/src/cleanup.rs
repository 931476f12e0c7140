//! What must happen at the end of a request on every way out of it: a list per bucket, run last-in-first-out.
//!
//! A handler that is left by an escape runs no destructors. It registers here what it must not leave behind
//! (a descriptor, a temporary file). What has failed is reported before its cleanups run. A parked request
//! runs nothing more, and its list stays as it is. Nodes lie in the bucket's memory, because the stack they
//! were made on may be gone when they run.

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
    /// It was left by a jump from an allocation that did not fit. No destructor of it has run.
    Escaped,
    /// It was left by a jump because its stack was full: between two arbitrary instructions.
    Overflowed,
}

type Run = unsafe fn(NonNull<Node>, WayOut);

/// One registered cleanup; `#[repr(C)]` first field of whatever it is part of.
#[repr(C)]
pub(crate) struct Node {
    run: Run,
    /// The one registered before.
    older: Cell<*const Node>,
    /// The one registered after; null if this is the newest, or is on no list.
    newer: Cell<*const Node>,
}

impl Node {
    /// One that runs that, with itself.
    pub(crate) const fn new(run: Run) -> Self {
        Node {
            run,
            older: Cell::new(ptr::null()),
            newer: Cell::new(ptr::null()),
        }
    }
}

/// The list of one bucket.
#[derive(Debug)]
pub(crate) struct Cleanups {
    newest: Cell<*const Node>,
    /// Cleanups that run once more at the end.
    buried: Cell<*const Node>,
    open: Cell<bool>,
    not_sync: PhantomData<*const ()>,
}

impl Cleanups {
    pub(crate) const fn new() -> Self {
        Cleanups {
            newest: Cell::new(ptr::null()),
            buried: Cell::new(ptr::null()),
            open: Cell::new(true),
            not_sync: PhantomData,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.newest.get().is_null()
    }

    /// Whether it takes nodes. While it does not, nothing is registered: only its owner has it.
    pub(crate) fn is_open(&self) -> bool {
        self.open.get()
    }

    pub(crate) fn open(&self, open: bool) {
        debug_assert!(self.is_empty(), "no request is there");
        self.open.set(open);
    }

    /// Registers a node, if the list is open.
    ///
    /// # Safety
    /// The node stays where it is and valid until it runs, and is registered once. Its `run` may be called
    /// with it, once, on this thread.
    pub(crate) unsafe fn push(&self, node: NonNull<Node>) {
        if !self.is_open() {
            return;
        }
        // SAFETY: the one is valid by the caller's promise, the other by that of an earlier caller.
        unsafe { self.connect(node.as_ptr(), self.newest.get()) };
        // Last: a stack overflow between any two of these steps leaves the list as it was.
        self.newest.set(node.as_ptr());
    }

    /// Makes these two neighbours. A null stands for the end of the list that lies there.
    ///
    /// # Safety
    /// Both are null or valid, on the list or about to be, and reached by this thread alone.
    unsafe fn connect(&self, newer: *const Node, older: *const Node) {
        // SAFETY: valid by the caller's promise.
        match unsafe { newer.as_ref() } {
            Some(newer) => newer.older.set(older),
            None => self.newest.set(older),
        }
        // SAFETY: as above.
        if let Some(older) = unsafe { older.as_ref() } {
            older.newer.set(newer);
        }
    }

    /// Takes a node off the list; true if it was there.
    ///
    /// # Safety
    /// The node is valid, and was pushed to this list or to none.
    pub(crate) unsafe fn remove(&self, node: NonNull<Node>) -> bool {
        // SAFETY: valid by the caller's promise.
        let entry = unsafe { node.as_ref() };
        let mut newer = entry.newer.replace(ptr::null());
        if self.newest.get() == node.as_ptr() {
            newer = ptr::null(); // one that `push` was left with is not on the list
        } else if newer.is_null() {
            return false;
        }
        // SAFETY: its neighbours are on the list, so they are valid by the promise of `push`.
        unsafe { self.connect(newer, entry.older.get()) };
        true
    }

    /// Runs everything that is registered, newest first. A node is off the list before it runs, so one that
    /// panics or never returns is not run again.
    pub(crate) fn run(&self, way_out: WayOut) {
        while self.run_newest(way_out) {}
        while let Some(node) = NonNull::new(self.buried.get().cast_mut()) {
            // SAFETY: as above, by the promise of `bury`.
            unsafe {
                self.buried.set(node.as_ref().older.get());
                (node.as_ref().run)(node, way_out);
            }
        }
    }

    /// Runs the newest one; false if there is none.
    pub(crate) fn run_newest(&self, way_out: WayOut) -> bool {
        let Some(node) = NonNull::new(self.newest.get().cast_mut()) else {
            return false;
        };
        // SAFETY: everything on the list is valid by the promise of `push`, and on the list means that it has
        // not run.
        unsafe {
            self.remove(node);
            (node.as_ref().run)(node, way_out);
        }
        true
    }

    /// Makes a node run once more, when all others have run.
    ///
    /// # Safety
    /// As for [`Cleanups::push`]. It is not on the list: it runs.
    pub(crate) unsafe fn bury(&self, node: NonNull<Node>) {
        // SAFETY: valid by the caller's promise.
        unsafe { node.as_ref() }.older.set(self.buried.get());
        self.buried.set(node.as_ptr());
    }
}

/// What becomes of a block that a node and its closure lay in, once the closure has been taken out of it.
pub(crate) trait Owner {
    /// # Safety
    /// The block is a `Deferred` of this owner, and is not in use.
    unsafe fn give_back<F>(block: NonNull<Deferred<F, Self>>)
    where
        Self: Sized;
}

/// A node with the closure it runs, as one block.
#[repr(C)]
pub(crate) struct Deferred<F, O> {
    node: Node,
    closure: F,
    owner: PhantomData<O>,
}

impl<F: FnOnce(WayOut), O: Owner> Deferred<F, O> {
    pub(crate) fn new(closure: F) -> Self {
        Deferred {
            node: Node::new(Self::run),
            closure,
            owner: PhantomData,
        }
    }

    pub(crate) fn node(this: NonNull<Self>) -> NonNull<Node> {
        this.cast() // first field, repr(C)
    }

    /// # Safety
    /// `node` is the first field of a valid `Deferred` that has not run.
    unsafe fn run(node: NonNull<Node>, way_out: WayOut) {
        let this = node.cast::<Self>();
        // SAFETY: by the caller's promise; the closure is moved out once, and the block is not used again.
        let closure = unsafe {
            let closure = (&raw const (*this.as_ptr()).closure).read();
            O::give_back(this);
            closure
        };
        closure(way_out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    /// The tests' blocks are boxes.
    struct Boxes;

    impl Owner for Boxes {
        unsafe fn give_back<F>(block: NonNull<Deferred<F, Self>>) {
            // SAFETY: made by `register`; what was moved out of it is not dropped again.
            drop(unsafe {
                Box::from_raw(
                    block
                        .as_ptr()
                        .cast::<std::mem::ManuallyDrop<Deferred<F, Self>>>(),
                )
            });
        }
    }

    fn register<F: FnOnce(WayOut)>(list: &Cleanups, closure: F) {
        let block = Box::leak(Box::new(Deferred::<F, Boxes>::new(closure)));
        // SAFETY: leaked, until it runs.
        unsafe { list.push(Deferred::node(NonNull::from(block))) };
    }

    #[test]
    fn cleanups_run_last_in_first_out_and_once() {
        let order = RefCell::new(Vec::new());
        let list = Cleanups::new();
        for n in [1, 2] {
            let order = &order;
            register(&list, move |way| order.borrow_mut().push((n, way)));
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
    fn a_cleanup_that_panics_is_off_the_list_and_the_others_still_run() {
        let order = RefCell::new(Vec::new());
        let list = Cleanups::new();
        register(&list, |_| order.borrow_mut().push(1));
        register(&list, |_| panic!("from a cleanup"));
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            list.run(WayOut::Returned);
        }));
        assert!(outcome.is_err());
        list.run(WayOut::Unwound);
        assert_eq!(*order.borrow(), [1]);
    }

    #[test]
    fn a_node_that_was_removed_does_not_run() {
        for gone in 1..=3 {
            let order = RefCell::new(Vec::new());
            let list = Cleanups::new();
            let mut nodes = Vec::new();
            for n in 1..=3 {
                let order = &order;
                register(&list, move |_| order.borrow_mut().push(n));
                nodes.push(NonNull::new(list.newest.get().cast_mut()).expect("just registered"));
            }
            let node = nodes[gone - 1];
            // SAFETY: leaked, and pushed to this list.
            unsafe {
                assert!(list.remove(node));
                assert!(!list.remove(node));
            }
            list.run(WayOut::Returned);
            assert_eq!(order.borrow().len(), 2);
            assert!(!order.borrow().contains(&gone));
            // SAFETY: off the list, and it has not run.
            unsafe { (node.as_ref().run)(node, WayOut::Returned) };
        }
    }

    #[test]
    fn a_closure_is_dropped_once() {
        let value = std::rc::Rc::new(());
        let list = Cleanups::new();
        let theirs = value.clone();
        register(&list, move |_| drop(theirs));
        list.run(WayOut::Returned);
        assert_eq!(std::rc::Rc::strong_count(&value), 1);
    }
}
