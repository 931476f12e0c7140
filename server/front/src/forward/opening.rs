//! How a forward finds its door: it opens that by itself, and says how that went. It serves no other door
//! that would have to wait meanwhile, as a loop does, which leaves that to a thread of its own.

use crate::entrance::Source;
use crate::opener::{HANGS, REMOTE_SLOTS_MAX, REMOTE_SPARES_MAX};
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use transom_arena::attaching;
use transom_doors::{AsyncClient, OpenError, OpenOptions, PeerState, Words, now_ns};
use transom_wire::own_log::{error, info, warn};

/// How often a door that is away is looked for.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// How often a door that is there and lets no client in is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// The same for one whose application is not of the right kind.
const UNFIT_AGAIN: Duration = Duration::from_secs(1);

/// Why a door cannot take what is forwarded, if it cannot.
pub(super) type Objection = fn(&AsyncClient) -> Option<&'static str>;

/// What was last said of the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    There,
    Away,
    Unfit,
}

/// The door of a forward, where it is looked for.
pub(super) struct Opening {
    /// The forward, for the log.
    pub(super) forward: String,
    pub(super) path: PathBuf,
    options: OpenOptions,
    objection: Objection,
    said: Said,
    /// The instance that serves has said that it does not know such calls, and this has been said.
    said_misled: bool,
}

impl Opening {
    pub(super) fn new(
        forward: String,
        path: PathBuf,
        options: OpenOptions,
        objection: Objection,
    ) -> Self {
        Opening {
            forward,
            path,
            options,
            objection,
            said: Said::There,
            said_misled: false,
        }
    }

    fn say_away(&mut self, error: &OpenError) {
        if std::mem::replace(&mut self.said, Said::Away) == Said::Away {
            return;
        }
        match error {
            OpenError::Stranger { .. } => warn!(
                forward = self.forward, %error,
                "the door gets nothing: end the process that serves it, or name its user with --door-owner, or `owner` in the file"
            ),
            _ => warn!(forward = self.forward, %error, "the door is away"),
        }
    }

    /// Says that the application does not know the calls that it gets.
    pub(super) fn say_misled(&mut self) {
        if !std::mem::replace(&mut self.said_misled, true) {
            error!(
                forward = self.forward,
                door = %self.path.display(),
                "the application behind the door does not know what to do with what is forwarded to it: name another door, or change the scheme"
            );
        }
    }
}

impl Source<AsyncClient> for Opening {
    fn ask(&mut self, asked_ns: u64) -> Result<AsyncClient, u64> {
        let mut client =
            attaching(|| AsyncClient::open(&self.path, &self.options)).map_err(|error| {
                let pause = match error {
                    OpenError::Refused { .. } => ASK_AGAIN,
                    OpenError::TimedOut { .. } => HANGS,
                    _ => LOOK_AGAIN,
                };
                self.say_away(&error);
                // After the attempt, which may have taken its time.
                now_ns() + pause.as_nanos() as u64
            })?;
        if client.check_peer() != PeerState::Serving {
            return Err(asked_ns + LOOK_AGAIN.as_nanos() as u64);
        }
        let geometry = client.geometry();
        let slots_fit = geometry.slots <= REMOTE_SLOTS_MAX && geometry.spares <= REMOTE_SPARES_MAX;
        let too_many = (!slots_fit).then_some("the door has more slots than were asked for");
        if let Some(why) = (self.objection)(&client).or(too_many) {
            if std::mem::replace(&mut self.said, Said::Unfit) != Said::Unfit {
                error!(forward = self.forward, door = %self.path.display(), "{why}");
            }
            return Err(asked_ns + UNFIT_AGAIN.as_nanos() as u64);
        }
        Ok(client)
    }

    fn has_come(&mut self, client: &AsyncClient) {
        self.said_misled = false;
        let server = client.door().map(|door| door.server);
        let (pid, uid) = server.map_or((0, 0), |server| (server.pid, server.uid));
        let (forward, door) = (&self.forward, self.path.display());
        if std::mem::replace(&mut self.said, Said::There) == Said::There {
            info!(forward, %door, pid, uid, "the door is open");
        } else {
            info!(forward, %door, pid, uid, "the door is back");
        }
    }

    fn is_unwatched(&mut self, error: &io::Error) -> u64 {
        error!(forward = self.forward, error = %Words(error), "cannot wait for the door: raise `ulimit -n`");
        now_ns() + LOOK_AGAIN.as_nanos() as u64
    }
}
