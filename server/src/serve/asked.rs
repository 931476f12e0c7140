//! What a front end was asked for, by its file and its flags.

use super::error::StartError;
use crate::config::{Config, Source};
use crate::plan::{Plan, PlanError};
use crate::settings::{ForwardSettings, FrontSettings, file};
use std::path::Path;
use transom_doors::DoorOwner;

/// What the file and the flags say, with the owners of all doors.
pub(super) fn read_asked(asked: &ForwardSettings) -> Result<Config, StartError> {
    let mut config = read(asked.config.as_deref(), &asked.forward)?;
    config.own_the_rest(asked.door_owner.unwrap_or(DoorOwner::UsOrRoot));
    Ok(config)
}

pub(super) fn read(path: Option<&Path>, flags: &[String]) -> Result<Config, StartError> {
    let Some(path) = path else {
        return Ok(Config::read(None, flags, &file::keys())?);
    };
    let bytes = std::fs::read(path).map_err(|source| StartError::ReadConfig {
        path: path.to_owned(),
        source,
    })?;
    let source = Source {
        name: &path.to_string_lossy(),
        bytes: &bytes,
    };
    Ok(Config::read(Some(source), flags, &file::keys())?)
}

/// The sum; a flag that cannot hold is told with the place in the file, if that is where it was set.
pub(super) fn plan(front: &FrontSettings, config: &Config) -> Result<Plan, StartError> {
    Plan::of_forwards(front, config).map_err(|source| {
        let (PlanError::TooSmall { flag, .. }
        | PlanError::TooLarge { flag, .. }
        | PlanError::Together { flag, .. }
        | PlanError::Alone { flag, .. }) = &source
        else {
            return StartError::Plan(source);
        };
        let name = flag.trim_start_matches('-');
        let name = name.split(' ').next().unwrap_or(name);
        match config.settings.iter().find(|set| set.name == name) {
            Some(set) => StartError::Setting {
                place: set.place.clone(),
                source: Box::new(source),
            },
            None => StartError::Plan(source),
        }
    })
}
