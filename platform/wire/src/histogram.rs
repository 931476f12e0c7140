//! [`Histogram`]: how often values of each size were seen, in fixed memory.
//!
//! After a first bound there is a fixed number of bounds to each doubling, so that an observation needs a few
//! instructions and no search, and a quantile is right to one part in that number.

use std::sync::atomic::{AtomicU64, Ordering};

/// Where the bounds of a [`Histogram`] lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    first_log2: u32,
    steps_log2: u32,
}

impl Scale {
    /// Of bytes: 256, and then eight to each doubling.
    pub const BYTES: Scale = Scale {
        first_log2: 8,
        steps_log2: 3,
    };

    /// Of nanoseconds: 16.4 µs (2¹⁴ ns), and then two to each doubling.
    pub const NANOSECONDS: Scale = Scale {
        first_log2: 14,
        steps_log2: 1,
    };

    /// The place of a value: the first bound that is not below it.
    #[inline]
    const fn place(self, value: u64) -> usize {
        let below = value.saturating_sub(1);
        if below >> self.first_log2 == 0 {
            return 0;
        }
        let log2 = below.ilog2();
        let steps = 1 << self.steps_log2;
        let step = (below >> (log2 - self.steps_log2)) & (steps - 1);
        1 + (((log2 - self.first_log2) as usize) << self.steps_log2) + step as usize
    }

    /// The bound at a place: the largest value that belongs there.
    const fn bound(self, place: usize) -> u64 {
        if place == 0 {
            return 1 << self.first_log2;
        }
        let steps = 1_u64 << self.steps_log2;
        let (doubling, step) = (
            (place - 1) >> self.steps_log2,
            (place as u64 - 1) & (steps - 1),
        );
        let base = 1_u64 << (self.first_log2 as usize + doubling);
        base + (base >> self.steps_log2) * (step + 1)
    }
}

/// Counts of values by size. Any thread may observe and read at the same time; a reader may see an
/// observation in one number and not yet in another.
#[derive(Debug)]
pub struct Histogram {
    scale: Scale,
    counts: Box<[AtomicU64]>,
    above: AtomicU64,
    sum: AtomicU64,
    max: AtomicU64,
}

impl Histogram {
    /// An empty one, with bounds up to the first that is at least `most`. It allocates here, and nowhere
    /// else.
    #[must_use]
    pub fn new(scale: Scale, most: u64) -> Self {
        let counts = (0..=scale.place(most)).map(|_| AtomicU64::new(0)).collect();
        Histogram {
            scale,
            counts,
            above: AtomicU64::new(0),
            sum: AtomicU64::new(0),
            max: AtomicU64::new(0),
        }
    }

    /// Counts a value.
    #[inline]
    pub fn observe(&self, value: u64) {
        let place = self.counts.get(self.scale.place(value));
        place.unwrap_or(&self.above).fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
        if value > self.max.load(Ordering::Relaxed) {
            self.max.fetch_max(value, Ordering::Relaxed);
        }
    }

    /// Counts a value, where no other thread ever does: ordinary additions, no locked instruction.
    #[inline]
    pub fn observe_alone(&self, value: u64) {
        let add = |to: &AtomicU64, value: u64| {
            to.store(
                to.load(Ordering::Relaxed).wrapping_add(value),
                Ordering::Relaxed,
            );
        };
        add(
            self.counts
                .get(self.scale.place(value))
                .unwrap_or(&self.above),
            1,
        );
        add(&self.sum, value);
        if value > self.max.load(Ordering::Relaxed) {
            self.max.store(value, Ordering::Relaxed);
        }
    }

    /// Every bound with the number of values at or below it and above the one before; at the end, with no
    /// bound, those above all of them.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<u64>, u64)> + '_ {
        let counts = self.counts.iter().enumerate();
        counts
            .map(|(place, count)| (Some(self.scale.bound(place)), count))
            .chain(std::iter::once((None, &self.above)))
            .map(|(bound, count)| (bound, count.load(Ordering::Relaxed)))
    }

    /// How many values.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets().map(|(_, count)| count).sum()
    }

    /// Their sum, modulo 2⁶⁴.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.sum.load(Ordering::Relaxed)
    }

    /// The largest, exactly; 0 if there is none.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.max.load(Ordering::Relaxed)
    }

    /// A value that all but one part in `parts` of the values do not exceed: a bound, or the largest value if
    /// that is less or above all bounds. 0 if there is none.
    #[must_use]
    pub fn all_but_one_in(&self, parts: u64) -> u64 {
        let total = self.count();
        let allowed_above = total / parts.max(1);
        let mut at_or_below = 0;
        for (bound, count) in self.buckets() {
            at_or_below += count;
            if at_or_below > 0 && total.saturating_sub(at_or_below) <= allowed_above {
                return bound.map_or(self.max(), |bound| bound.min(self.max()));
            }
        }
        0
    }

    /// Adds what another one of the same scale and length has counted.
    ///
    /// # Panics
    /// If they have not the same bounds.
    pub fn add(&self, other: &Histogram) {
        assert!(
            self.scale == other.scale && self.counts.len() == other.counts.len(),
            "histograms with other bounds cannot be added"
        );
        for (mine, theirs) in self.counts.iter().zip(&other.counts) {
            mine.fetch_add(theirs.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        let above = other.above.load(Ordering::Relaxed);
        self.above.fetch_add(above, Ordering::Relaxed);
        self.sum.fetch_add(other.sum(), Ordering::Relaxed);
        self.max.fetch_max(other.max(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bounds_are_a_first_one_and_then_steps_of_each_doubling() {
        let bytes: Vec<_> = (0..12).map(|place| Scale::BYTES.bound(place)).collect();
        assert_eq!(
            bytes,
            [256, 288, 320, 352, 384, 416, 448, 480, 512, 576, 640, 704]
        );
        let times: Vec<_> = (0..5)
            .map(|place| Scale::NANOSECONDS.bound(place))
            .collect();
        assert_eq!(times, [16384, 24576, 32768, 49152, 65536]);
    }

    proptest! {
        #[test]
        fn a_value_lies_at_or_below_its_bound_and_above_the_one_before(value in 0..1_u64 << 40) {
            for scale in [Scale::BYTES, Scale::NANOSECONDS] {
                let place = scale.place(value);
                prop_assert!(value <= scale.bound(place));
                prop_assert!(place == 0 || value > scale.bound(place - 1));
            }
        }

        #[test]
        fn a_quantile_is_a_bound_that_enough_values_keep(
            values in prop::collection::vec(1..200_000_u64, 1..300),
            parts in 2..200_u64,
        ) {
            let [one, two, all] = [(); 3].map(|()| Histogram::new(Scale::BYTES, 100_000));
            for (n, value) in values.iter().enumerate() {
                if n % 2 == 0 { one.observe(*value) } else { two.observe_alone(*value) }
                all.observe(*value);
            }
            let quantile = all.all_but_one_in(parts);
            let above = values.iter().filter(|&&value| value > quantile).count() as u64;
            prop_assert!(above <= values.len() as u64 / parts);
            prop_assert!(quantile <= all.max());
            one.add(&two);
            prop_assert_eq!((one.all_but_one_in(parts), one.sum(), one.max()), (quantile, all.sum(), all.max()));
            prop_assert!(one.buckets().eq(all.buckets()));
        }
    }

    #[test]
    fn what_lies_above_the_bounds_is_counted_apart() {
        let histogram = Histogram::new(Scale::BYTES, 500);
        for _ in 0..3 {
            histogram.observe(512);
        }
        histogram.observe(513);
        let last: Vec<_> = histogram.buckets().skip(8).collect();
        assert_eq!(last, [(Some(512), 3), (None, 1)]);
        assert_eq!((histogram.count(), histogram.sum()), (4, 3 * 512 + 513));
        assert_eq!(histogram.max(), 513);
        assert_eq!(histogram.all_but_one_in(2), 512);
        assert_eq!(histogram.all_but_one_in(100), 513);
        assert_eq!(Histogram::new(Scale::BYTES, 500).all_but_one_in(2), 0);
    }
}
