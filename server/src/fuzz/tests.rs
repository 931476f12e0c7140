//! The entry point on the seed corpus of `tests/fuzz`, on mutations of it, and on arbitrary bytes.

use super::configuration;
use super::mutations::on_mutations;
use proptest::prelude::*;

#[test]
fn configurations_near_the_corpus_are_read_or_refused_with_their_place() {
    on_mutations("configuration", configuration);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn arbitrary_bytes_are_no_configuration_that_breaks_it(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
        configuration(&bytes);
    }
}
