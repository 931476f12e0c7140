//! What each `errno` means to a caller.

use std::ffi::c_int;
use transom_doors::{CallError, Limit, Limits};

/// What an `errno` of `door_call` says about the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// A signal came while the call waited for a thread: it has not run, call again.
    Again,
    /// It is over.
    Ended(CallError),
}

/// The meaning of `errno` after `door_call` with `len` bytes of request, to a door with these limits: the
/// kernel has one number for both limits of bytes.
pub(crate) fn failure(errno: c_int, len: usize, limits: &Limits) -> Failure {
    let error = match errno {
        // The only one that is told before a thread has the call; neither side has caused it.
        libc::EAGAIN => return Failure::Again,
        // Not a door, revoked, or its process had ended.
        libc::EBADF => CallError::NotAccepted,
        libc::ENOBUFS => CallError::Refused(if len < limits.data_min {
            Limit::DataMin
        } else {
            Limit::DataMax
        }),
        // It takes none; it takes fewer; or one that was to be sent is none, which borrowed ones are not.
        libc::ENOTSUP | libc::ENFILE | libc::EINVAL => CallError::Refused(Limit::Descriptors),
        libc::E2BIG => CallError::Refused(Limit::Stack),
        // EINTR: a signal, a fork, or the server's end. EMFILE: its table of descriptors was full, or ours
        // was. EFAULT and EOVERFLOW: the reply had no place to go. And whatever is not in the manual.
        _ => CallError::MayHaveRun,
    };
    Failure::Ended(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errno_says_what_a_caller_may_do_next() {
        let not_run = [
            libc::ENOBUFS,
            libc::ENOTSUP,
            libc::ENFILE,
            libc::E2BIG,
            libc::EINVAL,
        ];
        for errno in not_run {
            assert!(
                matches!(
                    failure(errno, 1, &Limits::default()),
                    Failure::Ended(CallError::Refused(_))
                ),
                "{errno}"
            );
        }
        assert_eq!(
            failure(libc::EBADF, 1, &Limits::default()),
            Failure::Ended(CallError::NotAccepted)
        );
        assert_eq!(failure(libc::EAGAIN, 1, &Limits::default()), Failure::Again);
    }

    #[test]
    fn every_other_errno_may_have_run() {
        let known = [
            libc::EBADF,
            libc::EAGAIN,
            libc::ENOBUFS,
            libc::ENOTSUP,
            libc::ENFILE,
            libc::E2BIG,
            libc::EINVAL,
        ];
        for errno in (0..200).filter(|errno| !known.contains(errno)) {
            assert_eq!(
                failure(errno, 1, &Limits::default()),
                Failure::Ended(CallError::MayHaveRun),
                "{errno}"
            );
        }
        assert!(!CallError::MayHaveRun.is_safe_to_resend());
        assert!(CallError::NotAccepted.is_safe_to_resend());
    }
}
