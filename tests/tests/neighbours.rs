//! A request does not notice what its neighbours ask for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use transom_tests::{Kind, Load, Server};

const EXHAUSTED: &str = "transom-diagnostic: bucket-exhausted\r\n";

/// One connection asks for `/10` while 32 others ask for something that fails.
fn beside(hungry: &str, part: &'static str, flags: &str) {
    let server = Server::start("oom", flags);
    let end = AtomicBool::new(false);
    let (mine, theirs) = thread::scope(|scope| {
        let crowd = scope.spawn(|| {
            let kinds = vec![Kind::get(hungry, 500, part)];
            Load::new(server.address(), 32, kinds).until(&end).run()
        });
        let mine = Load::new(server.address(), 1, vec![Kind::get("/10", 200, "")])
            .total(2000)
            .run();
        end.store(true, Ordering::Relaxed);
        (mine, crowd.join().expect("the crowd has its answers"))
    });
    assert!(
        mine.bad.is_empty(),
        "{:?} beside {:?} good ones",
        mine.bad,
        mine.good
    );
    assert_eq!(mine.good, [2000]);
    assert!(theirs.bad.is_empty(), "{:?}", theirs.bad);
    assert!(
        theirs.good[0] > 1000,
        "the crowd was {} requests large",
        theirs.good[0]
    );
}

#[test]
fn beside_requests_that_ask_for_a_gigabyte_none_fails() {
    beside("/1000000", EXHAUSTED, "--buckets 8 --bucket-size 512KiB");
}

#[test]
fn beside_requests_that_overflow_their_stack_none_fails() {
    beside("/recurse/1000000", EXHAUSTED, "--buckets 4");
}

#[test]
fn beside_requests_that_panic_none_fails() {
    beside(
        "/panic",
        "transom-diagnostic: handler-panicked\r\n",
        "--buckets 4",
    );
}

#[test]
fn one_bucket_is_enough_for_a_crowd_that_fails_and_one_that_does_not() {
    beside("/1000000", EXHAUSTED, "--buckets 1 --queue-timeout 10s");
}
