//! Statistics over several runs.

/// The middle of several measurements, and how far apart they are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// Half of them are not below, half not above.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// `None` of no measurement.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (&min, &max) = (values.first()?, values.last()?);
        let half = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(values[half - 1], values[half])
        } else {
            values[half]
        };
        Some(Self { median, min, max })
    }
}

/// The ratio of two servers, from the rounds in which both were measured: a ratio for each round, because the
/// two runs of a round were made beside each other and those of different rounds were not.
pub fn ratio(ours: &[Option<f64>], theirs: &[Option<f64>]) -> Option<Spread> {
    let rounds = ours.iter().zip(theirs);
    Spread::of(rounds.filter_map(|(ours, theirs)| match (ours, theirs) {
        (Some(ours), Some(theirs)) if *theirs > 0.0 => Some(ours / theirs),
        _ => None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        let spread = Spread::of([4.0, 1.0, 3.0, 10.0]).unwrap();
        assert_eq!((spread.median, spread.min, spread.max), (3.5, 1.0, 10.0));
        assert_eq!(Spread::of([2.0, 9.0, 5.0]).unwrap().median, 5.0);
        assert_eq!(Spread::of([7.0]).unwrap().median, 7.0);
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn a_ratio_is_taken_within_each_round() {
        // The machine was half as fast in the second round: that is no difference between the two.
        let ours = [Some(5.0), Some(10.0), Some(5.5)];
        let theirs = [Some(10.0), Some(20.0), Some(10.0)];
        let spread = ratio(&ours, &theirs).unwrap();
        assert_eq!((spread.median, spread.min, spread.max), (0.5, 0.5, 0.55));
    }

    #[test]
    fn a_round_that_one_of_them_has_missed_does_not_count() {
        let spread = ratio(&[None, Some(3.0), Some(8.0)], &[Some(1.0), Some(1.0), None]).unwrap();
        assert_eq!((spread.median, spread.min, spread.max), (3.0, 3.0, 3.0));
        assert_eq!(ratio(&[None], &[Some(1.0)]), None);
        assert_eq!(ratio(&[Some(1.0)], &[Some(0.0)]), None);
    }
}
