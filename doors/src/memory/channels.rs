//! All channels of a door: those of this process, which are there before it starts and stay, and those to
//! other processes.

use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::back_end::bell::Bell;
use crate::memory::channel::Channel;
use crate::memory::layout::Layout;
use crate::memory::table::{Look, Presence, Table};
use crate::values::error::ChannelError;

/// See the module.
#[derive(Debug, Default)]
pub struct Channels {
    /// All, once the door has started.
    table: OnceLock<Table>,
    /// Channels of this process: all made before the start, and kept afterwards.
    local: Mutex<Vec<Arc<Channel>>>,
    /// Of a thread that looks at the channels and is none of the door's threads, one at a time.
    outsider: Mutex<()>,
    outsider_presence: Presence,
    /// Channels that stay for lost calls, without a client.
    pub kept: AtomicU32,
}

impl Channels {
    fn local(&self) -> MutexGuard<'_, Vec<Arc<Channel>>> {
        self.local.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one of this process.
    pub fn add(&self, layout: Layout, bell: Bell) -> Result<Arc<Channel>, ChannelError> {
        let mut local = self.local();
        if self.is_sealed() {
            return Err(ChannelError::Started);
        }
        let channel = Arc::new(Channel::new(local.len() as u32, 0, layout, bell, None));
        local.push(Arc::clone(&channel));
        Ok(channel)
    }

    /// Ends the time in which channels of this process can be added. There is room for `more` to others.
    pub fn seal(&self, more: usize) {
        let local = self.local();
        self.table.get_or_init(|| Table::new(&local, more));
    }

    /// Whether the door has started.
    pub fn is_sealed(&self) -> bool {
        self.table.get().is_some()
    }

    /// The table; `seal` comes first.
    pub fn table(&self) -> &Table {
        self.table.get_or_init(|| Table::new(&[], 0))
    }

    /// A look by a thread that is none of the door's threads.
    pub fn look_from_outside<R>(&self, see: impl FnOnce(&Look<'_>) -> R) -> R {
        let _one_at_a_time = self.outsider.lock().unwrap_or_else(PoisonError::into_inner);
        see(&self.table().look(&self.outsider_presence))
    }

    /// Of a thread that looks and is none of the door's threads.
    pub fn outsider_presence(&self) -> &Presence {
        &self.outsider_presence
    }

    /// Submitted calls that no thread has taken up.
    pub fn count_waiting(&self) -> u64 {
        self.look_from_outside(|look| {
            let waiting = look.channels().filter(|channel| channel.has_backlog());
            waiting
                .map(|channel| u64::from(channel.layout.submit().count()))
                .sum()
        })
    }

    /// Whether the call in `slot` of the channel that lies at `address` was given up, or its client has left.
    /// No channel lies at 0.
    pub fn is_abandoned(&self, address: usize, slot: u32) -> bool {
        self.look_from_outside(|look| {
            let channel = look
                .channels()
                .find(|&channel| std::ptr::from_ref(channel).addr() == address);
            match channel {
                Some(channel) => channel.is_closed() || channel.layout.turn(slot).is_abandoned(),
                None => address != 0, // it was taken out of the table, because its client has left
            }
        })
    }
}
