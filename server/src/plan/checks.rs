//! What settings must not be, by themselves and beside each other.

use super::error::PlanError;
use crate::config::Target;
use crate::settings::{ForwardedSetting, FrontSettings, ProxySetting, SLOTS_MAX, Settings};
use transom_arena::{BucketGeometry, Bytes, PAGE};
use transom_http::peer::proxy::V2_MAX_LEAST;
use transom_net::ListenAddress;

/// Smaller receive and send buffers than these are raised by the kernel itself (SOCK_MIN_RCVBUF,
/// SOCK_MIN_SNDBUF).
const SOCKET_BUFFER_MIN: usize = 4 << 10;

/// The least that a pool of which requests have shares may have.
const POOL_MIN: usize = 64 << 10;

pub(super) fn small(
    flag: &'static str,
    was: Bytes,
    least: usize,
    why: &'static str,
) -> Result<(), PlanError> {
    if was.get() >= least {
        return Ok(());
    }
    Err(PlanError::TooSmall {
        flag,
        was: was.to_string(),
        least: Bytes(least).to_string(),
        why,
    })
}

pub(super) fn check_front(settings: &FrontSettings) -> Result<(), PlanError> {
    small(
        "--head-limit",
        settings.head_limit,
        1024,
        "an ordinary browser sends that much",
    )?;
    for (flag, was) in [
        ("--receive-buffer", settings.receive_buffer),
        ("--datagram-buffer", settings.datagram_buffer),
        ("--send-buffer", settings.send_buffer),
    ] {
        small(flag, was, SOCKET_BUFFER_MIN, "the kernel gives no less")?;
        if was.get() > 1 << 30 {
            return Err(PlanError::TooLarge {
                flag,
                was: was.to_string(),
                most: Bytes(1 << 30).to_string(),
                why: "the kernel books twice as much in 31 bits",
            });
        }
    }
    for (flag, time) in [
        ("--queue-timeout", settings.queue_timeout),
        ("--header-timeout", settings.header_timeout),
        ("--body-timeout", settings.body_timeout),
        ("--write-timeout", settings.write_timeout),
        ("--idle-timeout", settings.idle_timeout),
        ("--handover-timeout", settings.handover_timeout),
    ] {
        if time.is_zero() {
            return Err(nothing_takes_no_time(flag));
        }
    }
    check_trust(settings)?;
    check_proxy_header(settings)?;
    if settings.access_log_file.is_some() && settings.access_style().is_none() {
        return Err(PlanError::Alone {
            flag: "--access-log-file",
            other: "--access-log",
            todo: "set that to combined or json, or leave the file out",
        });
    }
    if !settings.head_limit.get().is_multiple_of(PAGE) {
        return Err(PlanError::TooSmall {
            flag: "--head-limit",
            was: settings.head_limit.to_string(),
            least: "4KiB, and a multiple of it".to_owned(),
            why: "partial heads are laid out in pages",
        });
    }
    Ok(())
}

/// The channels that applications may offer are laid out in pages.
pub(super) fn check_channel_limit(settings: &FrontSettings) -> Result<(), PlanError> {
    let limit = settings.channel_limit;
    if limit.get().is_multiple_of(PAGE) && limit.get() > 0 {
        return Ok(());
    }
    Err(PlanError::TooSmall {
        flag: "--channel-limit",
        was: limit.to_string(),
        least: "4KiB, and a multiple of it".to_owned(),
        why: "channels are laid out in pages",
    })
}

pub(super) fn nothing_takes_no_time(flag: &'static str) -> PlanError {
    PlanError::TooSmall {
        flag,
        was: "0".to_owned(),
        least: "1ms".to_owned(),
        why: "everything takes some time",
    }
}

/// A proxy that may say who the client is has to be named.
pub(super) fn check_trust(settings: &FrontSettings) -> Result<(), PlanError> {
    let proxied = settings.proxy_protocol == ProxySetting::Require;
    let forwarded = settings.forwarded != ForwardedSetting::Off;
    let (flag, other, todo) = match (settings.trust.is_empty(), proxied, forwarded) {
        (true, true, _) => (
            "--proxy-protocol require",
            "--trust",
            "say which proxies are believed, as in --trust 10.0.0.0/8",
        ),
        (true, _, true) => (
            "--forwarded",
            "--trust",
            "say which proxies are believed, as in --trust 10.0.0.0/8",
        ),
        (false, false, false) => (
            "--trust",
            "--proxy-protocol require or --forwarded",
            "say what the proxies are believed by, or remove it",
        ),
        _ => return Ok(()),
    };
    Err(PlanError::Alone { flag, other, todo })
}

/// A header waits in a buffer for partial heads until all of it is there.
pub(super) fn check_proxy_header(settings: &FrontSettings) -> Result<(), PlanError> {
    let (flag, was) = ("--proxy-header-limit", settings.proxy_header_limit);
    if settings.proxy_protocol == ProxySetting::Off {
        return Ok(());
    }
    small(
        flag,
        was,
        V2_MAX_LEAST,
        "a header with the addresses of Unix sockets, and a little more, must fit",
    )?;
    if was > settings.head_limit {
        return Err(PlanError::TooLarge {
            flag,
            was: was.to_string(),
            most: settings.head_limit.to_string(),
            why: "the header waits in a buffer of --head-limit bytes: raise that too",
        });
    }
    Ok(())
}

/// A flag holds for some forward, or is refused.
pub(super) fn check_streams(
    settings: &FrontSettings,
    forwards: &[crate::config::Forward],
) -> Result<(), PlanError> {
    let is = |kind: fn(&Target) -> bool| forwards.iter().any(|forward| kind(&forward.target));
    let http = is(|target| matches!(target, Target::Http(_)));
    let tcp = is(|target| matches!(target, Target::Tcp(_)));
    let udp = is(|target| matches!(target, Target::Udp(_)));
    let over_internet = |forward: &crate::config::Forward| {
        matches!(forward.target, Target::Tcp(_)) && forward.address.path().is_none()
    };
    let tcp_over_internet = forwards.iter().any(over_internet);
    if settings.proxy_protocol == ProxySetting::Require && (tcp || udp) {
        return Err(PlanError::Together {
            flag: "--proxy-protocol require",
            other: if tcp {
                "a tcp:// forward"
            } else {
                "a udp:// forward"
            },
            why: "only http:// forwards read PROXY headers: an application would get the header as data. Run another front end for it",
        });
    }
    let other = match (tcp, udp) {
        _ if http => "no udp:// forward",
        (true, true) => "no http:// forward",
        (true, false) if !tcp_over_internet => "tcp://unix: forwards only",
        (true, false) => "tcp:// forwards only",
        (false, true) => "udp:// forwards only",
        (false, false) => return Ok(()),
    };
    let no_use = [
        (
            http,
            &OF_REQUESTS[..],
            "it is of requests: leave it out, or run another front end for tcp:// and udp://",
        ),
        (
            http || tcp,
            &OF_CONNECTIONS,
            "datagrams have no connections: leave it out",
        ),
        (
            http || tcp_over_internet,
            &OF_INTERNET,
            "a Unix socket has no addresses, and its kernel keeps no clocks of it: leave it out",
        ),
        (
            http || udp,
            &OF_TIMES,
            "a connection may last as long as it is used (--idle-timeout): leave it out",
        ),
        (udp, &OF_DATAGRAMS, "it is of datagrams: leave it out"),
    ];
    for (_, flags, why) in no_use.into_iter().filter(|(is_of_use, ..)| !is_of_use) {
        let given = |flag: &&&str| settings.given.iter().any(|given| *given == flag[2..]);
        if let Some(flag) = flags.iter().find(given) {
            return Err(PlanError::Together { flag, other, why });
        }
    }
    Ok(())
}

/// Flags that hold for `http://` forwards only.
pub(super) const OF_REQUESTS: [&str; 16] = [
    "--proxy-protocol",
    "--proxy-header-limit",
    "--forwarded",
    "--trust",
    "--loops",
    "--requests-per-connection",
    "--partial-heads",
    "--head-limit",
    "--body-limit",
    "--header-timeout",
    "--body-timeout",
    "--body-rate",
    "--write-rate",
    "--access-log",
    "--access-log-file",
    "--access-log-queue",
];

/// Flags that hold for `http://` and `tcp://` forwards.
pub(super) const OF_CONNECTIONS: [&str; 5] = [
    "--connections",
    "--connections-per-address",
    "--backlog",
    "--write-timeout",
    "--idle-timeout",
];

/// Of these, those that do not hold for `tcp://unix:` forwards.
pub(crate) const OF_INTERNET: [&str; 3] = [
    "--connections-per-address",
    "--write-timeout",
    "--idle-timeout",
];

/// Flags that hold for `http://` and `udp://` forwards.
pub(super) const OF_TIMES: [&str; 1] = ["--deadline"];

/// Flags that hold for `udp://` forwards only.
pub(super) const OF_DATAGRAMS: [&str; 1] = ["--datagram-buffer"];

/// Names of an address that is not there.
pub(super) fn check_admin_host(settings: &FrontSettings) -> Result<(), PlanError> {
    if settings.admin.is_none() && !settings.admin_host.is_empty() {
        return Err(PlanError::Alone {
            flag: "--admin-host",
            other: "--admin",
            todo: "say where metrics are asked for, or leave the name out",
        });
    }
    Ok(())
}

/// Two listeners at one address would share its connections.
pub(super) fn check_listen(listen: &[ListenAddress]) -> Result<(), PlanError> {
    let twice =
        |(n, one): &(usize, &ListenAddress)| !the_kernels_choice(one) && listen[..*n].contains(one);
    match listen.iter().enumerate().find(twice) {
        Some((_, one)) => Err(PlanError::Twice {
            flag: "--listen",
            value: one.to_string(),
        }),
        None => Ok(()),
    }
}

/// `--ipv6-only` is of addresses of IPv6.
pub(super) fn check_ipv6<'a>(
    settings: &'a FrontSettings,
    listen: impl Iterator<Item = &'a ListenAddress>,
) -> Result<(), PlanError> {
    let is_ipv6 =
        |one: &ListenAddress| matches!(one, ListenAddress::Inet(address) if address.is_ipv6());
    if settings.ipv6_only && !listen.chain(&settings.admin).any(is_ipv6) {
        return Err(PlanError::Alone {
            flag: "--ipv6-only",
            other: "an address of IPv6",
            todo: "listen on one, as [::]:8080, or leave the flag out",
        });
    }
    Ok(())
}

/// Port 0.
pub(super) fn the_kernels_choice(address: &ListenAddress) -> bool {
    matches!(address, ListenAddress::Inet(address) if address.port() == 0)
}

/// The address of `--admin` must be one that the public is not told.
pub(super) fn check_admin<'a>(
    settings: &FrontSettings,
    mut public: impl Iterator<Item = &'a ListenAddress>,
) -> Result<(), PlanError> {
    match &settings.admin {
        Some(admin) if !the_kernels_choice(admin) && public.any(|one| one == admin) => {
            Err(PlanError::Together {
                flag: "--admin",
                other: "the same address for requests",
                why: "the two would share its connections: give it a port or a path of its own",
            })
        }
        _ => Ok(()),
    }
}

/// Behind a door, the limit of heads is another process's.
pub(super) fn check_request_size(settings: &Settings) -> Result<(), PlanError> {
    small(
        "--request-size",
        settings.channel.request_size,
        settings
            .front
            .head_limit
            .get()
            .saturating_mul(2)
            .saturating_add(PAGE),
        "a whole head, its decoded path and the index of its fields must fit (twice --head-limit and a page)",
    )
}

pub(super) fn check_application(settings: &Settings) -> Result<(), PlanError> {
    let application = &settings.application;
    if application.lost_limit.is_some() && application.parked_limit.is_some() {
        return Err(PlanError::Together {
            flag: "--lost-limit (TRANSOM_LOST_LIMIT)",
            other: "--parked-limit (TRANSOM_PARKED_LIMIT)",
            why: "the second is the former name of the first: leave it out",
        });
    }
    if application.lost_limit() > application.buckets.max(1) {
        return Err(PlanError::TooLarge {
            flag: application.lost_limit_flag(),
            was: application.lost_limit().to_string(),
            most: application.buckets.to_string(),
            why: "more buckets than there are (--buckets) cannot be lost, so the process would never be replaced",
        });
    }
    if settings.slots() > SLOTS_MAX {
        return Err(PlanError::TooLarge {
            flag: "--slots",
            was: settings.slots().to_string(),
            most: SLOTS_MAX.to_string(),
            why: "a channel's bitmaps have 64 words of 64",
        });
    }
    let heap = application.shared_heap;
    if !heap.get().is_multiple_of(PAGE) || heap.get() < 64 << 10 {
        return Err(PlanError::TooSmall {
            flag: "--shared-heap",
            was: heap.to_string(),
            least: "64KiB, and a multiple of 4KiB".to_owned(),
            why: "the heap's own bookkeeping takes some of it",
        });
    }
    let overdraft = application.overdraft;
    if overdraft.get() > 0 {
        check_pool("--overdraft", overdraft)?;
        check_share(
            "--overdraft-per-request",
            application.overdraft_per_request(),
            overdraft,
            "a request cannot have more than there is (--overdraft)",
        )?;
    } else if application.overdraft_per_request.is_some() {
        return Err(PlanError::Alone {
            flag: "--overdraft-per-request",
            other: "--overdraft",
            todo: "there is no overdraft to have a part of; give it some, or leave the flag out",
        });
    }
    if cfg!(feature = "c-heap") {
        check_pool("--c-heap", application.c_heap)?;
        check_share(
            "--c-heap-per-request",
            application.c_heap_per_request(),
            application.c_heap,
            "a request cannot have more than there is (--c-heap)",
        )?;
    }
    let arena = BucketGeometry::new(application.bucket_size, application.stack_size)?.arena_size();
    if let Some(keep) = application.keep.filter(|keep| keep.get() > arena) {
        return Err(PlanError::TooLarge {
            flag: "--keep",
            was: keep.to_string(),
            most: Bytes(arena).to_string(),
            why: "a bucket cannot keep more than its arena has (--bucket-size, --stack-size)",
        });
    }
    Ok(())
}

/// A pool that requests share has a least size.
pub(super) fn check_pool(flag: &'static str, size: Bytes) -> Result<(), PlanError> {
    if !size.get().is_multiple_of(PAGE) || size.get() < POOL_MIN {
        return Err(PlanError::TooSmall {
            flag,
            was: size.to_string(),
            least: format!("{}, and a multiple of 4KiB", Bytes(POOL_MIN)),
            why: "its own bookkeeping takes some of it, and what is left must be worth a request's share",
        });
    }
    Ok(())
}

/// What one request may have of a pool.
pub(super) fn check_share(
    flag: &'static str,
    share: usize,
    pool: Bytes,
    why: &'static str,
) -> Result<(), PlanError> {
    if share == 0 {
        return Err(PlanError::TooSmall {
            flag,
            was: share.to_string(),
            least: "1B".to_owned(),
            why: "no request could have any of it",
        });
    }
    if share > pool.get() {
        return Err(PlanError::TooLarge {
            flag,
            was: Bytes(share).to_string(),
            most: pool.to_string(),
            why,
        });
    }
    Ok(())
}

pub(super) fn check_door(settings: &Settings) -> Result<(), PlanError> {
    let door = &settings.door;
    if settings.front.handover_timeout.is_zero() {
        return Err(nothing_takes_no_time("--handover-timeout"));
    }
    if settings.application.strict_heap {
        return Err(PlanError::Together {
            flag: "--strict-heap",
            other: "--door",
            why: "a door allocates on the process heap when clients open it; test the application with a front end of its own",
        });
    }
    if door.channels_per_user() > door.channels() {
        return Err(PlanError::TooLarge {
            flag: "--door-channels-per-user",
            was: door.channels_per_user().to_string(),
            most: door.channels().to_string(),
            why: "one user cannot have more channels than there are (--door-channels)",
        });
    }
    Ok(())
}
