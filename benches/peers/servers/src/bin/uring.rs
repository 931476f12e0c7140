//! The cheapest server that io_uring allows: a receive and, linked behind it, a send of a fixed answer; no
//! parsing, no timeouts. Like `peer-epoll`, a floor: it takes every read for one whole request. `peer-uring
//! ADDRESS:PORT`; one thread.

use answers::FIXED_ANSWER;
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, RawFd};

/// Submissions that may wait for the next turn.
const ENTRIES: u32 = 1024;

/// More than the head of any request of the harness.
const READ_BYTES: usize = 4096;

/// What a completion is about: the operation in the upper half, the connection's descriptor in the lower.
const ACCEPT: u64 = 0;
const RECEIVE: u64 = 1 << 32;
const SEND: u64 = 2 << 32;

fn main() -> io::Result<()> {
    let (address, _) = answers::arguments("peer-uring ADDRESS:PORT");
    let listener = TcpListener::bind(address)?;
    let mut ring: IoUring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_cqsize(16 * ENTRIES)
        .build(ENTRIES)?;
    // Where all requests go. It is never read, so that connections need no buffer of their own.
    let scratch: &'static mut [u8; READ_BYTES] = Box::leak(Box::new([0; READ_BYTES]));
    let scratch = scratch.as_mut_ptr();
    let accept = opcode::AcceptMulti::new(types::Fd(listener.as_raw_fd()))
        .flags(libc::SOCK_CLOEXEC)
        .build()
        .user_data(ACCEPT);
    push(&mut ring, &accept)?;
    let mut done: Vec<cqueue::Entry> = Vec::new();
    loop {
        ring.submit_and_wait(1)?;
        done.extend(ring.completion());
        for completion in done.drain(..) {
            let (operation, descriptor) = split(completion.user_data());
            match (operation, completion.result()) {
                (ACCEPT, accepted) => {
                    if accepted < 0 {
                        return Err(io::Error::from_raw_os_error(-accepted));
                    }
                    set_nodelay(accepted)?;
                    push(&mut ring, &receive(accepted, scratch))?;
                    if !cqueue::more(completion.flags()) {
                        push(&mut ring, &accept)?;
                    }
                }
                // One submission for both: the answer, and the wait for the next request.
                (RECEIVE, bytes) if bytes > 0 => {
                    push(&mut ring, &send(descriptor))?;
                    push(&mut ring, &receive(descriptor, scratch))?;
                }
                (RECEIVE, _) => close(descriptor),
                // A send that failed is followed by a receive that says so.
                _ => {}
            }
        }
    }
}

fn split(user_data: u64) -> (u64, RawFd) {
    let operation = user_data & !0xffff_ffff;
    (operation, (user_data & 0xffff_ffff) as RawFd)
}

fn receive(connection: RawFd, scratch: *mut u8) -> squeue::Entry {
    opcode::Recv::new(types::Fd(connection), scratch, READ_BYTES as u32)
        .build()
        .user_data(RECEIVE | connection as u64)
}

/// Linked, so that the receive behind it begins once it is done.
fn send(connection: RawFd) -> squeue::Entry {
    opcode::Send::new(
        types::Fd(connection),
        FIXED_ANSWER.as_ptr(),
        FIXED_ANSWER.len() as u32,
    )
    .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
    .build()
    .flags(squeue::Flags::IO_LINK)
    .user_data(SEND | connection as u64)
}

/// Queues a submission, after the queue has been handed to the kernel if it is full.
fn push(ring: &mut IoUring, entry: &squeue::Entry) -> io::Result<()> {
    loop {
        // SAFETY: what the entries point to is static: the answer, and the scratch, which nothing else
        // touches.
        if unsafe { ring.submission().push(entry) }.is_ok() {
            return Ok(());
        }
        ring.submit()?;
    }
}

fn set_nodelay(connection: RawFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option's value is an int, and is read before the call returns.
    let set = unsafe {
        libc::setsockopt(
            connection,
            libc::IPPROTO_TCP,
            libc::TCP_NODELAY,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if set < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn close(connection: RawFd) {
    // SAFETY: the descriptor came from accept, and its last receive has ended: it is not used any more.
    unsafe { libc::close(connection) };
}
