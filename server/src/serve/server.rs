//! A server: the parts that it is made of, how they start, and how they end.

use super::end::{self, Cut, Ending};
use super::error::StartError;
use super::handover::{Handover, What};
use super::listeners::{Inherited, Kind, Listeners};
use super::parts::admin::AdminHalf;
use super::parts::application::{Handlers, Installed, Served, policy_name};
use super::parts::door::AtPath;
use super::parts::loops::{LoopOptions, Loops, RunningLoops, count_addresses};
use super::parts::{access, streams};
use super::recycle::Way;
use super::reload::Reload;
use super::report::with_logs;
use super::signals::Signals;
use super::watch::{delay_drain, nothing_to_reload, until_told};
use super::why::End;
use crate::admin::Told;
use crate::config::{Config, Target};
use crate::plan::Plan;
use crate::settings::{FrontSettings, Settings};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;
use transom_arena::{Buckets, Region, RegionOptions, Wipe, seal};
use transom_front::forward::Forwards;
use transom_front::{Opener, Order};
use transom_log::LogHandle;
use transom_log::access::AccessLog;
use transom_wire::own_log::{error, info};

/// What a server is asked to serve: an application, or forwards to those of other processes.
pub(super) struct Asked<'s> {
    pub plan: &'s Plan,
    pub front: &'s FrontSettings,
    pub application: Option<(&'s Settings, Handlers)>,
    /// Of a front end for other processes; without forwards otherwise.
    pub config: Config,
}

/// What a process has from outside while it begins to serve.
struct Beginning<'b> {
    inherited: Inherited,
    logs: &'b LogHandle,
    signals: &'b Signals,
    started: Instant,
}

/// A server that is running.
struct Server<'s> {
    front: &'s FrontSettings,
    application: Option<Served<'s>>,
    /// That of the application, if others find it at a path.
    door: Option<AtPath>,
    loops: RunningLoops,
    /// Of loops that lead to doors of other processes.
    opener: Option<Opener>,
    streams: Forwards,
    listeners: Listeners,
    /// That of `--admin`, if there is one; it stays until the end.
    admin_listeners: Listeners,
    handover: Handover,
    access: Option<AccessLog>,
    admin: Option<AdminHalf>,
}

impl<'s> Asked<'s> {
    /// The path of a door, which takes the place of loops.
    fn path(&self) -> Option<&'s Path> {
        self.settings()?.door.door.as_deref()
    }

    /// Those of the application.
    fn settings(&self) -> Option<&'s Settings> {
        self.application.as_ref().map(|(settings, _)| *settings)
    }

    /// Serves it until there is a reason to end; the status of the process. `reload` has the flags of a front
    /// end for other processes, and gives them new values at SIGHUP.
    pub(super) fn serve(
        mut self,
        reload: Option<Reload<'_>>,
        started: Instant,
    ) -> Result<ExitCode, StartError> {
        let (front, path) = (self.front, self.path());
        // Before anything is opened: what was passed is known by its numbers only.
        let inherited = match (path, &front.admin) {
            (Some(_), None) => Inherited::take_handed(),
            _ => Inherited::take(),
        }
        .map_err(StartError::Inherited)?;
        let signals = &Signals::block().map_err(StartError::Signals)?;
        with_logs(front, |logs, pending| {
            match &mut self.application {
                Some((_, handlers)) => handlers.claim_after_warm_up(pending),
                None => pending.claim(),
            }
            let beginning = Beginning {
                inherited,
                logs,
                signals,
                started,
            };
            Server::start(self, beginning).map(|server| server.until_the_end(reload, signals, logs))
        })
    }

    /// Listens where the public is served, then where `--admin` says, and notes the ports that the kernel
    /// chose. All at once: what has been passed and is not listened on is closed.
    fn listen(&mut self, inherited: &mut Inherited) -> Result<(Listeners, Listeners), StartError> {
        let (loops, settings) = (self.plan.loops, self.settings());
        let forwards = &mut self.config.forwards;
        forwards.sort_by_key(|one| !one.is_http()); // those that loops serve come first
        let mut addresses: Vec<_> = match settings {
            Some(settings) if loops > 0 => (settings.listen.iter())
                .map(|address| (Kind::Stream, address.clone(), loops))
                .collect(),
            _ => (forwards.iter())
                .map(|forward| match forward.target {
                    Target::Http(_) => (Kind::Stream, forward.address.clone(), loops),
                    Target::Tcp(_) => (Kind::Stream, forward.address.clone(), 1),
                    Target::Udp(_) => (Kind::Datagram, forward.address.clone(), 1),
                })
                .collect(),
        };
        let public = addresses.len();
        let admin = self.front.admin.iter();
        addresses.extend(admin.map(|address| (Kind::Stream, address.clone(), 1)));
        let opened = Listeners::open(&addresses, inherited, self.front);
        let mut listeners = opened.map_err(|(n, source)| match forwards.get(n) {
            Some(forward) => StartError::of_forward(forward, source),
            None => StartError::Listen {
                flag: if n < public { "--listen" } else { "--admin" },
                address: addresses[n].1.clone(),
                source,
            },
        })?;
        let admin = listeners.split_off(public);
        for (forward, address) in forwards.iter_mut().zip(listeners.addresses()) {
            forward.address = address.clone();
        }
        Ok((listeners, admin))
    }

    /// The access log of the loops, if there are some.
    fn log_access(
        &self,
        listeners: &Listeners,
        signals: &Signals,
    ) -> Result<Option<AccessLog>, StartError> {
        if self.plan.loops == 0 {
            return Ok(None);
        }
        let public = listeners
            .addresses()
            .map(|address| format!("http://{address}"));
        let http = self.config.http_only();
        let forwards = match self.settings() {
            Some(_) => vec![public.collect::<Vec<_>>().join(",")],
            None => http.forwards.iter().map(ToString::to_string).collect(),
        };
        let doors = http.doors().into_iter();
        let doors = doors.map(|door| door.to_string_lossy().into_owned());
        access::start(self.front, forwards, doors.collect(), signals)
    }

    /// How the process will be replaced if it loses the buckets of an application.
    fn way(&self, handover: &Handover) -> Result<Option<Way>, StartError> {
        let choose = |settings: &Settings| {
            let bound = &self.plan.bound;
            Way::choose(&settings.application, bound, handover.obstacle())
        };
        self.settings().map(choose).transpose()
    }

    /// Maps the region that the plan states, with the buckets in it.
    fn map(&self) -> Result<(Region, Option<Buckets>), StartError> {
        let settings = self.settings().map(|settings| &settings.application);
        let options = settings.map(|settings| RegionOptions {
            lazy: settings.lazy,
            lock: settings.lock,
            huge_pages: settings.huge_pages,
        });
        let wipe = settings.map_or(Wipe::None, |settings| settings.wipe.into());
        let mut region = Region::map(&self.plan.bound, options.unwrap_or_default())?;
        let buckets = region.take("buckets");
        let buckets =
            buckets.map(|part| Buckets::install(&mut region, &part, self.plan.bucket, wipe));
        let buckets = buckets.transpose()?;
        region.commit()?;
        Ok((region, buckets))
    }

    /// Makes the application, if there is one, in the buckets; others are kept aside.
    fn install(
        &mut self,
        region: &mut Region,
        buckets: Option<Buckets>,
    ) -> Result<(Option<Installed<'s>>, Option<Buckets>), StartError> {
        let Some(((settings, handlers), buckets)) = self.application.take().zip(buckets) else {
            return Ok((None, buckets));
        };
        let geometry = (self.plan.bucket, self.plan.channel);
        let (one, aside) = Installed::new(region, buckets, geometry, settings, handlers)?;
        Ok((Some(one), Some(aside)))
    }
}

impl<'s> Server<'s> {
    /// Starts what is asked for, part by part.
    fn start(mut asked: Asked<'s>, mut beginning: Beginning<'_>) -> Result<Self, StartError> {
        let (plan, front, path) = (asked.plan, asked.front, asked.path());
        let (logs, signals) = (beginning.logs, beginning.signals);
        // Before the region is mapped, so that a port in use is said at once.
        let (mut listeners, mut admin_listeners) = asked.listen(&mut beginning.inherited)?;
        let sockets = streams::sockets(&asked.config, &listeners)?;
        let what = path.map_or(What::Listeners, |_| What::Path);
        let handover = Handover::prepare(what, [&listeners, &admin_listeners], front, signals);
        let way = asked.way(&handover)?;
        let access = asked.log_access(&listeners, signals)?;
        let addresses = count_addresses(front, plan.connections);
        let (mut region, buckets) = asked.map()?;
        let (installed, aside) = asked.install(&mut region, buckets)?;
        let options = LoopOptions {
            settings: front,
            addresses: addresses.clone(),
            access: access.as_ref(),
        };
        let door = installed.as_ref().map(|one| (&one.door, plan.channel));
        let (loops, opener) = match door {
            _ if plan.loops == 0 => (Loops::default(), None),
            Some(door) => Loops::to_our_door(options, &mut region, door, &listeners)?,
            None => Loops::to_doors(options, &mut region, &asked.config, &listeners)?,
        };
        let application = match installed.zip(way) {
            Some((one, way)) => Some(one.start(way, beginning.inherited.predecessor, signals)?),
            None => None,
        };
        let slots_lost = Arc::<AtomicU64>::default();
        let told = Told {
            application: application.as_ref().map(|one| one.application),
            recycle: application.as_ref().map(|one| one.recycling.view()),
            front: (path.is_none()).then(|| loops.view(front, slots_lost.clone())),
            bound: &plan.bound,
            region: region.addresses(),
            logs,
            access: access.as_ref(),
        };
        let admin = AdminHalf::start(told, &mut region, aside, &admin_listeners, front)?;
        let loops = loops.start("loop")?;
        let streams = streams::start(&asked.config, sockets, front, addresses, slots_lost)?;
        end::say_bound(&plan.bound, &region.addresses());
        // Last: a client that finds the path finds an application that answers.
        let door = match &application {
            Some(one) => one.attach(&beginning.inherited.handed)?,
            None => None,
        };
        listeners.are_ours();
        admin_listeners.are_ours();
        let server = Server {
            front,
            application,
            door,
            loops,
            opener,
            streams,
            listeners,
            admin_listeners,
            handover,
            access,
            admin,
        };
        server.say_ready(&asked, path, beginning.started);
        // Tells the instance before this one, and the process that has started this one.
        beginning.inherited.handed.say_ready();
        signals.notify().ready();
        drop((asked, beginning));
        seal();
        Ok(server)
    }

    fn say_ready(&self, asked: &Asked<'_>, path: Option<&Path>, started: Instant) {
        let ready_ms = started.elapsed().as_millis() as u64;
        let admin = self.admin_listeners.addresses().next();
        let admin = admin.map(tracing::field::display);
        let list = |names: Vec<String>| names.join(",");
        let Some(served) = &self.application else {
            let forwards = asked.config.forwards.iter();
            return info!(
                listen = %list(forwards.map(ToString::to_string).collect()),
                doors = asked.config.doors().len(),
                loops = asked.plan.loops,
                admin,
                ready_ms,
                "ready"
            );
        };
        let Settings {
            application, door, ..
        } = served.settings;
        let buckets = application.buckets;
        let on_exhaustion = policy_name(served.policy);
        let way = served.recycling.way();
        let (recycle, because) = (way.name(), way.obstacle().map(tracing::field::display));
        match path {
            None => info!(
                listen = %list(self.listeners.addresses().map(ToString::to_string).collect()),
                admin,
                loops = asked.plan.loops,
                buckets,
                on_exhaustion,
                recycle,
                because,
                ready_ms,
                "ready"
            ),
            Some(path) => info!(
                door = %path.display(),
                mode = %format_args!("{:04o}", door.door_mode),
                channels = door.channels(),
                buckets,
                on_exhaustion,
                recycle,
                because,
                admin,
                ready_ms,
                "ready"
            ),
        }
    }

    fn until_the_end(
        mut self,
        mut reload: Option<Reload<'_>>,
        signals: &Signals,
        logs: &LogHandle,
    ) -> ExitCode {
        let recycling = self.application.as_mut().map(|one| &mut one.recycling);
        let why = until_told(
            signals,
            &mut self.handover,
            recycling,
            |handover| match &mut reload {
                Some(reload) => reload.run(&self.loops, handover, logs),
                None => nothing_to_reload(handover),
            },
        );
        let front = reload.as_ref().map_or(self.front, Reload::front);
        let application = self.application.as_ref().map(|one| one.application);
        if let Some(admin) = &self.admin {
            admin.drains(why);
        }
        if self.door.is_none() {
            delay_drain(signals, why, front.drain_delay);
        }
        let (began, timeout) = (Instant::now(), front.drain_timeout);
        info!(timeout_ms = timeout.as_millis() as u64, "draining");
        let last_resort = self.application.as_ref().map(|one| one.drain(timeout));
        let (why, in_time) = self.drain(why, began + timeout, signals);
        let calls = self.door.as_ref().map_or(0, AtPath::calls_under_way);
        let cleanups = self.cleaning_up();
        if let Some(one) = &self.application {
            one.door.revoke();
        }
        let (figures, loops_sound) = self.loops.join();
        let (cut, streams_sound) = self.streams.join();
        drop(self.opener); // it is not asked any more
        self.admin_listeners.give_up(why);
        if let Some(admin) = self.admin {
            admin.end(signals);
        }
        let of_front = self.door.is_none().then_some(&figures);
        let cut = Cut::of(&figures, calls + cut, cleanups);
        end::summarise(
            of_front,
            (application, cleanups),
            self.access.as_ref(),
            logs,
            began.elapsed(),
        );
        if let Some(last_resort) = last_resort {
            last_resort.settle();
        }
        Ending {
            recycle: why == End::Recycle,
            sound: loops_sound && streams_sound,
            in_time,
            cut,
        }
        .status()
    }

    /// Takes nothing new, and waits until what has begun has ended; at the deadline, or at a second signal,
    /// cuts it. Why the server ends after all, and whether nothing was cut.
    fn drain(&mut self, mut why: End, deadline: Instant, signals: &Signals) -> (End, bool) {
        if let (Some(door), Some(served)) = (&mut self.door, &self.application) {
            // In this order: the next instance may have the path before clients are told to look for it
            // there.
            door.give_up();
            if why == End::HandedOver && !self.handover.wait_until_it_has_the_path(signals) {
                error!(
                    "the new instance has not taken the path of the door: this one is to be started anew"
                );
                why = End::Recycle;
            }
            served.door.revoke();
        }
        // The streams end what has begun whatever the reason is: a connection of theirs belongs to one call.
        self.streams.tell(Order::Drain);
        self.listeners.give_up(why);
        self.loops.drain(why);
        let wait = || signals.wait_for(deadline, || self.has_ended());
        let mut in_time = wait();
        let is_ordinary = why != End::HandedOver || self.door.is_some();
        if !in_time && !is_ordinary && Instant::now() < deadline {
            // The first signal to end asks for an ordinary drain.
            self.loops.drain(End::Told);
            in_time = wait();
        }
        if !in_time {
            self.loops.stop();
            self.streams.tell(Order::Stop);
        }
        (why, in_time)
    }

    fn has_ended(&self) -> bool {
        let has_calls = self.door.as_ref().is_some_and(AtPath::has_calls);
        let has_ended = self.loops.have_ended() && self.streams.have_ended() && !has_calls;
        has_ended && self.cleaning_up() == 0
    }

    /// Calls that are answered, and have not ended.
    fn cleaning_up(&self) -> u64 {
        let served = self.application.as_ref();
        served.map_or(0, |one| u64::from(one.application.cleaning_up()))
    }
}
