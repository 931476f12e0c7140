//! What a front end was asked for, by its file and its flags.

use super::error::StartError;
use crate::config::{Config, Forward, Source, Target};
use crate::plan::{FrontPlan, PlanError};
use crate::settings::{ForwardSettings, FrontSettings, file};
use std::path::Path;
use transom_doors::DoorOwner;
use transom_front::{Route, RouteTable};

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
pub(super) fn plan(front: &FrontSettings, config: &Config) -> Result<FrontPlan, StartError> {
    FrontPlan::new(front, config).map_err(|source| {
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

/// Where the requests of a forward go; a doorway's number is its door's place in `doors`.
pub(super) fn route_table(forward: &Forward, doors: &[impl AsRef<Path>]) -> RouteTable {
    let doorway = |door: &Path| doors.iter().position(|known| known.as_ref() == door);
    match &forward.target {
        Target::Http(routes) => {
            let routes = routes.iter().map(|route| Route {
                method: route.method_name().map(str::to_owned),
                prefix: route.path.clone(),
                doorway: doorway(&route.door).expect("`doors` has every door") as u16,
            });
            RouteTable::new(routes.collect())
        }
        Target::Tcp(_) | Target::Udp(_) => unreachable!("loops serve HTTP"),
    }
}
