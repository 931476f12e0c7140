//! What a configuration says once all of it is known to hold together.

use super::problem::Place;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use transom_doors::DoorOwner;
use transom_net::ListenAddress;
use transom_wire::Method;

/// What a front end is to do. Having one says that it holds together: every address is listened on once,
/// every route leads to one door.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// Flags of the front end that the file sets.
    pub settings: Vec<Setting>,
    /// Where it listens, and which doors answer there. At least one.
    pub forwards: Vec<Forward>,
    /// Doors of which it is said who may serve them.
    pub owners: BTreeMap<PathBuf, DoorOwner>,
}

/// A flag of the front end, set by the file. [`super::Keys::check`] has accepted it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The flag's name, without dashes.
    pub name: String,
    /// What would be written behind it.
    pub value: String,
    /// Where it is set.
    pub place: Place,
}

/// One address, and what happens to those who connect to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// Where to listen.
    pub address: ListenAddress,
    /// What is spoken there, and who answers.
    pub target: Target,
    /// Where it is written, for errors that only show later, such as a port in use.
    pub place: Place,
}

/// What a forward does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// HTTP requests: the longest prefix of the path wins, and of equal ones the one with the method. In that
    /// order here.
    Http(Vec<Route>),
    /// Connections: their descriptors go through the door.
    Tcp(PathBuf),
    /// Datagrams: one in, one out.
    Udp(PathBuf),
}

/// Some of the requests of an HTTP forward.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Only requests with this method; never [`Method::Other`].
    pub method: Option<Method>,
    /// Requests whose decoded path has this prefix, whole segments of it. Starts with a slash.
    pub path: String,
    /// The door that answers them: an absolute path.
    pub door: PathBuf,
}

impl Route {
    /// The method as it stands in a request.
    #[must_use]
    pub fn method_name(&self) -> Option<&'static str> {
        self.method.map(method_name)
    }
}

impl Forward {
    /// Whether requests are forwarded, and not connections or datagrams.
    #[must_use]
    pub fn is_http(&self) -> bool {
        matches!(self.target, Target::Http(_))
    }
}

impl fmt::Display for Forward {
    /// As in `listen`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.target {
            Target::Http(_) => "http",
            Target::Tcp(_) => "tcp",
            Target::Udp(_) => "udp",
        };
        write!(f, "{scheme}://{}", self.address)
    }
}

/// A method as it stands in a request.
pub(super) const fn method_name(method: Method) -> &'static str {
    match method {
        Method::Get => "GET",
        Method::Head => "HEAD",
        Method::Post => "POST",
        Method::Put => "PUT",
        Method::Delete => "DELETE",
        Method::Patch => "PATCH",
        Method::Options => "OPTIONS",
        Method::Other => "another",
    }
}
