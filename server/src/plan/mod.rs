//! What the settings mean together: the memory equation, and the geometry that follows from it.
//!
//! Each part of a server says what it needs. Here it is said which parts a server has, and their needs are
//! added up. The mapping is laid out from the sum, and the line at start prints it.

mod checks;
mod error;

use crate::config::{Config, Target};
use crate::serve::parts::{Needs, access, admin, application, door, loops, process, streams};
use crate::settings::{FrontSettings, Settings};
use checks::{
    check_admin, check_admin_host, check_application, check_channel_limit, check_door, check_front,
    check_ipv6, check_listen, check_request_size, check_streams,
};
use transom_arena::{Bound, BucketGeometry, Term};
use transom_doors::ChannelGeometry;
use transom_front::forward;

pub(crate) use checks::OF_INTERNET;
pub use error::PlanError;

/// The settings of a server, checked against each other and against the machine, and the sum they make.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The memory equation.
    pub bound: Bound,
    /// The division of a bucket.
    pub bucket: BucketGeometry,
    /// The slots of each loop's channel, or of each client's.
    pub channel: ChannelGeometry,
    /// Loops: none behind a door.
    pub loops: u32,
    /// Connections whose addresses are counted together, if these have a limit.
    pub(crate) connections: usize,
    /// Descriptors, but for those that handlers open and that calls bring.
    pub(crate) descriptors: u64,
}

impl Plan {
    /// Adds everything up, for an application with a front end of its own or, with `--door`, without.
    ///
    /// # Errors
    /// [`PlanError`], naming the flag, what it was and what it must be.
    pub fn new(settings: &Settings) -> Result<Self, PlanError> {
        let plan = Self::for_another_machine(settings)?;
        plan.bound.check_here()?;
        Ok(plan)
    }

    /// As [`Plan::new`], but the sum may be more than this machine has. What is not set is still taken from
    /// this machine: `--loops`, and what a signal's frame and a thread's stack need at least.
    ///
    /// # Errors
    /// [`PlanError`], naming the flag, what it was and what it must be.
    pub fn for_another_machine(settings: &Settings) -> Result<Self, PlanError> {
        let front = &settings.front;
        check_application(settings)?;
        check_admin_host(front)?;
        let bucket = BucketGeometry::new(
            settings.application.bucket_size,
            settings.application.stack_size,
        )?;
        let channel = ChannelGeometry {
            slots: settings.slots(),
            spares: settings.spare_slots(),
            request_size: settings.channel.request_size.get(),
            reply_size: settings.channel.reply_size.get(),
        };
        channel.check()?;
        let application = application::needs(settings, &bucket)?;
        let (parts, loops, connections) = if settings.door.door.is_some() {
            check_door(settings)?;
            let parts = vec![
                application,
                door::needs(settings, &channel),
                process::needs(front),
                process::closers(),
                process::threads("a bucket each, those that close, and three", "--buckets"),
                admin::needs(front),
            ];
            (parts, 0, 0)
        } else {
            check_front(front)?;
            check_admin(front, settings.listen.iter())?;
            check_listen(&settings.listen)?;
            check_ipv6(front, settings.listen.iter())?;
            check_request_size(settings)?;
            let connections = front.connections_in_all();
            let parts = vec![
                application,
                loops::channels(front, &channel),
                loops::needs(front, settings.listen.len()),
                process::needs(front),
                loops::connections(front),
                process::threads(
                    "a bucket or a loop each, and two or, with an access log, three",
                    "--buckets, --loops",
                ),
                loops::addresses(front, connections),
                access::needs(front),
                admin::needs(front),
            ];
            (parts, front.loops(), connections)
        };
        let (bound, descriptors) = sum(parts)?;
        Ok(Plan {
            bound,
            bucket,
            channel,
            loops,
            connections,
            descriptors,
        })
    }

    /// Adds everything up, for the forwards and doors of a configuration.
    ///
    /// # Errors
    /// [`PlanError`], naming the flag, what it was and what it must be.
    pub(crate) fn of_forwards(
        settings: &FrontSettings,
        config: &Config,
    ) -> Result<Self, PlanError> {
        check_front(settings)?;
        check_admin_host(settings)?;
        let listen = || config.forwards.iter().map(|forward| &forward.address);
        check_admin(settings, listen())?;
        check_ipv6(settings, listen())?;
        check_channel_limit(settings)?;
        check_streams(settings, &config.forwards)?;
        let of = |kind: fn(&Target) -> bool| {
            let forwards = config.forwards.iter();
            forwards.filter(|forward| kind(&forward.target)).count()
        };
        let tcp = of(|target| matches!(target, Target::Tcp(_)));
        let udp = of(|target| matches!(target, Target::Udp(_)));
        let http = config.http_only();
        let (mut parts, mut loops) = (Vec::new(), 0);
        let held = forward::connections_held(settings.connections.get() as usize);
        let mut connections = tcp * held;
        // Loops serve HTTP, and where there is none to serve there are none.
        if !http.forwards.is_empty() {
            loops = settings.loops();
            connections += settings.connections_in_all();
            parts.extend([
                loops::needs(settings, http.forwards.len()),
                loops::doors(settings, http.doors().len()),
                loops::connections(settings),
                access::needs(settings),
            ]);
        }
        let (bucket, its_bucket) = admin::bucket(settings)?;
        parts.extend([
            loops::addresses(settings, connections),
            streams::needs(settings, tcp, udp),
            process::needs(settings),
            process::closers(),
            process::threads(
                "a loop, a door or a tcp or udp forward each, those that close, and two",
                "--loops, --forward",
            ),
            its_bucket,
            admin::needs(settings),
        ]);
        let (bound, descriptors) = sum(parts)?;
        bound.check_here()?;
        Ok(Plan {
            bound,
            bucket,
            channel: admin::CHANNEL,
            loops,
            connections,
            descriptors,
        })
    }
}

/// What the parts of a server need together: the memory equation, and how many descriptors.
fn sum(parts: Vec<Needs>) -> Result<(Bound, u64), PlanError> {
    let threads = parts.iter().map(|part| part.threads).sum();
    let descriptors = parts.iter().map(|part| part.descriptors).sum();
    let count = |term: Term| match term.name {
        process::THREADS => Term {
            count: threads,
            ..term
        },
        _ => term,
    };
    let terms = parts.into_iter().flat_map(|part| part.terms);
    Ok((Bound::new(terms.map(count).collect())?, descriptors))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::SLOTS_MAX;
    use clap::Parser;
    use transom_arena::Bytes;
    use transom_front::ACCESS_ENTRY_SIZE;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        settings: Settings,
    }

    fn settings(flags: &str) -> Settings {
        let words = std::iter::once("test").chain(flags.split_whitespace());
        Command::try_parse_from(words).expect(flags).settings
    }

    /// The names of the terms, the bytes of one of them, and the sum.
    fn terms(bound: &Bound, name: &str) -> (Vec<&'static str>, usize) {
        let of_name = |term: &&Term| term.name == name;
        let bytes = bound.terms().iter().find(of_name).and_then(Term::bytes);
        let names = bound.terms().iter().map(|term| term.name).collect();
        (names, bytes.unwrap_or(0))
    }

    #[test]
    fn behind_a_door_there_is_no_front_end() {
        let flags = "--door /d --buckets 4 --slots 8 --door-channels 3 --request-size 8KiB --reply-size 4KiB";
        let plan = Plan::new(&settings(flags)).expect("it adds up");
        assert_eq!(plan.loops, 0);
        let (names, snapshots) = terms(&plan.bound, "snapshots");
        assert_eq!(
            names,
            [
                "buckets",
                "shared heap",
                "overdraft",
                "C heap",
                "snapshots",
                "channels",
                "log",
                "constant",
                "closer stacks",
                "threads"
            ]
        );
        assert_eq!(snapshots, 4 * (8 << 10));
        let (_, channels) = terms(&plan.bound, "channels");
        let of_one = plan.channel.memory_len() - plan.channel.requests_len();
        assert_eq!(channels, 3 * of_one);
    }

    #[test]
    fn a_channel_has_a_spare_slot_for_each_request_that_may_be_lost() {
        for (flags, spares) in [("--buckets 6", 3), ("--buckets 1 --door /d", 1)] {
            let flags = format!("{flags} --slots 5 --request-size 68KiB --reply-size 4KiB");
            let plan = Plan::new(&settings(&flags)).expect("it adds up");
            assert_eq!((plan.channel.slots, plan.channel.spares), (5, spares));
            let (_, bytes) = terms(&plan.bound, "channels");
            let of_one = plan.channel.replies_len() + plan.channel.control_len();
            let least = plan.channel.slots_in_all() as usize * (4 << 10);
            assert!(bytes >= of_one && of_one >= least, "{bytes} {of_one}");
        }
        // More cannot be told from each other in a channel's words.
        let many = settings("--buckets 16384 --bucket-size 256KiB --stack-size 64KiB --door /d");
        assert_eq!(many.spare_slots(), SLOTS_MAX);
    }

    fn config(flags: &[&str]) -> Config {
        let flags: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
        Config::read(None, &flags, &crate::settings::file::keys()).expect("they are right")
    }

    #[test]
    fn a_front_end_alone_has_channels_of_the_size_it_allows() {
        let front =
            settings("--loops 2 --channel-limit 1MiB --receive-buffer 8KiB --send-buffer 8KiB")
                .front;
        let config = config(&[
            "http://127.0.0.1:80=/a",
            "http://127.0.0.1:80/b=/b",
            "tcp://127.0.0.1:81=/a",
            "udp://127.0.0.1:80=/c",
        ]);
        let plan = Plan::of_forwards(&front, &config).expect("it adds up");
        let (names, channels) = terms(&plan.bound, "channels");
        assert!(!names.contains(&"buckets") && !names.contains(&"shared heap"));
        assert_eq!(channels, 2 * 2 * 2 * (1 << 20)); // loops × doors of http × instances
        let (_, channels) = terms(&plan.bound, "forward channels");
        assert_eq!(channels, 2 * 2 * (1 << 20)); // forwards × instances
        let (_, datagrams) = terms(&plan.bound, "datagram buffers");
        assert_eq!(datagrams, 2 * Bytes::kib(1024 + 8).get()); // twice both buffers
        let (_, openers) = terms(&plan.bound, "opener stacks");
        assert_eq!(openers, 2 * (128 << 10)); // doors of http
        let (_, held) = terms(&plan.bound, "forwarded connections");
        assert_eq!(held, 2 * 256 * 2 * Bytes::kib(8 + 8).get()); // instances × slots × twice both
        let few = settings("--connections 7 --receive-buffer 8KiB --send-buffer 8KiB").front;
        let few = Plan::of_forwards(&few, &config).expect("it adds up");
        let (_, held) = terms(&few.bound, "forwarded connections");
        assert_eq!(held, 7 * 2 * Bytes::kib(8 + 8).get());
    }

    #[test]
    fn an_access_log_has_its_terms_where_there_are_loops() {
        let names = ["access log", "access entries"];
        for (flags, present) in [("", false), ("--access-log json", true)] {
            let front = settings(&format!("--loops 2 --connections 7 {flags}")).front;
            let plan = Plan::new(&settings(flags)).expect("it adds up");
            let with_http = Plan::of_forwards(&front, &config(&["http://127.0.0.1:80=/a"]));
            let with_http = with_http.expect("it adds up");
            for name in names {
                assert_eq!(terms(&plan.bound, name).0.contains(&name), present);
                assert_eq!(terms(&with_http.bound, name).0.contains(&name), present);
            }
            let (_, entries) = terms(&with_http.bound, "access entries");
            let expected = if present { 14 * ACCESS_ENTRY_SIZE } else { 0 };
            assert_eq!(entries, expected); // of so few connections each of 2 loops has room for all 7
        }
    }

    #[test]
    fn without_http_there_are_no_loops() {
        let front = settings("--loops 2").front;
        let config = config(&["tcp://127.0.0.1:81=/a"]);
        let plan = Plan::of_forwards(&front, &config).expect("it adds up");
        assert_eq!(plan.loops, 0);
        let (names, _) = terms(&plan.bound, "");
        for name in ["connections", "channels", "loop stacks", "socket buffers"] {
            assert!(!names.contains(&name), "{name}");
        }
        let (_, datagrams) = terms(&plan.bound, "datagram buffers");
        assert_eq!(datagrams, 0);
    }

    #[test]
    fn a_limit_of_addresses_has_its_table_in_the_sum() {
        let settings = settings("--loops 2 --connections 1000 --connections-per-address 10");
        let of_application = Plan::new(&settings).expect("it adds up").bound;
        let config = config(&["http://127.0.0.1:80=/a"]);
        let of_front = Plan::of_forwards(&settings.front, &config).expect("it adds up");
        for bound in [of_application, of_front.bound] {
            let (_, bytes) = terms(&bound, "addresses");
            assert_eq!(bytes, 4096 * 8); // four places for each, in a power of two
        }
    }

    #[test]
    fn what_a_door_offers_by_default_a_front_end_takes_by_default() {
        let settings = settings("--door /d");
        let plan = Plan::new(&settings).expect("it adds up");
        assert!(plan.channel.memory_len() <= settings.front.channel_limit.get());
    }

    #[test]
    fn what_cannot_be_is_refused_by_the_name_of_its_flag() {
        let text = "--door /d --door-channels 4 --door-channels-per-user 5";
        let error = Plan::new(&settings(text))
            .expect_err("too many")
            .to_string();
        assert!(
            error.starts_with("--door-channels-per-user is 5"),
            "{error}"
        );
        for (flags, flag) in [
            ("--channel-limit 0", "--channel-limit"),
            ("--channel-limit 5000", "--channel-limit"),
            ("--channel-limit 1TiB", "--channel-limit"),
            ("--idle-timeout 0", "--idle-timeout"),
            ("--access-log-file /a", "--access-log-file"),
        ] {
            let config = config(&["http://127.0.0.1:80=/a"]);
            let error = Plan::of_forwards(&settings(flags).front, &config)
                .expect_err(flags)
                .to_string();
            assert!(error.contains(flag), "{error}");
        }
    }
}
