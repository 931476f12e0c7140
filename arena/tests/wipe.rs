//! Nothing is left of a request's bytes, and a planted use after the end is seen.

mod common;

use common::{fill_the_arena, never_stuck, on_bucket_thread};
use std::hint::black_box;
use transom_arena::{Bump, Wipe};

#[global_allocator]
static GLOBAL: transom_arena::TransomAllocator = transom_arena::TransomAllocator;

/// Reads bytes of a bucket between two requests, which is what the poison is for.
fn is_filled_with(value: u8, address: usize, len: usize) -> bool {
    (address..address + len)
        // SAFETY: the address lies in a bucket, mapped for the life of the process, and this is its thread;
        // volatile, because for the compiler there is nothing there any more.
        .all(|byte| unsafe { (byte as *const u8).read_volatile() } == value)
}

fn is_poisoned(address: usize, len: usize) -> bool {
    is_filled_with(Wipe::POISON, address, len)
}

#[test]
fn poison_catches_a_planted_escape() {
    on_bucket_thread(|tenant| {
        let secret = "a pointer kept past the request";
        let outcome = tenant.enter(&never_stuck, |_| {
            let text = black_box(String::from(secret));
            text.as_ptr() as usize
        });
        let kept = outcome.result.expect("returns");
        assert!(is_poisoned(kept, secret.len()));
    });
}

#[test]
fn poison_catches_it_after_an_escape_and_after_a_panic() {
    on_bucket_thread(|tenant| {
        let kept = std::cell::Cell::new(0);
        // SAFETY: nothing is held.
        let outcome = unsafe {
            tenant.enter_escaping(&never_stuck, |_| -> u8 {
                kept.set(black_box(Box::new([1u8; 64])).as_ptr() as usize);
                fill_the_arena()
            })
        };
        assert!(outcome.result.is_err());
        assert!(is_poisoned(kept.get(), 64));
        let outcome = tenant.enter(&never_stuck, |_| -> u8 {
            kept.set(black_box(Box::new([1u8; 64])).as_ptr() as usize);
            panic!("with a message of {}", black_box(1));
        });
        assert!(outcome.result.is_err());
        assert!(is_poisoned(kept.get(), 64));
    });
}

/// bumpalo's collections give the tip back themselves, which no counter of ours sees.
#[test]
fn what_bumpalos_collections_gave_back_is_wiped_too() {
    fn handler(arena: &Bump) -> usize {
        let mut secret = bumpalo::collections::Vec::new_in(arena);
        secret.extend_from_slice_copy(&[7u8; 10_000]);
        black_box(secret).as_ptr() as usize
    }
    on_bucket_thread(|tenant| {
        let kept = tenant.enter(&never_stuck, handler).result.expect("returns");
        assert!(is_poisoned(kept, 10_000));
    });
}

#[test]
fn what_outlives_its_request_is_not_wiped_before_it_is_freed() {
    on_bucket_thread(|tenant| {
        let outcome = tenant.enter(&never_stuck, |_| {
            let beside = black_box(Box::new([2u8; 32]));
            let kept = &*Box::leak(Box::new([1u8; 32]));
            (kept, beside.as_ptr() as usize)
        });
        let ((kept, beside), left) = (outcome.result.expect("returns"), outcome.left);
        assert_eq!(left, 32);
        assert!(is_filled_with(1, kept.as_ptr() as usize, 32));
        // Its first bytes hold the list of free blocks.
        assert!(is_poisoned(beside + 8, 24));
        // SAFETY: leaked above, and nothing else has it.
        drop(unsafe { Box::from_raw(std::ptr::from_ref(kept).cast_mut()) });
        assert_eq!(tenant.look_at_kept(), 0);
        assert!(is_poisoned(kept.as_ptr() as usize, 32));
    });
}
