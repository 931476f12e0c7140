//! A datagram handler that misbehaves, as the datagram asks.
//!
//! | datagram | does |
//! |---|---|
//! | `arena` | outgrows its bucket |
//! | `panic` | panics |
//! | `silent` | answers nothing |
//! | `wait FILE` | makes `FILE.begun`, waits until there is a FILE, then sends it back |
//! | `pid` | says which process it is |
//! | anything else | sends it back |

use std::hint::black_box;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use transom::{Datagram, DatagramReply};

fn outgrow_arena() {
    let mut all = Vec::new();
    loop {
        all.push(black_box(vec![1_u8; 4096]));
    }
}

fn serve(datagram: &Datagram, reply: &mut DatagramReply) {
    let bytes = datagram.bytes();
    let text = std::str::from_utf8(bytes).unwrap_or("");
    match bytes {
        b"arena" => outgrow_arena(),
        b"panic" => panic!("as asked"),
        b"silent" => return,
        b"pid" => {
            let _ = reply.send(std::process::id().to_string().as_bytes());
            return;
        }
        _ => {}
    }
    if let Some(file) = text.strip_prefix("wait ") {
        std::fs::write(format!("{file}.begun"), "").expect("a file");
        while !Path::new(file).exists() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    reply.send(bytes).expect("a datagram fits an answer");
}

fn main() -> ExitCode {
    let app = transom::App::datagrams(serve);
    // SAFETY: the handler holds no lock, keeps nothing beyond its datagram, and owns nothing but memory.
    unsafe { app.escaping() }.serve()
}
