//! A door at a path, for clients that do not keep to the protocol and for deaths.
//!
//! ```text
//! door-echo PATH THREADS [slots=N] [spares=N] [channels=N] [descriptors=N] [nofile=N] [log=FILE]
//!           [loses=all] [old=kernel]
//! ```
//!
//! | request | does |
//! |---|---|
//! | `echo…` | replies the request |
//! | `sleep N` | sleeps N ms, at most ten seconds, then replies the request |
//! | `count`, eight bytes | appends them to the log, then replies them |
//! | `late`, eight bytes | appends them to the log, sleeps 2 ms, appends them again |
//! | `fds` | replies the descriptors that came along |
//! | `panic` | panics |
//! | `lose` | lends the room for its reply to a thread for ever, and is lost |
//! | `fork` | leaves a child behind that holds everything open, replies its process id |
//! | anything else | replies the request's hash |
//!
//! What its clients do goes to standard output, one line for each event, after the line `ready`.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use transom_doors::{AttachOptions, Call, ChannelGeometry, Credentials, Door, DoorEvent, Status};
use transom_tests::raw::hash;

fn say(event: &str, who: &Credentials, why: &dyn std::fmt::Display) {
    let mut out = std::io::stdout().lock();
    // The reader may have gone, which is no reason to end.
    let _ = writeln!(out, "{event} pid={} uid={} {why}", who.pid, who.uid);
}

fn on_event(event: &DoorEvent) {
    match event {
        DoorEvent::Opened { client } => say("opened", client, &""),
        DoorEvent::Left { client } => say("left", client, &""),
        DoorEvent::Kept { client } => say("kept", client, &""),
        DoorEvent::Refused { client, why } => say("refused", client, why),
        DoorEvent::Poisoned { client, lie } => say("poisoned", client, lie),
        _ => {}
    }
}

fn serve(log: Option<&File>, loses: bool, call: &mut Call<'_>) {
    if loses {
        lose(call);
    }
    let request = call.request().to_vec();
    let text = std::str::from_utf8(&request).unwrap_or("");
    let nap = text.strip_prefix("sleep ").and_then(|ms| ms.parse().ok());
    let reply = if let Some(ms) = nap {
        std::thread::sleep(Duration::from_millis(u64::min(ms, 10_000)));
        request
    } else if request.starts_with(b"echo") {
        request
    } else if let (Some(mut log), Some(id)) = (log, request.strip_prefix(b"count")) {
        log.write_all(id).expect("the log can be written");
        id.to_vec()
    } else if let (Some(mut log), Some(id)) = (log, request.strip_prefix(b"late")) {
        log.write_all(id).expect("the log can be written");
        std::thread::sleep(Duration::from_millis(2));
        log.write_all(id).expect("the log can be written");
        Vec::new()
    } else if text == "fds" {
        let descriptors: Vec<OwnedFd> = call.take_descriptors().collect();
        let back: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        if call.complete_with(0, Status::OK, &back).is_err() {
            call.complete(0, Status::FAULT);
        }
        return;
    } else if text == "lose" {
        lose(call);
    } else if text == "panic" {
        panic!("as asked");
    } else if text == "fork" {
        // SAFETY: the child calls only async-signal-safe functions, and ends by itself if it is not killed.
        let child = unsafe {
            let child = libc::fork();
            if child == 0 {
                libc::alarm(60);
                loop {
                    libc::pause();
                }
            }
            child
        };
        child.to_le_bytes().to_vec()
    } else {
        hash(&request).to_vec()
    };
    call.reply_mut()[..reply.len()].copy_from_slice(&reply);
    call.complete(reply.len(), Status::OK);
}

/// Lends the room for the reply to a thread that writes there for ever, and ends the process if something
/// else is written there. The call is lost.
fn lose(call: &mut Call<'_>) -> ! {
    const MARK: u8 = 0xEE;
    let emergency = call.emergency();
    let room = call.reply_mut();
    room.fill(MARK);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            loop {
                if std::hint::black_box(&*room)
                    .iter()
                    .any(|&byte| byte != MARK)
                {
                    std::process::abort();
                }
                std::hint::black_box(&mut *room).fill(MARK);
                std::thread::sleep(Duration::from_micros(50));
            }
        });
        // SAFETY: on the handler's thread, whose frames stay: the loop below never ends.
        unsafe { emergency.complete(Status(16)) };
        loop {
            std::thread::park();
        }
    })
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, threads, options @ ..] = arguments.as_slice() else {
        eprintln!(
            "door-echo PATH THREADS [slots=N] [spares=N] [channels=N] [descriptors=N] [nofile=N] [log=FILE] [loses=all] [old=kernel]"
        );
        return ExitCode::FAILURE;
    };
    let option = |name: &str| {
        let mut named = options.iter().filter_map(|option| option.split_once('='));
        named.find(|(key, _)| *key == name)
    };
    let number = |name: &str, default: u32| {
        option(name).map_or(default, |(_, value)| value.parse().expect("a number"))
    };
    if option("old").is_some() {
        transom_tests::hanging::forget_passrights().expect("a filter");
    }
    if option("nofile").is_some() {
        let most = libc::rlim_t::from(number("nofile", 0));
        let limit = libc::rlimit {
            rlim_cur: most,
            rlim_max: most,
        };
        // SAFETY: the limit is a local.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    }
    let log = option("log").map(|(_, file)| {
        let options = File::options().append(true).create(true).open(file);
        options.expect("the log can be written")
    });
    let loses = option("loses").is_some();
    std::panic::set_hook(Box::new(|_| {}));
    let geometry = ChannelGeometry {
        slots: number("slots", 64),
        spares: number("spares", 0),
        request_size: 4096,
        reply_size: 4096,
    };
    let door = Door::builder()
        .threads_max(threads.parse().expect("a number of threads"))
        .channel_geometry(geometry)
        .channels_max(number("channels", 64))
        .descriptors_max(number("descriptors", 4))
        .on_event(on_event)
        .handler(move |_: u32, call: &mut Call<'_>| serve(log.as_ref(), loses, call))
        .build()
        .expect("a door");
    door.start().expect("a thread");
    let attached = door.attach(
        Path::new(path),
        &AttachOptions {
            wait: Duration::from_secs(10),
            ..AttachOptions::default()
        },
    );
    let _attachment = match attached {
        Ok(attachment) => attachment,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    println!("ready");
    // Until standard input ends: our parent has gone, or has closed it.
    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    ExitCode::SUCCESS
}
