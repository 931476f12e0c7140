//! Descriptors that came with a message.

use std::os::fd::OwnedFd;

/// The most descriptors of one call or reply.
pub const DESCRIPTORS_MAX: usize = 16;

/// Descriptors that came with a message. When this is dropped, those of another process are closed by a
/// thread of their own: close(2) may wait for as long as their sender likes. That holds also for those that
/// are taken out of here, so do not close them where waiting does harm. (On illumos each is closed where it
/// is dropped.)
#[derive(Debug, Default)]
pub struct Descriptors {
    fds: [Option<OwnedFd>; DESCRIPTORS_MAX],
    /// How they are closed, other than by dropping them.
    close: Option<Close>,
}

/// Closes a descriptor that a user has sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Close {
    /// The user.
    pub sender: u32,
    /// Closes it.
    pub close: fn(u32, OwnedFd),
}

impl Descriptors {
    /// None yet, to be closed so.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    pub(crate) fn closed_by(close: Close) -> Self {
        Self {
            fds: Default::default(),
            close: Some(close),
        }
    }

    /// How many there are left.
    pub fn len(&self) -> usize {
        self.fds.iter().flatten().count()
    }

    /// Whether none is left.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The next one, which stays here.
    pub fn first(&self) -> Option<&OwnedFd> {
        self.fds.iter().flatten().next()
    }

    /// Puts one more in, if there is a place: no message and no call carries more than
    /// [`DESCRIPTORS_MAX`].
    pub fn push(&mut self, fd: OwnedFd) {
        if let Some(place) = self.fds.iter_mut().find(|place| place.is_none()) {
            *place = Some(fd);
        }
    }
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        if let Some(Close { sender, close }) = self.close {
            for fd in self {
                close(sender, fd);
            }
        }
    }
}

impl Iterator for Descriptors {
    type Item = OwnedFd;

    fn next(&mut self) -> Option<OwnedFd> {
        self.fds.iter_mut().find_map(Option::take)
    }
}
