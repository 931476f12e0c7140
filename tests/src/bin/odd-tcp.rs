//! A connection handler that misbehaves, as the first line of a connection asks.
//!
//! | line | does |
//! |---|---|
//! | `arena`, `stack` | outgrows its bucket |
//! | `panic` | panics |
//! | `leave` | returns at once |
//! | `much` | sends 40 KiB, then returns |
//! | `pid` | says which process it is, then returns |
//! | `hang` | says `hung`, and never returns |
//! | anything else | sends it back, and whatever follows it |

use std::hint::black_box;
use std::io::{self, Read, Write};
use std::process::ExitCode;
use transom::Connection;

const MUCH: usize = 40 << 10;

fn outgrow_arena() {
    let mut all = Vec::new();
    loop {
        all.push(black_box(vec![1_u8; 4096]));
    }
}

fn outgrow_stack(depth: u64) -> u64 {
    let frame = black_box([depth; 256]);
    if depth == u64::MAX {
        return 0;
    }
    outgrow_stack(depth + 1) + frame[255]
}

fn serve(connection: &mut Connection) -> io::Result<()> {
    let mut buffer = [0; 4096];
    let mut first = true;
    loop {
        let len = connection.read(&mut buffer)?;
        let bytes = &buffer[..len];
        match bytes {
            [] => return Ok(()),
            b"arena\n" if first => outgrow_arena(),
            b"stack\n" if first => connection.write_all(&outgrow_stack(0).to_le_bytes())?,
            b"panic\n" if first => panic!("as asked"),
            b"leave\n" if first => return Ok(()),
            b"hang\n" if first => {
                connection.write_all(b"hung")?;
                loop {
                    std::thread::park();
                }
            }
            b"much\n" if first => return connection.write_all(&[b'x'; MUCH]),
            b"pid\n" if first => return writeln!(connection, "{}", std::process::id()),
            _ => connection.write_all(bytes)?,
        }
        first = false;
    }
}

fn main() -> ExitCode {
    let app = transom::App::connections(serve);
    // SAFETY: the handler holds no lock, keeps nothing beyond its connection, and owns nothing but memory.
    unsafe { app.escaping() }.serve()
}
