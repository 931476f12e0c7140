//! Descriptors and mappings that clients of a door leave behind: counted for the whole process, so this test
//! is alone in its own.
#![cfg(target_os = "linux")]
#![cfg(not(loom))]

mod common;

use std::fs;

use common::wait_until;
use transom_doors::{AttachOptions, Call, ChannelGeometry, Client, Door, Status};

#[test]
fn what_a_client_leaves_behind_is_freed() {
    let path = std::env::temp_dir().join(format!("doors-leak-{}", std::process::id()));
    let geometry = ChannelGeometry {
        slots: 64,
        spares: 0,
        request_size: 4096,
        reply_size: 4096,
    };
    let door = Door::builder()
        .threads_max(2)
        .channel_geometry(geometry)
        .handler(|_: u32, call: &mut Call<'_>| call.complete(1, Status::OK))
        .build()
        .unwrap();
    door.start().unwrap();
    let attachment = door.attach(&path, &AttachOptions::default()).unwrap();
    let count = || {
        let descriptors = fs::read_dir("/proc/self/fd").unwrap().count();
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let ours = maps.matches("transom-").count();
        (descriptors, ours)
    };
    let visit = || {
        let mut client = Client::open(&path).unwrap();
        assert_eq!(client.call(b"x", &mut [0; 8]), Ok(1));
        drop(client);
        wait_until("it has left", || door.info().clients == 0);
    };
    visit();
    let before = count();
    for _ in 0..200 {
        visit();
    }
    wait_until("the last channel is gone", || {
        let now = count();
        now.0 <= before.0 && now.1 <= before.1
    });
    drop(attachment);
    door.revoke();
    let mut lock = path.into_os_string();
    lock.push(".lock");
    fs::remove_file(lock).unwrap();
}
