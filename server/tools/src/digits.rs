//! Numbers in a readable form.

/// `1,234,567`.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_three_digits_have_a_comma() {
        let all = [0, 1, 999, 1000, 123_456, 1_234_567].map(grouped);
        assert_eq!(all, ["0", "1", "999", "1,000", "123,456", "1,234,567"]);
    }
}
