//! The door protocol, written a second time from its description alone: sockets, memfds and words, and
//! nothing of the crate under test. It says whatever it is told to, true or not.
//!
//! Offsets, kinds and seals are plain numbers here on purpose: a change of the protocol must break these
//! tests.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Bytes of every message.
pub const MESSAGE: usize = 128;
/// Bytes of a page, and the unit of every size.
pub const PAGE: usize = 4096;

/// Kinds of messages.
pub const HELLO: u32 = 1;
/// See the protocol.
pub const WELCOME: u32 = 2;
/// See the protocol.
pub const REFUSED: u32 = 3;
/// See the protocol.
pub const CHANNEL: u32 = 4;
/// See the protocol.
pub const READY: u32 = 5;
/// See the protocol.
pub const NUDGE: u32 = 6;
/// See the protocol.
pub const PARCEL: u32 = 7;

/// The seals of memory that both sides write: it neither shrinks nor grows, and the seals stay.
pub const FIXED: i32 = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
/// The same, and no other process may write it.
pub const ONE_WRITER: i32 = FIXED | libc::F_SEAL_FUTURE_WRITE;

/// Numbers that a seed repeats (xorshift64*).
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// The numbers of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A seed of the clock's, or `TRANSOM_TEST_SEED` if that is set; printed, so that a failure can be
    /// repeated.
    ///
    /// # Panics
    /// If the variable is no number.
    #[must_use]
    pub fn seed() -> u64 {
        let seed = match std::env::var("TRANSOM_TEST_SEED") {
            Ok(text) => text.parse().expect("TRANSOM_TEST_SEED is a number"),
            Err(_) => std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(1, |since| since.as_nanos() as u64 >> 4),
        };
        println!("TRANSOM_TEST_SEED={seed}");
        seed
    }

    /// The next number.
    pub fn next_number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next_number() % limit as u64) as usize
    }
}

/// A hash that tells one request's reply from every other's (FNV-1a).
#[must_use]
pub fn hash(bytes: &[u8]) -> [u8; 8] {
    let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, fold).to_le_bytes()
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

/// A message of version 3: its kind, then these bytes.
#[must_use]
pub fn message(kind: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(MESSAGE);
    bytes.extend_from_slice(b"TRANSOMD");
    bytes.extend_from_slice(&3_u32.to_le_bytes());
    bytes.extend_from_slice(&kind.to_le_bytes());
    bytes.extend_from_slice(body);
    bytes.resize(MESSAGE, 0);
    bytes
}

/// Two numbers behind a kind: a parcel's slot and generation.
#[must_use]
pub fn message_of_two(kind: u32, first: u32, second: u32) -> Vec<u8> {
    let mut body = first.to_le_bytes().to_vec();
    body.extend_from_slice(&second.to_le_bytes());
    message(kind, &body)
}

/// The first message of a client that has no room for spare slots.
#[must_use]
pub fn hello(page: u32, slots: u32, bytes_max: u64) -> Vec<u8> {
    hello_with_spares(page, slots, bytes_max, 0)
}

/// The first message of a client.
#[must_use]
pub fn hello_with_spares(page: u32, slots: u32, bytes_max: u64, spares: u32) -> Vec<u8> {
    let mut body = page.to_le_bytes().to_vec();
    body.extend_from_slice(&slots.to_le_bytes());
    body.extend_from_slice(&bytes_max.to_le_bytes());
    body.extend_from_slice(&spares.to_le_bytes());
    message(HELLO, &body)
}

/// The 32-bit number at a place of a message.
#[must_use]
pub fn number_at(message: &[u8], at: usize) -> u32 {
    let bytes = message
        .get(at..at + 4)
        .and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u32::from_le_bytes)
}

fn long_number_at(message: &[u8], at: usize) -> u64 {
    u64::from(number_at(message, at)) | u64::from(number_at(message, at + 4)) << 32
}

/// What a server says of its door and of the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// Threads at most.
    pub threads: u32,
    /// Slots.
    pub slots: u32,
    /// Bytes of a request.
    pub request_size: u64,
    /// Bytes of a reply.
    pub reply_size: u64,
    /// Slots that take the place of lost ones.
    pub spares: u32,
}

impl Welcome {
    /// Reads it.
    #[must_use]
    pub fn decode(message: &[u8]) -> Self {
        Self {
            threads: number_at(message, 60),
            slots: number_at(message, 64),
            request_size: long_number_at(message, 68),
            reply_size: long_number_at(message, 76),
            spares: number_at(message, 84),
        }
    }

    /// Writes it, as the message of a door that takes up to four descriptors.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut body = std::process::id().to_le_bytes().to_vec();
        body.extend_from_slice(&[7; 16]);
        body.extend_from_slice(&0_u32.to_le_bytes());
        body.extend_from_slice(&0_u64.to_le_bytes());
        body.extend_from_slice(&u64::MAX.to_le_bytes());
        body.extend_from_slice(&4_u32.to_le_bytes());
        body.extend_from_slice(&self.threads.to_le_bytes());
        body.extend_from_slice(&self.slots.to_le_bytes());
        body.extend_from_slice(&self.request_size.to_le_bytes());
        body.extend_from_slice(&self.reply_size.to_le_bytes());
        body.extend_from_slice(&self.spares.to_le_bytes());
        message(WELCOME, &body)
    }

    /// All slots.
    #[must_use]
    pub fn all(&self) -> usize {
        self.slots as usize + self.spares as usize
    }

    /// Bytes of the headers in front of the slots.
    #[must_use]
    pub fn headers_len(&self) -> usize {
        (self.all() * 64).next_multiple_of(PAGE)
    }

    /// Bytes of the requests.
    #[must_use]
    pub fn requests_len(&self) -> usize {
        self.headers_len() + self.all() * self.request_size as usize
    }

    /// Bytes of the replies.
    #[must_use]
    pub fn replies_len(&self) -> usize {
        self.headers_len() + self.all() * self.reply_size as usize
    }

    /// Words of a bitmap.
    #[must_use]
    pub fn words(&self) -> usize {
        self.all().div_ceil(64)
    }

    /// Bytes of the control words.
    #[must_use]
    pub fn control_len(&self) -> usize {
        (64 + 3 * 64 * self.words() + 4 * self.all()).next_multiple_of(PAGE)
    }

    /// Bytes of the board.
    #[must_use]
    pub fn board_len(&self) -> usize {
        let threads = self.threads as usize;
        (4 * 64 + threads.div_ceil(64) * 64).next_multiple_of(PAGE)
    }

    /// Bytes of the threads' beds.
    #[must_use]
    pub fn beds_len(&self) -> usize {
        (self.threads as usize * 64).next_multiple_of(PAGE)
    }

    /// Where the control words have a submit word.
    #[must_use]
    pub fn submit(&self, word: usize) -> usize {
        64 * (1 + word)
    }

    /// Where they have a complete word.
    #[must_use]
    pub fn complete(&self, word: usize) -> usize {
        64 * (1 + self.words() + word)
    }

    /// Where they have a word of replies that are not told of yet.
    #[must_use]
    pub fn late(&self, word: usize) -> usize {
        64 * (1 + 2 * self.words() + word)
    }

    /// Where they have a turn word.
    #[must_use]
    pub fn turn(&self, slot: usize) -> usize {
        64 * (1 + 3 * self.words()) + 4 * slot
    }
}

/// Memory that lies in two processes. Unmapped when dropped.
#[derive(Debug)]
pub struct Memory {
    base: *mut u8,
    len: usize,
    /// The memfd.
    pub fd: OwnedFd,
}

// SAFETY: the bytes are reached through atomics only, and are mapped as long as the value is there.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// New memory, mapped for writing, and then sealed like this.
    ///
    /// # Errors
    /// What the system says.
    pub fn create(len: usize, seals: i32) -> io::Result<Self> {
        let fd = memfd(c"transom-raw", len)?;
        let memory = Self::map(fd, len, true)?;
        memory.seal(seals)?;
        Ok(memory)
    }

    /// Maps a memfd.
    ///
    /// # Errors
    /// What the system says.
    pub fn map(fd: OwnedFd, len: usize, writable: bool) -> io::Result<Self> {
        let write = if writable { libc::PROT_WRITE } else { 0 };
        let (protection, shared) = (libc::PROT_READ | write, libc::MAP_SHARED);
        // SAFETY: a new mapping at a place of the kernel's choice.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                protection,
                shared,
                fd.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            base: base.cast(),
            len,
            fd,
        })
    }

    /// Adds seals.
    ///
    /// # Errors
    /// What the system says.
    pub fn seal(&self, seals: i32) -> io::Result<()> {
        // SAFETY: a plain system call on an open descriptor.
        check(unsafe { libc::fcntl(self.fd.as_raw_fd(), libc::F_ADD_SEALS, seals) }).map(drop)
    }

    /// Changes its size.
    ///
    /// # Errors
    /// What the system says: a seal forbids it.
    pub fn resize(&self, len: usize) -> io::Result<()> {
        // SAFETY: as above.
        check(unsafe { libc::ftruncate(self.fd.as_raw_fd(), len as libc::off_t) }).map(drop)
    }

    /// Its size.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn at<T>(&self, offset: usize) -> &T {
        assert!(offset.is_multiple_of(size_of::<T>()) && offset + size_of::<T>() <= self.len);
        // SAFETY: aligned and inside the mapping, by the line above; `T` is an atomic, for which all bytes
        // are valid.
        unsafe { &*self.base.add(offset).cast::<T>() }
    }

    /// A word.
    ///
    /// # Panics
    /// If it does not lie in the memory.
    #[must_use]
    pub fn word(&self, offset: usize) -> &AtomicU32 {
        self.at(offset)
    }

    /// A long word.
    ///
    /// # Panics
    /// If it does not lie in the memory.
    #[must_use]
    pub fn long(&self, offset: usize) -> &AtomicU64 {
        self.at(offset)
    }

    /// A byte.
    ///
    /// # Panics
    /// If it does not lie in the memory.
    #[must_use]
    pub fn byte(&self, offset: usize) -> &AtomicU8 {
        self.at(offset)
    }

    /// Writes bytes.
    pub fn put(&self, offset: usize, bytes: &[u8]) {
        for (n, byte) in bytes.iter().enumerate() {
            self.byte(offset + n).store(*byte, Ordering::Relaxed);
        }
    }

    /// Reads bytes.
    #[must_use]
    pub fn get(&self, offset: usize, len: usize) -> Vec<u8> {
        let byte = |n| self.byte(offset + n).load(Ordering::Relaxed);
        (0..len).map(byte).collect()
    }

    /// Fills it with random numbers.
    pub fn scribble(&self, random: &mut Random) {
        for offset in (0..self.len).step_by(8) {
            self.long(offset)
                .store(random.next_number(), Ordering::SeqCst);
        }
    }

    /// Wakes all threads that sleep on a word.
    pub fn wake(&self, offset: usize) {
        let word = self.word(offset);
        // SAFETY: the address of a live word; FUTEX_WAKE uses it as a key only.
        unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: our own mapping, which nothing refers to any more: references borrow `self`.
        unsafe { libc::munmap(self.base.cast(), self.len) };
    }
}

/// A memfd without seals.
///
/// # Errors
/// What the system says.
pub fn memfd(name: &CStr, len: usize) -> io::Result<OwnedFd> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: the name is a C string; the new descriptor has no other owner.
    unsafe {
        let fd = OwnedFd::from_raw_fd(check(libc::memfd_create(name.as_ptr(), flags))?);
        check(libc::ftruncate(fd.as_raw_fd(), len as libc::off_t))?;
        Ok(fd)
    }
}

/// A `SOCK_SEQPACKET` socket.
#[derive(Debug)]
pub struct Wire(pub OwnedFd);

fn seqpacket() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: the new descriptor has no other owner.
    unsafe {
        Ok(OwnedFd::from_raw_fd(check(libc::socket(
            libc::AF_UNIX,
            kind,
            0,
        ))?))
    }
}

fn address(path: &Path) -> libc::sockaddr_un {
    // SAFETY: all zeroes are a valid address.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let bytes = path.as_os_str().as_bytes();
    assert!(bytes.len() < address.sun_path.len(), "{path:?} is too long");
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    address
}

const ADDRESS_LEN: libc::socklen_t = size_of::<libc::sockaddr_un>() as libc::socklen_t;

impl Wire {
    /// Connects.
    ///
    /// # Errors
    /// What the system says.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let (socket, address) = (seqpacket()?, address(path));
        let fd = socket.as_raw_fd();
        // SAFETY: the address is valid for its length.
        check(unsafe { libc::connect(fd, (&raw const address).cast(), ADDRESS_LEN) })?;
        Ok(Self(socket))
    }

    /// Binds and listens.
    ///
    /// # Errors
    /// What the system says.
    pub fn listen(path: &Path) -> io::Result<Self> {
        let (socket, address) = (seqpacket()?, address(path));
        let fd = socket.as_raw_fd();
        // SAFETY: as above.
        unsafe {
            check(libc::bind(fd, (&raw const address).cast(), ADDRESS_LEN))?;
            check(libc::listen(fd, 100))?;
        }
        Ok(Self(socket))
    }

    /// Waits for a client.
    ///
    /// # Errors
    /// What the system says.
    pub fn accept(&self) -> io::Result<Self> {
        let none = std::ptr::null_mut();
        // SAFETY: no address is asked for; the new descriptor has no other owner.
        unsafe {
            let fd = libc::accept4(self.0.as_raw_fd(), none, none.cast(), libc::SOCK_CLOEXEC);
            Ok(Self(OwnedFd::from_raw_fd(check(fd)?)))
        }
    }

    /// Whether something can be read, or the other side is gone, within this time.
    #[must_use]
    pub fn is_readable(&self, timeout: Duration) -> bool {
        let mut poll = libc::pollfd {
            fd: self.0.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one entry, valid for the call.
        unsafe { libc::poll(&raw mut poll, 1, timeout.as_millis() as libc::c_int) > 0 }
    }

    /// Sends bytes and descriptors without waiting.
    ///
    /// # Errors
    /// What the system says.
    pub fn send(&self, bytes: &[u8], descriptors: &[RawFd]) -> io::Result<()> {
        // Room for 253 descriptors, the most that the kernel takes; u64 for the alignment.
        let mut control = [0_u64; 140];
        let mut part = libc::iovec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        };
        assert!(descriptors.len() <= 253);
        // SAFETY: the header names bytes and a control buffer that live during the call, the latter zeroed,
        // aligned and large enough for the descriptors.
        unsafe {
            let mut header: libc::msghdr = std::mem::zeroed();
            header.msg_iov = &raw mut part;
            header.msg_iovlen = 1;
            if !descriptors.is_empty() {
                let len = size_of_val(descriptors) as u32;
                header.msg_control = (&raw mut control).cast();
                header.msg_controllen = libc::CMSG_SPACE(len) as _;
                let first = libc::CMSG_FIRSTHDR(&raw const header);
                (*first).cmsg_level = libc::SOL_SOCKET;
                (*first).cmsg_type = libc::SCM_RIGHTS;
                (*first).cmsg_len = libc::CMSG_LEN(len) as _;
                let to = libc::CMSG_DATA(first).cast::<RawFd>();
                for (n, fd) in descriptors.iter().enumerate() {
                    to.add(n).write_unaligned(*fd);
                }
            }
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            if libc::sendmsg(self.0.as_raw_fd(), &raw const header, flags) < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }

    /// The next message and its descriptors, within a patient time. No bytes: the other side is gone.
    ///
    /// # Errors
    /// What the system says; `TimedOut` if nothing comes.
    pub fn receive(&self) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
        if !self.is_readable(crate::PATIENCE) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut bytes = vec![0_u8; 4096];
        let mut control = [0_u64; 140];
        let mut part = libc::iovec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: bytes.len(),
        };
        let mut descriptors = Vec::new();
        // SAFETY: as in `send`; the kernel says how much of the control buffer it has filled, with new
        // descriptors that have no other owner.
        unsafe {
            let mut header: libc::msghdr = std::mem::zeroed();
            header.msg_iov = &raw mut part;
            header.msg_iovlen = 1;
            header.msg_control = (&raw mut control).cast();
            header.msg_controllen = size_of_val(&control) as _;
            let flags = libc::MSG_CMSG_CLOEXEC;
            let len = libc::recvmsg(self.0.as_raw_fd(), &raw mut header, flags);
            let len = usize::try_from(len).map_err(|_| io::Error::last_os_error())?;
            bytes.truncate(len);
            let mut next = libc::CMSG_FIRSTHDR(&raw const header);
            while !next.is_null() {
                let count = ((*next).cmsg_len as usize - libc::CMSG_LEN(0) as usize) / 4;
                let from = libc::CMSG_DATA(next).cast::<RawFd>();
                for n in 0..count {
                    descriptors.push(OwnedFd::from_raw_fd(from.add(n).read_unaligned()));
                }
                next = libc::CMSG_NXTHDR(&raw const header, next);
            }
        }
        Ok((bytes, descriptors))
    }
}

/// A client's end that is half open: it was welcomed and has sent no memory.
#[derive(Debug)]
pub struct Half {
    /// The socket.
    pub wire: Wire,
    /// What the door is like.
    pub welcome: Welcome,
    /// Board, beds, replies, doorbell.
    pub descriptors: Vec<OwnedFd>,
}

impl Half {
    /// Says hello and hears the answer.
    ///
    /// # Errors
    /// `ConnectionRefused` if it is no welcome; what the system says.
    pub fn open(path: &Path, slots: u32, spares: u32) -> io::Result<Self> {
        let wire = Wire::connect(path)?;
        wire.send(&hello_with_spares(PAGE as u32, slots, 1 << 30, spares), &[])?;
        let (answer, descriptors) = wire.receive()?;
        if number_at(&answer, 12) != WELCOME || descriptors.len() != 4 {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let welcome = Welcome::decode(&answer);
        Ok(Self {
            wire,
            welcome,
            descriptors,
        })
    }

    /// Sends memory as it should be, and maps everything.
    ///
    /// # Errors
    /// `ConnectionRefused` if the door is not ready then; what the system says.
    pub fn finish(self) -> io::Result<Channel> {
        let welcome = self.welcome;
        let requests = Memory::create(welcome.requests_len(), ONE_WRITER)?;
        let control = Memory::create(welcome.control_len(), FIXED)?;
        let halves = [requests.fd.as_raw_fd(), control.fd.as_raw_fd()];
        self.wire.send(&message(CHANNEL, &[]), &halves)?;
        let (answer, _) = self.wire.receive()?;
        if number_at(&answer, 12) != READY {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let mut descriptors = self.descriptors.into_iter();
        let mut next = || descriptors.next().ok_or(io::ErrorKind::ConnectionRefused);
        let board = Memory::map(next()?, welcome.board_len(), false)?;
        let beds = Memory::map(next()?, welcome.beds_len(), true)?;
        let replies = Memory::map(next()?, welcome.replies_len(), false)?;
        Ok(Channel {
            wire: self.wire,
            welcome,
            board,
            beds,
            replies,
            requests,
            control,
            ear: next()?,
        })
    }
}

/// A client's end of a channel.
#[derive(Debug)]
pub struct Channel {
    /// The socket.
    pub wire: Wire,
    /// What the door is like.
    pub welcome: Welcome,
    /// The door's board, read only.
    pub board: Memory,
    /// Its threads' beds: a line each.
    pub beds: Memory,
    /// Replies, read only.
    pub replies: Memory,
    /// Requests.
    pub requests: Memory,
    /// Control words.
    pub control: Memory,
    /// The doorbell.
    pub ear: OwnedFd,
}

impl Channel {
    /// A correct handshake.
    ///
    /// # Errors
    /// As [`Half::open`] and [`Half::finish`].
    pub fn open(path: &Path, slots: u32) -> io::Result<Self> {
        Half::open(path, slots, 0)?.finish()
    }

    /// The same with room for spare slots.
    ///
    /// # Errors
    /// As [`Half::open`] and [`Half::finish`].
    pub fn open_with_spares(path: &Path, slots: u32, spares: u32) -> io::Result<Self> {
        Half::open(path, slots, spares)?.finish()
    }

    /// Fills a slot: its bytes, and what its header says of them.
    pub fn fill(&self, slot: usize, generation: u32, len: u32, flags: u32, bytes: &[u8]) {
        let size = self.welcome.request_size as usize;
        let at = self.welcome.headers_len() + slot * size;
        self.requests.put(at, bytes);
        let header = 64 * slot;
        self.requests
            .word(header)
            .store(generation, Ordering::SeqCst);
        self.requests.word(header + 4).store(len, Ordering::SeqCst);
        self.requests
            .word(header + 8)
            .store(flags, Ordering::SeqCst);
        self.requests.long(header + 16).store(0, Ordering::SeqCst);
    }

    /// Sets submit bits, and asks the server to look at them.
    pub fn submit(&self, word: usize, bits: u64) {
        let submit = self.control.long(self.welcome.submit(word));
        submit.fetch_or(bits, Ordering::SeqCst);
        let _ = self.wire.send(&message(NUDGE, &[]), &[]);
        let _ = self.wire.send(&message_of_two(NUDGE, 1, 0), &[]);
    }

    /// Whether a slot shows the reply of this generation.
    #[must_use]
    pub fn is_done(&self, slot: usize, generation: u32) -> bool {
        self.replies.word(64 * slot + 4).load(Ordering::SeqCst) == generation
    }

    /// Whether a slot is lost with its last call.
    #[must_use]
    pub fn is_lost(&self, slot: usize) -> bool {
        self.replies.word(64 * slot + 28).load(Ordering::SeqCst) != 0
    }

    /// A call as it should be: its reply, or none if the server does not answer.
    pub fn call(&self, slot: usize, generation: u32, request: &[u8]) -> Option<Vec<u8>> {
        self.fill(slot, generation, request.len() as u32, 0, request);
        self.submit(slot / 64, 1 << (slot % 64));
        crate::eventually(|| self.is_done(slot, generation)).then(|| {
            let len = self.replies.word(64 * slot + 8).load(Ordering::SeqCst) as usize;
            let size = self.welcome.reply_size as usize;
            let at = self.welcome.headers_len() + slot * size;
            self.replies.get(at, len)
        })
    }
}

/// An event loop's wait: an epoll set of descriptors that tell each change once.
#[derive(Debug)]
pub struct Ears(OwnedFd);

impl Ears {
    /// Listens to these.
    ///
    /// # Panics
    /// If it cannot.
    #[must_use]
    pub fn to(descriptors: &[RawFd]) -> Self {
        // SAFETY: the new descriptor has no other owner; the event is a local.
        unsafe {
            let epoll = check(libc::epoll_create1(libc::EPOLL_CLOEXEC)).expect("an epoll set");
            for fd in descriptors {
                let mut event = libc::epoll_event {
                    events: (libc::EPOLLIN | libc::EPOLLET) as u32,
                    u64: 0,
                };
                let added = libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, *fd, &raw mut event);
                check(added).expect("it can be listened to");
            }
            Self(OwnedFd::from_raw_fd(epoll))
        }
    }

    /// Waits; returns whether there was anything.
    #[must_use]
    pub fn wait(&self, ms: i32) -> bool {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 8];
        // SAFETY: there is room for eight events.
        unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), 8, ms) > 0 }
    }
}
