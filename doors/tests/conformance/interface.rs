//! Both back ends have the same interface: what is written here once is compiled against each, so that a
//! program that uses doors compiles unchanged on Linux and on illumos, and one call is made through each.
//!
//! A function that differs in its name or in its signature is a compiler error in this file. What differs on
//! purpose is listed in `doors/illumos/src/lib.rs`. Types that are only values are shared and cannot differ;
//! `values` checks that each back end's crate re-exports all of them.

/// The interface of one back end, whose crate is `$at`.
macro_rules! conforms {
    ($name:ident, $at:ident) => {
        mod $name {
            /// Everything that the crate offers and that is the same in each back end.
            #[allow(dead_code, reason = "that it compiles is the test")]
            mod values {
                use $at::{
                    AttachError, AttachOptions, Attributes, Bell, BuildError, CHANNELS_MAX,
                    CallCounts, CallError, CallOptions, ChannelError, ChannelGeometry,
                    ChannelMemory, Completion, Credentials, Descriptors, DoorEvent, DoorInfo,
                    GeometryError, Gone, Kind, Lie, Limit, Limits, OpenError, OpenOptions, PAGE,
                    Patience, PeerState, Refusal, RemoteDoor, Reply, Resumed, SLOTS_MAX, SlotId,
                    Status, THREADS_MAX, ThreadCounts, Unreferenced, Withdraw, now_ns,
                };

                fn is_one<T>() {}

                fn all() {
                    is_one::<(
                        AttachError,
                        BuildError,
                        CallError,
                        ChannelError,
                        GeometryError,
                    )>();
                    is_one::<(OpenError, Limit, Refusal, Lie, Gone)>();
                    is_one::<(AttachOptions, CallOptions<'_>, OpenOptions)>();
                    is_one::<(
                        Attributes,
                        Credentials,
                        DoorEvent,
                        DoorInfo,
                        CallCounts,
                        ThreadCounts,
                        Limits,
                        RemoteDoor,
                    )>();
                    is_one::<(Bell, ChannelGeometry, ChannelMemory, Descriptors, Reply)>();
                    is_one::<(
                        Completion,
                        Kind,
                        Patience,
                        PeerState,
                        Resumed,
                        SlotId,
                        Status,
                    )>();
                    is_one::<(Unreferenced, Withdraw)>();
                    let _: (u32, u32, u32, usize) = (CHANNELS_MAX, SLOTS_MAX, THREADS_MAX, PAGE);
                    let _: fn() -> u64 = now_ns;
                }
            }

            use $at::{
                AsyncClient, Attachment, Call, Client, Door, DoorBuilder, DoorHandler,
                EmergencyReply,
            };

            #[allow(dead_code, reason = "that it compiles is the test")]
            mod signatures {
                use std::io;
                use std::os::fd::{BorrowedFd, RawFd};
                use std::path::Path;
                use std::ptr::NonNull;

                use super::*;
                use $at::{
                    AttachError, AttachOptions, Bell, BuildError, CallError, CallOptions,
                    ChannelError, ChannelGeometry, ChannelMemory, Completion, Credentials,
                    Descriptors, DoorEvent, DoorInfo, Gone, OpenError, OpenOptions, Patience,
                    PeerState, RemoteDoor, Reply, Resumed, SlotId, Status, Unreferenced, Withdraw,
                };

                fn door() {
                    let _: fn() -> DoorBuilder = Door::builder;
                    let _: fn(
                        &Door,
                        ChannelGeometry,
                        ChannelMemory,
                    ) -> Result<AsyncClient, ChannelError> = Door::channel;
                    let _: fn(&Door) -> io::Result<()> = Door::start;
                    let _: fn(&Door) = Door::revoke;
                    let _: fn(&Door) -> io::Result<u32> = Door::bind;
                    let _: fn(&Door, &Path, &AttachOptions) -> Result<Attachment, AttachError> =
                        Door::attach;
                    let _: fn(&Door) -> DoorInfo = Door::info;
                    let _: fn(&Door) -> Door = Door::clone;
                    is_shared::<Door>();
                }

                /// The one difference: illumos wants the handler for ever.
                fn serve<H: DoorHandler>(door: &Door, thread: u32, handler: &'static H) {
                    let () = door.serve(thread, handler);
                }

                fn builder() {
                    type Set<T> = fn(DoorBuilder, T) -> DoorBuilder;
                    let _: Set<u32> = DoorBuilder::threads_max;
                    let _: Set<u32> = DoorBuilder::threads_min;
                    let _: fn(DoorBuilder) -> DoorBuilder = DoorBuilder::no_depletion_callback;
                    let _: Set<fn(u32) -> io::Result<()>> = DoorBuilder::server_create;
                    let _: Set<fn(u32, &mut Call<'_>)> = <DoorBuilder>::handler;
                    let _: Set<ChannelGeometry> = DoorBuilder::channel_geometry;
                    let _: Set<u32> = DoorBuilder::channels_max;
                    let _: Set<u32> = DoorBuilder::channels_per_user;
                    let _: Set<usize> = DoorBuilder::data_min;
                    let _: Set<usize> = DoorBuilder::data_max;
                    let _: Set<u32> = DoorBuilder::descriptors_max;
                    let _: fn(DoorBuilder) -> DoorBuilder = DoorBuilder::refuse_descriptors;
                    let _: fn(DoorBuilder, Unreferenced, fn()) -> DoorBuilder =
                        DoorBuilder::unreferenced;
                    let _: Set<fn(&Credentials) -> bool> = DoorBuilder::accept;
                    let _: Set<fn(&DoorEvent)> = DoorBuilder::on_event;
                    let _: Set<ChannelMemory> = DoorBuilder::snapshots;
                    let _: fn(DoorBuilder) -> Result<Door, BuildError> = <DoorBuilder>::build;
                }

                fn attachment() {
                    let _: fn(&Attachment) -> &Path = Attachment::path;
                    let _: fn(Attachment) = Attachment::detach;
                }

                fn call<'c>(_: &Call<'c>) {
                    let _: fn(&Call<'c>) -> Credentials = Call::cred;
                    let _: fn(&mut Call<'c>) -> Descriptors = Call::take_descriptors;
                    let _: for<'a> fn(&'a Call<'c>) -> &'a [u8] = Call::request;
                    let _: fn(&Call<'c>) -> NonNull<[u8]> = Call::request_slot;
                    let _: fn(&mut Call<'c>, usize, usize) = Call::fetch_request;
                    let _: for<'a> fn(&'a mut Call<'c>) -> &'a mut [u8] = Call::reply_mut;
                    let _: fn(&Call<'c>) -> u64 = Call::deadline;
                    let _: fn(&Call<'c>) -> u64 = Call::claimed_at_ns;
                    let _: fn(&Call<'c>) -> u32 = Call::channel;
                    let _: fn(&Call<'c>) -> u32 = Call::slot;
                    let _: fn(&Call<'c>) -> u32 = Call::generation;
                    let _: fn(&Call<'c>) -> bool = Call::is_completed;
                    let _: fn(&Call<'c>) -> bool = Call::is_abandoned;
                    let _: fn(&mut Call<'c>, usize, Status) = Call::complete;
                    let _: fn(&mut Call<'c>, usize, Status, &[BorrowedFd<'_>]) -> io::Result<()> =
                        Call::complete_with;
                    let _: fn(&mut Call<'c>, usize) = Call::reply_too_big;
                    let _: fn(&mut Call<'c>, usize, u32) -> Result<Resumed, Gone> = Call::interim;
                    let _: fn(&Call<'c>) -> EmergencyReply = Call::emergency;
                    let _: unsafe fn(&EmergencyReply, Status) -> bool = EmergencyReply::complete;
                    let _: fn(&EmergencyReply) -> EmergencyReply = EmergencyReply::clone;
                }

                fn client() {
                    let _: fn(&Path) -> Result<Client, OpenError> = Client::open;
                    let _: fn(&Path, &OpenOptions) -> Result<Client, OpenError> = Client::open_with;
                    let _: fn(&Client) -> RemoteDoor = Client::door;
                    let _: fn(&mut Client, &[u8], &mut [u8]) -> Result<usize, CallError> =
                        Client::call;
                    let _: fn(
                        &mut Client,
                        &[u8],
                        &mut [u8],
                        CallOptions<'_>,
                    ) -> Result<Reply, CallError> = Client::call_with;
                    is_sent::<Client>();
                }

                fn async_client() {
                    let _: fn(&Path, &OpenOptions) -> Result<AsyncClient, OpenError> =
                        AsyncClient::open;
                    let _: fn(&AsyncClient) -> Option<RemoteDoor> = AsyncClient::door;
                    let _: fn(&AsyncClient) -> ChannelGeometry = AsyncClient::geometry;
                    let _: fn(&mut AsyncClient) -> Option<SlotId> = AsyncClient::reserve;
                    let _: fn(&AsyncClient) -> usize = AsyncClient::free_slots;
                    let _: fn(&AsyncClient) -> usize = AsyncClient::usable_slots;
                    let _: fn(&AsyncClient) -> u32 = AsyncClient::lost_slots;
                    let _: fn(&AsyncClient) -> usize = AsyncClient::outstanding;
                    let _: fn(&mut AsyncClient, SlotId) -> &mut [u8] = AsyncClient::request_mut;
                    let _: fn(&mut AsyncClient, SlotId, usize) -> &mut [u8] =
                        AsyncClient::request_tail_mut;
                    let _: fn(&AsyncClient, SlotId) -> &[u8] = AsyncClient::request;
                    let _: fn(&mut AsyncClient, SlotId, usize, u64) = AsyncClient::submit;
                    let _: fn(
                        &mut AsyncClient,
                        SlotId,
                        usize,
                        u64,
                        &[BorrowedFd<'_>],
                    ) -> Result<(), CallError> = AsyncClient::submit_with;
                    let _: fn(&AsyncClient) -> bool = AsyncClient::has_staged;
                    let _: fn(&mut AsyncClient) -> Result<(), CallError> = AsyncClient::flush;
                    let _: fn(&mut AsyncClient, SlotId) -> Withdraw = AsyncClient::withdraw;
                    let _: fn(&mut AsyncClient, SlotId) = AsyncClient::abandon;
                    let _: fn(&mut AsyncClient) -> Option<(SlotId, Completion)> =
                        AsyncClient::next_completion;
                    let _: fn(&mut AsyncClient, fn(SlotId, Completion)) = AsyncClient::drain;
                    let _: fn(&mut AsyncClient) -> Option<(SlotId, CallError)> =
                        AsyncClient::next_lost;
                    let _: fn(&AsyncClient, SlotId) -> &[u8] = AsyncClient::reply;
                    let _: fn(&AsyncClient, SlotId, usize, &mut [u8]) -> usize =
                        AsyncClient::copy_reply;
                    let _: fn(&AsyncClient, SlotId) -> NonNull<[u8]> = AsyncClient::reply_bytes;
                    let _: fn(&mut AsyncClient, SlotId) -> Descriptors =
                        AsyncClient::take_descriptors;
                    let _: fn(&mut AsyncClient, SlotId, usize) = AsyncClient::resume;
                    let _: fn(&mut AsyncClient, SlotId) = AsyncClient::release;
                    let _: fn(&mut AsyncClient, Patience) -> bool = AsyncClient::prepare_wait;
                    let _: fn(&mut AsyncClient) = AsyncClient::woke;
                    let _: fn(&AsyncClient) -> bool = AsyncClient::backlog;
                    let _: fn(&mut AsyncClient) -> bool = AsyncClient::nudge;
                    let _: fn(&mut AsyncClient, bool) = AsyncClient::note_ring;
                    let _: fn(&AsyncClient) -> RawFd = AsyncClient::as_raw_fd;
                    let _: fn(&AsyncClient) -> Option<RawFd> = AsyncClient::peer_fd;
                    let _: fn(&mut AsyncClient) -> PeerState = AsyncClient::check_peer;
                    let _: fn(&AsyncClient) -> PeerState = AsyncClient::peer_state;
                    let _: fn(&AsyncClient) -> Option<Bell> = AsyncClient::bell;
                    is_sent::<AsyncClient>();
                }

                fn is_sent<T: Send + std::fmt::Debug>() {}

                fn is_shared<T: Send + Sync + std::fmt::Debug>() {}
            }

            /// The same program for each back end.
            #[cfg(test)]
            mod program {
                use std::fs::File;
                use std::io::Write;
                use std::os::fd::AsFd;
                use std::time::Duration;

                use super::*;
                use $at::{
                    AttachError, AttachOptions, BuildError, CallError, CallOptions,
                    ChannelGeometry, Limit, Limits, OpenError, Status, Unreferenced,
                };

                const GEOMETRY: ChannelGeometry = ChannelGeometry {
                    slots: 2,
                    spares: 0,
                    request_size: 4096,
                    reply_size: 4096,
                };

                /// Says what it was sent, into the descriptor that came along too.
                struct Echo;

                impl DoorHandler for Echo {
                    fn call(&self, _: u32, call: &mut Call<'_>) {
                        let request = call.request().to_vec();
                        assert_eq!(call.cred().pid, std::process::id() as i32);
                        for descriptor in call.take_descriptors() {
                            File::from(descriptor).write_all(&request).expect("a pipe");
                        }
                        if request.is_empty() {
                            return call.reply_too_big(5000);
                        }
                        call.reply_mut()[..request.len()].copy_from_slice(&request);
                        call.complete(request.len(), Status(77));
                    }
                }

                #[test]
                fn a_program_runs_over_either_back_end() {
                    let name = concat!("transom-conformance-", stringify!($name));
                    let path = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
                    let door = Door::builder()
                        .threads_min(2)
                        .threads_max(2)
                        .handler(Echo)
                        .channel_geometry(GEOMETRY)
                        .channels_max(2)
                        .data_max(100)
                        .descriptors_max(1)
                        .unreferenced(Unreferenced::Multi, || {})
                        .on_event(|_| {})
                        .build()
                        .expect("a door");
                    let options = AttachOptions::default();
                    assert!(matches!(
                        door.attach(&path, &options),
                        Err(AttachError::NotStarted)
                    ));
                    door.start().expect("a thread");
                    let attachment = door.attach(&path, &options).expect("a free path");
                    assert_eq!(attachment.path(), path);

                    let mut client = Client::open(&path).expect("a serving door");
                    let known = client.door();
                    assert_eq!(known.pid, std::process::id());
                    assert_eq!(known.server, $at::Credentials::ours());
                    assert_eq!((known.id, known.attributes), {
                        let info = door.info();
                        (info.id, info.attributes)
                    });
                    let Limits {
                        data_min,
                        data_max,
                        descriptors_max,
                    } = known.limits;
                    assert_eq!((data_min, data_max, descriptors_max), (0, 100, 1));

                    let mut reply = [0; 4096];
                    assert_eq!(client.call(b"hello", &mut reply), Ok(5));
                    assert_eq!(&reply[..5], b"hello");
                    assert_eq!(
                        client.call(&[0; 101], &mut reply),
                        Err(CallError::Refused(Limit::DataMax))
                    );
                    assert_eq!(
                        client.call(b"", &mut reply),
                        Err(CallError::ReplyTooBig { needed: 5000 })
                    );
                    assert_eq!(
                        client.call(b"hello", &mut reply[..4]),
                        Err(CallError::ReplyTooBig { needed: 5 })
                    );
                    let (reader, writer) = std::io::pipe().expect("a pipe");
                    let options = CallOptions {
                        timeout: Some(Duration::from_secs(60)),
                        descriptors: &[writer.as_fd()],
                    };
                    let answer = client.call_with(b"hello", &mut reply, options);
                    let answer = answer.expect("a reply");
                    assert_eq!((answer.len, answer.status), (5, Status(77)));
                    assert!(answer.descriptors.is_empty());
                    drop(writer);
                    // An end only if no writing end is left open.
                    let text = std::io::read_to_string(reader).expect("a pipe");
                    assert_eq!(text, "hello");

                    door.revoke();
                    assert!(client.door().attributes.revoked && door.info().revoked);
                    assert_eq!(
                        client.call(b"late", &mut reply),
                        Err(CallError::NotAccepted)
                    );
                    attachment.detach();
                    assert!(matches!(Client::open(&path), Err(OpenError::Away { .. })));
                    // What either back end leaves beside the path.
                    for left in [path.with_extension("lock"), path] {
                        let _ = std::fs::remove_file(left);
                    }
                }

                #[test]
                fn a_door_that_cannot_be_is_refused_in_the_same_words() {
                    let refused = |builder: DoorBuilder| {
                        let built = builder.handler(Echo).build();
                        built.expect_err("no such door").to_string()
                    };
                    let between = || Door::builder().channel_geometry(GEOMETRY);
                    let said = [
                        refused(Door::builder().threads_max(0)),
                        refused(Door::builder().threads_min(3).threads_max(2)),
                        refused(between().data_min(5000)),
                        refused(between().descriptors_max(17)),
                        refused(between().channels_max(0)),
                    ];
                    let meant = [
                        BuildError::ThreadsMax { given: 0 },
                        BuildError::ThreadsMin { min: 3, max: 2 },
                        BuildError::DataMin {
                            data_min: 5000,
                            data_max: usize::MAX,
                        },
                        BuildError::Descriptors { given: 17 },
                        BuildError::Channels { given: 0 },
                    ];
                    assert_eq!(said, meant.map(|error| error.to_string()));
                    assert!(matches!(
                        Door::builder().build(),
                        Err(BuildError::ServerCreate)
                    ));
                }
            }
        }
    };
}

pub(crate) use conforms;
