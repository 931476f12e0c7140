//! The futex of the model checker, in the place of `src/rules/futex.rs`.

use std::time::Duration;

use crate::rules::sync::{AtomicU32, Ordering};

/// The futex of the model, for one sleeper per word: the kernel compares the word and queues the
/// sleeper as one step, and a wake says whether a sleeper was queued.
#[derive(Debug)]
pub struct Futex {
    word: AtomicU32,
    queue: loom::sync::Arc<Queue>,
}

/// Where a sleeper is queued: for two words, if it can be woken through either.
#[derive(Debug)]
struct Queue {
    asleep: loom::sync::Mutex<bool>,
    woken: loom::sync::Condvar,
}

impl Default for Futex {
    fn default() -> Self {
        Self {
            word: AtomicU32::new(0),
            queue: loom::sync::Arc::new(Queue {
                asleep: loom::sync::Mutex::new(false),
                woken: loom::sync::Condvar::new(),
            }),
        }
    }
}

impl Futex {
    /// A word whose sleeper can also be woken through `other`.
    pub fn beside(other: &Futex) -> Self {
        Self {
            word: AtomicU32::new(0),
            queue: loom::sync::Arc::clone(&other.queue),
        }
    }

    /// The atomic word itself.
    pub fn word(&self) -> &AtomicU32 {
        &self.word
    }

    /// See the production twin.
    pub fn wait(&self, expected: u32) {
        let mut asleep = self.queue.asleep.lock().unwrap();
        if self.word.load(Ordering::Relaxed) != expected {
            return;
        }
        *asleep = true;
        while *asleep {
            asleep = self.queue.woken.wait(asleep).unwrap();
        }
    }

    /// See the production twin; the model's public word shares the queue, and is always 0.
    pub fn wait_either(&self, expected: u32, _public: &Futex) {
        self.wait(expected);
    }

    /// See the production twin.
    pub fn wait_privately(&self, expected: u32) {
        self.wait(expected);
    }

    /// See the production twin; here nothing may rely on the second.
    pub fn wait_a_while(&self, expected: u32) {
        self.wait(expected);
    }

    /// See the production twin; here nothing may rely on the time.
    pub fn wait_for(&self, expected: u32, _timeout: Duration) {
        self.wait(expected);
    }

    /// See the production twin.
    pub fn wake(&self) -> bool {
        let mut asleep = self.queue.asleep.lock().unwrap();
        if std::mem::replace(&mut *asleep, false) {
            self.queue.woken.notify_one();
            return true;
        }
        false
    }

    /// See the production twin.
    pub fn wake_privately(&self) -> bool {
        self.wake()
    }

    /// See the production twin.
    pub fn wake_all(&self) -> bool {
        self.wake()
    }
}
