//! The channels of a door that has started: read by its threads without a lock, changed by its porter alone.
//!
//! A thread says that it is inside before it looks at the table, and outside before it runs a handler or
//! sleeps. It holds the one channel that its last call came by, until another one's call is taken up or
//! nothing is left to do. The porter takes a channel out of the table, then waits until it has seen every
//! thread outside once: then only threads that hold it still look at it. (Both steps of both sides are
//! sequentially consistent: either the thread finds the place empty, or the porter finds it inside.)

use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use crate::memory::channel::Channel;

/// Places for channels.
#[derive(Debug)]
pub struct Table {
    places: Box<[AtomicPtr<Channel>]>,
    /// Places from here on have never been used.
    used: AtomicU32,
    /// Channels come and go: threads have to say when they look.
    changes: bool,
}

/// Whether a thread is looking at the table: how often it has gone in and not come out.
#[derive(Debug, Default)]
pub struct Presence(AtomicU32);

/// A thread's look at the table. While it lasts no channel vanishes.
#[derive(Debug)]
pub struct Look<'a> {
    table: &'a Table,
    presence: Option<&'a Presence>,
}

impl Table {
    /// `first` are there for ever; `more` can be added later.
    pub fn new(first: &[Arc<Channel>], more: usize) -> Self {
        let of = |channel: &Arc<Channel>| AtomicPtr::new(Arc::as_ptr(channel).cast_mut());
        let empty = || AtomicPtr::new(ptr::null_mut());
        Self {
            places: first
                .iter()
                .map(of)
                .chain(std::iter::repeat_with(empty).take(more))
                .collect(),
            used: AtomicU32::new(first.len() as u32),
            changes: more > 0,
        }
    }

    /// A place that is free now; for the porter.
    pub fn free_place(&self) -> Option<u32> {
        let free = self
            .places
            .iter()
            .position(|place| place.load(Ordering::Relaxed).is_null());
        free.map(|place| place as u32)
    }

    /// How many places have been used.
    pub fn places(&self) -> usize {
        self.used.load(Ordering::SeqCst) as usize
    }

    /// Shows a channel to the threads. The caller keeps it until after [`remove`](Self::remove).
    pub fn insert(&self, place: u32, channel: &Arc<Channel>) {
        let pointer = Arc::as_ptr(channel).cast_mut();
        self.places[place as usize].store(pointer, Ordering::SeqCst);
        self.used.fetch_max(place + 1, Ordering::SeqCst);
    }

    /// Takes a channel away. When this returns, only threads that hold it look at it.
    pub fn remove<'p>(&self, place: u32, threads: impl Iterator<Item = &'p Presence>) {
        self.places[place as usize].store(ptr::null_mut(), Ordering::SeqCst);
        for presence in threads {
            // Looks are short, but a thread can lose its CPU in the middle of one.
            while presence.0.load(Ordering::SeqCst) != 0 {
                std::thread::yield_now();
            }
        }
    }

    /// A thread's look, which may be inside another one of the same thread.
    pub fn look<'a>(&'a self, presence: &'a Presence) -> Look<'a> {
        let presence = self.changes.then_some(presence);
        if let Some(presence) = presence {
            // A swap, because the table must be read after it.
            let depth = presence.0.load(Ordering::Relaxed);
            presence.0.swap(depth + 1, Ordering::SeqCst);
        }
        Look {
            table: self,
            presence,
        }
    }

    /// A look of the porter's.
    ///
    /// # Safety
    /// Only the caller removes channels, and it does not while the look lasts.
    pub unsafe fn look_as_porter(&self) -> Look<'_> {
        Look {
            table: self,
            presence: None,
        }
    }
}

impl Presence {
    /// A thread that will never come back is outside.
    pub fn leave_for_ever(&self) {
        self.0.store(0, Ordering::SeqCst);
    }
}

impl Look<'_> {
    /// How many places have to be looked at.
    pub fn places(&self) -> usize {
        self.table.places()
    }

    /// The channel in a place, if there is one.
    pub fn channel(&self, place: usize) -> Option<&Channel> {
        let pointer = self.table.places.get(place)?.load(Ordering::SeqCst);
        // SAFETY: null, or a channel that its owner keeps until it has removed it from the table and seen
        // this thread outside after that (or that is never removed); this look is inside.
        unsafe { pointer.as_ref() }
    }

    /// All that are there.
    pub fn channels(&self) -> impl Iterator<Item = &Channel> {
        (0..self.places()).filter_map(|place| self.channel(place))
    }
}

impl Drop for Look<'_> {
    fn drop(&mut self) {
        if let Some(presence) = self.presence {
            let depth = presence.0.load(Ordering::Relaxed);
            presence.0.store(depth.saturating_sub(1), Ordering::Release);
        }
    }
}
