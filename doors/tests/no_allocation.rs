//! After start and growth, nothing allocates: neither client nor door server threads.
#![cfg(not(loom))]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{House, SMALL, wait_until};
use transom_doors::{Call, Kind, Status};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every method is the system allocator's; counting has no effect on memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: passed on as it came.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, base: *mut u8, layout: Layout) {
        // SAFETY: passed on as it came.
        unsafe { System.dealloc(base, layout) };
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn ten_thousand_calls_and_pieces_allocate_nothing_anywhere() {
    let house = House::new(2, |_: u32, call: &mut Call<'_>| {
        if call.request() == b"stream" {
            let _ = call.interim(0, 1);
        }
        call.complete(0, Status::OK);
    });
    let mut caller = house.caller(SMALL);
    house.door.start().unwrap();
    caller.call(b"");
    wait_until("the spare is idle: no thread is left to start", || {
        house.info().threads.idle == 2
    });

    let before = ALLOCATIONS.load(Ordering::SeqCst);
    for round in 0..10_000_u32 {
        let request: &[u8] = if round % 10 == 0 { b"stream" } else { b"" };
        for _ in 0..4 {
            caller.stage(request);
        }
        caller.client.flush().unwrap();
        let mut finals = 0;
        while finals < 4 {
            let (slot, completion) = caller.next();
            match completion.kind {
                Kind::Interim(_) if round % 20 == 0 => {
                    caller.client.abandon(slot);
                    finals += 1;
                }
                Kind::Interim(_) => caller.client.resume(slot, 0),
                Kind::Final | Kind::Lost => {
                    caller.client.release(slot);
                    finals += 1;
                }
            }
        }
    }
    assert_eq!(ALLOCATIONS.load(Ordering::SeqCst) - before, 0);
}
