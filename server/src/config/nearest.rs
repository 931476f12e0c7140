//! "Did you mean": the known word that a wrong one is closest to.

/// The one of `known` that is `word` but for a slip or two of the fingers.
pub(super) fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    // One slip per three letters; more is another word.
    let most = (word.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|other| (distance(word, other), other))
        .min()
        .filter(|(distance, _)| *distance <= most)
        .map(|(_, other)| other)
}

/// Letters to insert, remove, replace or swap with their neighbour to turn one word into the other.
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    // Rows of the table for the prefixes of `from` that are two, one and no letters shorter.
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for i in 0..from.len() {
        let mut row = vec![i + 1];
        for j in 0..to.len() {
            let replaced = last[j] + usize::from(from[i] != to[j]);
            let mut least = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && from[i] == to[j - 1] && from[i - 1] == to[j] {
                least = least.min(before[j - 1] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_costs_one() {
        for (from, to, cost) in [
            ("", "", 0),
            ("", "door", 4),
            ("door", "door", 0),
            ("dor", "door", 1),
            ("doors", "door", 1),
            ("boor", "door", 1),
            ("odor", "door", 1),
            ("mehtod", "method", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(from, to), cost, "{from} {to}");
            assert_eq!(distance(to, from), cost, "{to} {from}");
        }
    }

    #[test]
    fn only_a_near_word_is_meant() {
        let known = ["listen", "door", "map"];
        assert_eq!(nearest("lisen", known), Some("listen"));
        assert_eq!(nearest("maps", known), Some("map"));
        assert_eq!(nearest("timeout", known), None);
        assert_eq!(nearest("door", []), None);
    }
}
