//! The paths at which a door can be.

use std::ffi::OsStr;
use std::path::Path;

/// The longest name of a door's file, in bytes. `sun_path` has 108: room for the name that the socket gets
/// before it has its mode, in a folder that is named through a descriptor.
const FILE_NAME_MAX: usize = 76;

/// A whole path up to this length can be served with a longer name too.
const SHORT_PATH_MAX: usize = 98;

/// A path at which there can be no door.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "its file name has {len} bytes, and that of a door at most {FILE_NAME_MAX}: choose a shorter one"
)]
pub struct NameTooLong {
    /// Bytes of the name.
    pub len: usize,
}

/// Whether there can be a door at a path, as far as its length goes. Nothing is looked at.
///
/// # Errors
/// The file's name is too long.
pub fn check_path(path: &Path) -> Result<(), NameTooLong> {
    let len = path.file_name().map_or(0, OsStr::len);
    if len <= FILE_NAME_MAX || path.as_os_str().len() <= SHORT_PATH_MAX {
        return Ok(());
    }
    Err(NameTooLong { len })
}
