//! Places where short answers are put until they leave together.

use crate::outbox::Gathered;

/// Bytes that are gathered for one connection: some twenty short answers.
pub(super) const PLACE_SIZE: usize = 4 << 10;

/// The most connections that a loop gathers for at once.
const PLACES_MAX: usize = 64;

/// Bytes that a loop with so many connections has for it.
pub(crate) fn gathering_size(connections: u32) -> usize {
    PLACES_MAX.min(connections as usize) * PLACE_SIZE
}

/// Places for answers that wait for the next one.
#[derive(Debug)]
pub(super) struct Places {
    bytes: &'static mut [u8],
    free: Vec<u8>,
}

impl Places {
    /// As many as the bytes have room for.
    pub(super) fn new(bytes: &'static mut [u8]) -> Self {
        let count = (bytes.len() / PLACE_SIZE).min(PLACES_MAX) as u8;
        Places {
            bytes,
            free: (0..count).rev().collect(),
        }
    }

    pub(super) fn take(&mut self) -> Option<Gathered> {
        let place = self.free.pop()?;
        Some(Gathered { place, len: 0 })
    }

    pub(super) fn give_back(&mut self, gathered: Gathered) {
        self.free.push(gathered.place); // within the capacity it was made with
    }

    /// All bytes of a place.
    pub(super) fn of(&mut self, gathered: Gathered) -> &mut [u8] {
        &mut self.bytes[usize::from(gathered.place) * PLACE_SIZE..][..PLACE_SIZE]
    }
}
