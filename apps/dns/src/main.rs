//! A name server for one fixed zone, `transom.example`: datagrams behind a door.
//!
//! ```text
//! dns --door /run/dns.door
//! transom serve --forward udp://127.0.0.1:5353=/run/dns.door
//! dig @127.0.0.1 -p 5353 www.transom.example
//! ```

mod answer;
mod message;
mod zone;

use std::process::ExitCode;
use transom::{Datagram, DatagramReply};

fn dns(datagram: &Datagram, reply: &mut DatagramReply) {
    if let Some(len) = answer::answer(datagram.bytes(), reply.space()) {
        // The answer was built in the space that there is.
        let _ = reply.set_len(len);
    }
}

fn main() -> ExitCode {
    // SAFETY: the handler allocates nothing, holds no lock, and owns nothing but its stack.
    unsafe { transom::App::datagrams(dns).escaping() }.serve()
}
