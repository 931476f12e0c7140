//! An honest client that is killed in the middle of its calls.
//!
//! ```text
//! door-caller PATH CALLS
//! ```
//!
//! Submits so many calls, says `calling`, and does nothing else until it is killed.

use std::path::Path;
use std::time::Duration;

use transom_doors::{AsyncClient, OpenOptions};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, calls] = arguments.as_slice() else {
        eprintln!("door-caller PATH CALLS");
        return;
    };
    let calls: usize = calls.parse().expect("a number");
    let mut client =
        AsyncClient::open(Path::new(path), &OpenOptions::default()).expect("the door is open");
    for call in 0..calls {
        let slot = client.reserve().expect("a slot for each");
        let mut request = b"late".to_vec();
        request.extend_from_slice(&std::process::id().to_le_bytes());
        request.extend_from_slice(&(call as u32).to_le_bytes());
        client.request_mut(slot)[..request.len()].copy_from_slice(&request);
        client.submit(slot, request.len(), 0);
    }
    client.flush().expect("the door takes calls");
    println!("calling");
    loop {
        std::thread::sleep(Duration::from_secs(60));
    }
}
