//! What is behind an application's door: handlers of one kind.

use crate::connection::ConnectionHandler;
use crate::datagram::DatagramHandler;
use crate::router::Routes;
use std::fmt;

/// The handlers of an application, all of one kind: a frame of another kind is refused.
pub enum Service {
    /// HTTP requests.
    Requests(Routes),
    /// Connections: one descriptor comes with each call.
    Connections(Box<dyn ConnectionHandler>),
    /// Datagrams.
    Datagrams(Box<dyn DatagramHandler>),
}

impl Service {
    /// What the log calls a call before, or without, a route.
    pub(crate) fn no_route(&self) -> &'static str {
        match self {
            Service::Requests(_) => "(no route)",
            Service::Connections(_) => "(connection)",
            Service::Datagrams(_) => "(datagram)",
        }
    }

    /// Descriptors that come with each call.
    #[must_use]
    pub fn descriptors(&self) -> u32 {
        match self {
            Service::Connections(_) => 1,
            Service::Requests(_) | Service::Datagrams(_) => 0,
        }
    }
}

impl From<Routes> for Service {
    fn from(routes: Routes) -> Self {
        Service::Requests(routes)
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Service::Requests(_) => "Requests",
            Service::Connections(_) => "Connections",
            Service::Datagrams(_) => "Datagrams",
        })
    }
}
