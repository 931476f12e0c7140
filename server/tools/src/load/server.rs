//! The server that is loaded: how it is reached, what it reported about itself, and what it uses now.

use super::settings::LoadSettings;
use super::target::{PidSetting, Started, Url, who_listens_on};
use super::watch::{ResourceUsage, ServerMetrics};
use crate::admin_client::AdminAddress;
use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long the first connection may take.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// Whom to load, and what is known of it.
#[derive(Debug)]
pub struct Target {
    /// The server, if it was started here.
    pub started: Option<Started>,
    /// Where it accepts connections.
    pub address: SocketAddr,
    /// What requests say in their field `Host`.
    pub host: String,
    /// Its processes, if they are to be looked at.
    pub pids: Vec<i32>,
    /// Where its metrics are.
    pub admin: Option<AdminAddress>,
    /// What it said of itself before it was loaded.
    pub metrics: ServerMetrics,
    /// The bytes that it should not pass, and where that number is from.
    pub bound: Option<(u64, &'static str)>,
    /// What else should be known.
    pub notes: Vec<String>,
}

impl Target {
    /// Starts the server if that is asked for, waits until it is ready, and asks it.
    ///
    /// # Errors
    /// Why it cannot be loaded.
    pub fn new(settings: &LoadSettings) -> Result<Self, String> {
        let given = settings.target.as_ref().map(Url::resolve).transpose()?;
        let mut started = None;
        let mut said = Default::default();
        if !settings.command.is_empty() {
            if let Some(address) = given
                && TcpStream::connect_timeout(&address, CONNECT_PATIENCE).is_ok()
            {
                return Err(format!(
                    "--target: a process listens on {address} already, before the command is started"
                ));
            }
            let log = settings.server_log.as_ref().map(|path| {
                File::create(path)
                    .map_err(|error| format!("--server-log {}: {error}", path.display()))
            });
            let mut server = Started::new(&settings.command, log.transpose()?)?;
            said = server.wait_until_ready(given, settings.start_timeout)?;
            started = Some(server);
        }
        let address = given
            .or(said.listen)
            .ok_or("there is no address: give --target http://HOST:PORT")?;
        TcpStream::connect_timeout(&address, CONNECT_PATIENCE)
            .map_err(|error| format!("no process accepts connections at {address}: {error}"))?;

        let mut notes = Vec::new();
        let pids = pids(settings, started.as_ref(), address)?;
        let said_admin = said.admin.as_deref().and_then(|text| text.parse().ok());
        let mut admin = settings.admin.clone().or(said_admin);
        let metrics = match admin.as_ref().map(ServerMetrics::fetch) {
            None => ServerMetrics::default(),
            Some(Ok(metrics)) => metrics,
            Some(Err(why)) if settings.admin.is_some() => return Err(format!("--admin: {why}")),
            Some(Err(why)) => {
                notes.push(format!("no metrics: {why}"));
                admin = None;
                ServerMetrics::default()
            }
        };
        let bound = settings.bound.map(|bound| (bound.get() as u64, "--bound"));
        let bound = bound
            .or(metrics.bound.map(|bound| (bound as u64, "metrics")))
            .or(said.bound.map(|bound| (bound, "log")));
        Ok(Target {
            started,
            address,
            host: settings
                .target
                .as_ref()
                .map_or_else(|| address.to_string(), |url| url.host.clone()),
            pids,
            admin,
            metrics,
            bound,
            notes,
        })
    }

    /// Its memory now; `None` if it is not looked at.
    ///
    /// # Errors
    /// Which process cannot be looked at, and why.
    pub fn memory(&self) -> Result<Option<ResourceUsage>, String> {
        match self.pids.is_empty() {
            true => Ok(None),
            false => ResourceUsage::of(&self.pids).map(Some),
        }
    }

    /// What it says of itself now.
    pub fn metrics_now(&self) -> ServerMetrics {
        let admin = self.admin.as_ref();
        let metrics = admin.and_then(|admin| ServerMetrics::fetch(admin).ok());
        metrics.unwrap_or_default()
    }
}

fn pids(
    settings: &LoadSettings,
    started: Option<&Started>,
    address: SocketAddr,
) -> Result<Vec<i32>, String> {
    let mut pids = Vec::new();
    for pid in &settings.pid {
        match pid {
            PidSetting::Pid(pid) => pids.push(*pid),
            PidSetting::Auto => pids.extend(who_listens_on(address)?),
        }
    }
    if let Some(started) = started
        && settings.pid.is_empty()
    {
        // A wrapper such as `sh -c` may stay between us and the server.
        pids = who_listens_on(address).unwrap_or_else(|_| vec![started.pid()]);
    }
    pids.sort_unstable();
    pids.dedup();
    Ok(pids)
}
