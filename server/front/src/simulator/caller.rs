//! A loop's end of a simulated door.

use super::process::Process;
use super::slots::SlotMemory;
use std::os::fd::RawFd;
use std::rc::Rc;
use transom_doors::ChannelGeometry;

/// A loop's end of a simulated door.
pub(super) struct SimCaller {
    pub process: usize,
    pub geometry: ChannelGeometry,
    pub memory: Rc<SlotMemory>,
    /// Its own, and the one that tells of the other side, which a door of this process has not.
    pub bells: (RawFd, Option<RawFd>),
}

impl SimCaller {
    pub(super) fn new(process: &Process) -> Self {
        SimCaller {
            process: process.number,
            geometry: process.geometry,
            memory: process.memory.clone(),
            bells: (
                process.bell(),
                (!process.is_local).then(|| process.peer_bell()),
            ),
        }
    }
}
