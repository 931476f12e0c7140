//! What a door offers to callers in other processes. The builder gathers it, and checks it when it builds.

use crate::values::descriptors::DESCRIPTORS_MAX;
use crate::values::door::{CHANNELS_MAX, DoorEvent, Limits, Unreferenced};
use crate::values::error::BuildError;
use crate::values::geometry::ChannelGeometry;
use crate::values::peer::Credentials;

type Accept = Box<dyn Fn(&Credentials) -> bool + Send + Sync>;
type OnEvent = Box<dyn Fn(&DoorEvent) + Send + Sync>;

/// See the module.
pub struct RemoteOptions {
    /// `None`: it has none.
    pub geometry: Option<ChannelGeometry>,
    pub channels_max: u32,
    pub channels_per_user: Option<u32>,
    pub limits: Limits,
    pub unreferenced: Option<Unreferenced>,
    pub on_unreferenced: Option<Box<dyn Fn() + Send + Sync>>,
    pub accept: Option<Accept>,
    pub on_event: Option<OnEvent>,
}

impl Default for RemoteOptions {
    fn default() -> Self {
        Self {
            geometry: None,
            channels_max: 64,
            channels_per_user: None,
            limits: Limits::default(),
            unreferenced: None,
            on_unreferenced: None,
            accept: None,
            on_event: None,
        }
    }
}

impl RemoteOptions {
    /// Whether a door can be built with them.
    pub fn check(&self) -> Result<(), BuildError> {
        let Some(geometry) = self.geometry else {
            return Ok(());
        };
        geometry.check()?;
        let Limits {
            data_min,
            data_max,
            descriptors_max,
        } = self.limits;
        if data_min > data_max.min(geometry.request_size) {
            return Err(BuildError::DataMin { data_min, data_max });
        }
        if descriptors_max as usize > DESCRIPTORS_MAX {
            return Err(BuildError::Descriptors {
                given: descriptors_max,
            });
        }
        if !(1..=CHANNELS_MAX).contains(&self.channels_max) {
            return Err(BuildError::Channels {
                given: self.channels_max,
            });
        }
        Ok(())
    }
}
