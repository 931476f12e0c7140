//! Doors at a path, until `transom-doors` has them: the calls that serving one needs, each of which says that it is not there yet.

use std::convert::Infallible;
use std::path::Path;
use std::time::Duration;
use transom_arena::Part;
use transom_doors::{ChannelGeometry, Door};
use transom_platform::{Application, ApplicationError};

/// What a door at a path allows its clients.
#[derive(Debug, Clone, Copy)]
pub(super) struct DoorOptions {
    /// The slots of each channel.
    pub geometry: ChannelGeometry,
    /// Channels that may be open at once.
    pub channels_max: u32,
    /// Of these, those of one user.
    pub channels_per_user: u32,
}

/// Who may open a door, and how long to wait for its path.
#[derive(Debug, Clone, Copy)]
pub(super) struct AttachOptions {
    pub mode: Option<u32>,
    pub owner: Option<u32>,
    pub group: Option<u32>,
    pub wait: Duration,
}

/// Why a door is not at its path.
#[derive(Debug, thiserror::Error)]
pub(super) enum AttachError {
    #[error("doors at a path are unsupported yet")]
    Unsupported,
}

/// A door at its path.
#[derive(Debug)]
pub(super) struct Attachment(Infallible);

/// The application's door, for clients in other processes; `snapshots` has a request's size for each of its threads.
pub(super) fn door(
    application: &'static Application,
    options: &DoorOptions,
    snapshots: Part,
) -> Result<Door, ApplicationError> {
    let DoorOptions {
        geometry,
        channels_max,
        channels_per_user,
    } = *options;
    let _ = (geometry, channels_max, channels_per_user, snapshots);
    application.door()
}

/// Puts a door at a path.
pub(super) fn attach(
    door: &Door,
    path: &Path,
    options: &AttachOptions,
) -> Result<Attachment, AttachError> {
    let AttachOptions {
        mode,
        owner,
        group,
        wait,
    } = *options;
    let _ = (door, path, mode, owner, group, wait);
    Err(AttachError::Unsupported)
}

impl Attachment {
    /// Leaves the path to the next owner. Channels that are open go on.
    pub(super) fn detach(&mut self) {
        match self.0 {}
    }

    /// Calls that were accepted and have not completed, but for those whose thread is parked.
    pub(super) fn calls_under_way(&self) -> u64 {
        match self.0 {}
    }
}
