//! Erlang's loss formula: how many of the requests find all buckets busy, if none of them waits.
//!
//! It holds for requests that come independently of each other, as those of many clients do (a Poisson
//! process), and for *any* distribution of the times for which they hold a bucket: only the mean matters.

/// What is passed on from one bucket to the next: 1/B(n, a), which grows from 1 and so loses no digits.
fn next(inverse: f64, bucket: u32, load: f64) -> f64 {
    1.0 + f64::from(bucket) / load * inverse
}

/// 1/B(`buckets`, `load`), infinite where B is too small for a number.
///
/// `load` is in Erlangs, more than 0.
#[must_use]
pub fn inverse_erlang_b(buckets: u32, load: f64) -> f64 {
    (1..=buckets).fold(1.0, |inverse, bucket| next(inverse, bucket, load))
}

/// The share of requests that find all of so many buckets busy, for a load in Erlangs (requests a second ×
/// seconds).
#[must_use]
pub fn erlang_b(buckets: u32, load: f64) -> f64 {
    1.0 / inverse_erlang_b(buckets, load)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition: the last of N + 1 terms, as a share of their sum.
    fn by_definition(buckets: u32, load: f64) -> f64 {
        let mut term = 1.0;
        let mut sum = 1.0;
        for n in 1..=buckets {
            term *= load / f64::from(n);
            sum += term;
        }
        term / sum
    }

    #[test]
    fn twenty_erlangs_need_what_the_published_tables_say() {
        let fewest = |target: f64| (1..).find(|&n| erlang_b(n, 20.0) <= target);
        assert_eq!(fewest(0.01), Some(30));
        assert_eq!(fewest(0.001), Some(35));
        assert_eq!(fewest(0.0001), Some(39));
    }

    #[test]
    fn tabled_loads_have_their_tabled_loss() {
        // The most load at which so many servers lose a share, as tables of Erlang B have it.
        for (buckets, share, load) in [
            (1, 0.01, 0.0101),
            (5, 0.01, 1.361),
            (10, 0.01, 4.461),
            (10, 0.001, 3.092),
            (20, 0.01, 12.03),
            (50, 0.01, 37.90),
            (100, 0.01, 84.06),
            (100, 0.001, 75.24),
        ] {
            let loss = erlang_b(buckets, load);
            assert!(
                (loss / share - 1.0).abs() < 0.01,
                "B({buckets}, {load}) = {loss}, and not {share}"
            );
        }
    }

    #[test]
    fn the_recurrence_is_the_definition() {
        for buckets in 0..=40 {
            for load in [0.01, 0.5, 1.0, 7.3, 20.0, 39.9, 200.0] {
                let (one, other) = (erlang_b(buckets, load), by_definition(buckets, load));
                assert!(
                    (one / other - 1.0).abs() < 1e-12,
                    "B({buckets}, {load}): {one}, {other}"
                );
            }
        }
    }

    #[test]
    fn extremes_are_numbers() {
        assert_eq!(erlang_b(8, 0.0), 0.0);
        assert_eq!(erlang_b(16_384, 1e-9), 0.0);
        assert!((erlang_b(1, 1e12) - 1.0).abs() < 1e-9);
        let loss = erlang_b(16_384, 16_384.0);
        assert!(loss > 0.0 && loss < 0.01, "{loss}");
    }

    proptest! {
        #[test]
        fn more_buckets_lose_less_and_more_load_loses_more(
            buckets in 1u32..400, load in 0.01f64..500.0, more in 1.001f64..3.0,
        ) {
            let loss = erlang_b(buckets, load);
            prop_assert!((0.0..=1.0).contains(&loss));
            prop_assert!(erlang_b(buckets + 1, load) <= loss);
            prop_assert!(erlang_b(buckets, load * more) >= loss);
            // No more is served than there is room for.
            prop_assert!(load * (1.0 - loss) <= f64::from(buckets) * (1.0 + 1e-12));
        }
    }
}
