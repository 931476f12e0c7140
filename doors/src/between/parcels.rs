//! Descriptors that were sent ahead of the call or the reply that they belong to.

use crate::values::descriptors::Descriptors;

/// Descriptors that have come and were not asked for yet: a place for each slot of a channel.
#[derive(Debug)]
pub struct Parcels(Box<[Option<Parcel>]>);

/// Descriptors on their way to a call or its caller.
#[derive(Debug)]
struct Parcel {
    generation: u32,
    descriptors: Descriptors,
}

impl Parcels {
    /// None, and room for those of so many slots.
    pub fn new(slots: u32) -> Self {
        Self((0..slots).map(|_| None).collect())
    }

    /// Keeps descriptors for a use of a slot; false if there is no such slot. What lay there belonged to a
    /// call that was withdrawn.
    pub fn keep(&mut self, slot: u32, generation: u32, descriptors: Descriptors) -> bool {
        let Some(place) = self.0.get_mut(slot as usize) else {
            return false;
        };
        *place = Some(Parcel {
            generation,
            descriptors,
        });
        true
    }

    /// Those of a use of a slot, if they have come.
    pub fn take(&mut self, slot: u32, generation: u32) -> Option<Descriptors> {
        let place = self.0.get_mut(slot as usize)?;
        let parcel = place.take_if(|parcel| parcel.generation == generation)?;
        Some(parcel.descriptors)
    }

    /// Closes all.
    pub fn clear(&mut self) {
        self.0.fill_with(|| None);
    }
}
