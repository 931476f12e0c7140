//! The set of descriptors that a loop waits for.

use crate::{borrowed, timespec};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// An epoll set, edge-triggered for all but listeners.
#[derive(Debug)]
pub struct Epoll(OwnedFd);

impl Epoll {
    /// An empty one.
    ///
    /// # Errors
    /// There is no descriptor left, or no memory.
    pub fn new() -> io::Result<Self> {
        Ok(Epoll(epoll::create(CreateFlags::CLOEXEC)?))
    }

    /// A connection: every change is reported once.
    ///
    /// # Errors
    /// Those of epoll_ctl(2); so are those of the other ones here.
    pub fn add_connection(&self, fd: RawFd, token: u64) -> io::Result<()> {
        let events =
            EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::PRI | EventFlags::ET;
        self.add(fd, events, token)
    }

    /// A doorbell: every ring is reported once, and it need not be read.
    ///
    /// # Errors
    /// As [`Epoll::add_connection`].
    pub fn add_bell(&self, fd: RawFd, token: u64) -> io::Result<()> {
        self.add(fd, EventFlags::IN | EventFlags::ET, token)
    }

    /// A listener: reported as long as connections wait. Of the loops that share one, one is woken for a
    /// connection.
    ///
    /// # Errors
    /// As [`Epoll::add_connection`].
    pub fn add_listener(&self, fd: RawFd, shared: bool, token: u64) -> io::Result<()> {
        let mut events = EventFlags::IN;
        events.set(EventFlags::EXCLUSIVE, shared);
        self.add(fd, events, token)
    }

    /// Is told of it no more.
    ///
    /// # Errors
    /// As [`Epoll::add_connection`].
    pub fn remove(&self, fd: RawFd) -> io::Result<()> {
        Ok(epoll::delete(&self.0, borrowed(fd))?)
    }

    fn add(&self, fd: RawFd, events: EventFlags, token: u64) -> io::Result<()> {
        Ok(epoll::add(
            &self.0,
            borrowed(fd),
            EventData::new_u64(token),
            events,
        )?)
    }

    /// Waits for events; `None` waits for ever. An interruption is no event.
    #[inline]
    pub fn wait(&self, events: &mut [libc::epoll_event], timeout: Option<Duration>) -> usize {
        let timeout = timeout.map(timespec);
        let pointer = timeout
            .as_ref()
            .map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: the events are valid for their number, the timeout for the call, and there is no signal
        // mask. epoll_pwait2 (Linux 5.11), because a backlog is looked after within microseconds.
        let count = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.0.as_raw_fd(),
                events.as_mut_ptr(),
                libc::c_int::try_from(events.len()).unwrap_or(libc::c_int::MAX),
                pointer,
                std::ptr::null::<libc::sigset_t>(),
                0usize,
            )
        };
        match usize::try_from(count) {
            Ok(count) => count,
            Err(_) if io::Error::last_os_error().raw_os_error() == Some(libc::ENOSYS) => {
                self.wait_ms(events, timeout)
            }
            Err(_) => 0,
        }
    }

    /// For older kernels: rounded up to milliseconds, so that calls stuck behind a slow one are helped later.
    #[cold]
    fn wait_ms(&self, events: &mut [libc::epoll_event], timeout: Option<libc::timespec>) -> usize {
        let ms = timeout.map_or(-1, |timeout| {
            timeout.tv_sec * 1000 + (timeout.tv_nsec + 999_999) / 1_000_000
        });
        let most = libc::c_int::try_from(events.len()).unwrap_or(libc::c_int::MAX);
        // SAFETY: the events are valid for their number.
        let count = unsafe {
            libc::epoll_wait(
                self.0.as_raw_fd(),
                events.as_mut_ptr(),
                most,
                libc::c_int::try_from(ms).unwrap_or(libc::c_int::MAX),
            )
        };
        usize::try_from(count).unwrap_or(0)
    }
}
