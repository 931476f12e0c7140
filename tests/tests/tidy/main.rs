//! The house rules: what we agree on, so that a review need not say it. Each rule has its list of exceptions,
//! with a reason for each; an exception that is not needed any more fails as well, so a list can only shrink.

mod circles;
mod documents;
mod rooms;
mod shape;
mod source;

use std::collections::BTreeSet;

/// Holds what breaks a rule against the exceptions to it: `(what, why)`.
#[track_caller]
fn hold(rule: &str, broken: impl IntoIterator<Item = String>, exceptions: &[(&str, &str)]) {
    let broken: BTreeSet<String> = broken.into_iter().collect();
    let excepted: BTreeSet<String> = exceptions
        .iter()
        .map(|(what, _)| (*what).to_owned())
        .collect();
    let new: Vec<_> = broken.difference(&excepted).cloned().collect();
    let needless: Vec<_> = excepted.difference(&broken).cloned().collect();
    assert!(new.is_empty(), "{rule}:\n{}", new.join("\n"));
    assert!(
        needless.is_empty(),
        "{rule}: no exception any more, take it off the list:\n{}",
        needless.join("\n")
    );
}
