//! What becomes of a channel whose client has left.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::between::porter::Porter;
use crate::between::porter::admitted::{Admitted, Stage};
use crate::between::socket;
use crate::memory::channel::Channel;
use crate::values::door::DoorEvent;

impl Porter {
    /// Takes a channel away whose client has left or lied.
    pub(super) fn put_out(&mut self, index: usize) {
        let Some(Admitted {
            stage: Stage::Open { channel, place },
            credentials: client,
            ..
        }) = self.clients[index].take()
        else {
            return;
        };
        let pool = &*self.pool;
        pool.channels.table().remove(place, pool.presences());
        // Threads that wait for this client's turn wait no longer.
        for slot in 0..channel.layout.geometry().slots_in_all() {
            channel.layout.turn(slot).leave();
        }
        pool.clients.fetch_sub(1, Ordering::Relaxed);
        if let Some(link) = &channel.link {
            // The other side, if it lives, sees a hang-up now, and not only when the last thread has released
            // the channel.
            socket::hang_up(&link.socket);
            pool.tell(&match link.lie() {
                Some(lie) => DoorEvent::Poisoned { client, lie },
                None => DoorEvent::Left { client },
            });
            if pool.is_held(channel.id) || channel.has_lost_calls() {
                // A call that runs on, or was lost, keeps the channel, but not the descriptors of other
                // calls.
                link.discard();
                link.drop_parcels();
                self.retired.push(channel);
            }
        }
    }

    /// Unmaps the channels without a client that no thread holds any more, except those in which a call was
    /// lost.
    pub(super) fn let_go_of_retired(&mut self) {
        let mut at = 0;
        while let Some(channel) = self.retired.get(at) {
            if self.pool.is_held(channel.id) {
                at += 1;
                continue;
            }
            let channel = self.retired.swap_remove(at);
            // Checked after the look whether it is held: a thread says that a call is lost before it releases
            // the channel.
            if channel.has_lost_calls() {
                self.keep(channel);
            }
        }
    }

    /// Threads may use a lost call's part of the channel for as long as the process lives.
    fn keep(&mut self, channel: Arc<Channel>) {
        // SAFETY: the pointer is one that an `Arc` had, whose count is never given back.
        let channel: &'static Channel = unsafe { &*Arc::into_raw(channel) };
        self.kept.push(channel);
        self.pool.channels.kept.fetch_add(1, Ordering::Relaxed);
        if let Some(link) = &channel.link {
            let client = link.credentials;
            self.pool.tell(&DoorEvent::Kept { client });
        }
    }
}
