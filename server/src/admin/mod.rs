//! What `--admin` serves: metrics, health, and a page that shows the buckets live.
//!
//! It is an application like any other, with handlers that run in a bucket, behind a door of its own: one
//! bucket, a few slots and a small loop are kept aside for it, so that it answers when everything else is
//! taken. The names are in `docs/metrics.md`.

pub mod document;
mod exposition;
mod metrics;
pub(crate) mod process;
mod snapshot;
mod view;

use std::net::{Ipv4Addr, Ipv6Addr};
use transom_platform::{Request, Response, Router};

pub(crate) use view::{Admin, FrontView, RecycleView, Told};

const PAGE: &str = include_str!("page.html");

/// What the page may do: nothing but what is in it, and ask its own server.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                           connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'";

/// Prometheus's text format.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

impl Admin {
    /// The handlers. None of them holds a lock, or anything that must be dropped, across an allocation.
    pub(crate) fn router(&'static self) -> Router {
        Router::new()
            .get("/", self.guarded(|_| page()))
            .get("/metrics", self.guarded(Self::metrics))
            .get("/buckets.json", self.guarded(Self::snapshot))
            .get("/health", self.guarded(Self::health))
            .get("/ready", self.guarded(Self::ready))
    }

    /// Answers only requests that mean this server, and not a web page's name that resolves to it (DNS
    /// rebinding).
    fn guarded(
        &'static self,
        answer: fn(&'static Self) -> Response<'static>,
    ) -> impl Fn(&Request) -> Response<'static> {
        move |request| {
            // No browser comes over a Unix socket.
            let is_meant = request.peer().is_none()
                || request
                    .header("host")
                    .is_none_or(|host| means_us(host, &self.hosts));
            match is_meant {
                true => answer(self),
                false => fresh(
                    Response::text(
                        "Misdirected Request: ask by address, or name this host with --admin-host\n",
                    )
                    .with_status(421),
                ),
            }
        }
    }

    fn ready(&'static self) -> Response<'static> {
        fresh(match self.why_not_ready() {
            None => Response::text("ready\n"),
            Some("draining") => Response::text("draining\n").with_status(503),
            Some("buckets-lost") => Response::text("buckets-lost\n").with_status(503),
            Some("no-thread") => Response::text("no-thread\n").with_status(503),
            Some(_) => Response::text("no-bucket\n").with_status(503),
        })
    }

    /// A process that drains is healthy: it does what it should.
    fn health(&'static self) -> Response<'static> {
        fresh(match self.has_lost_all() && !self.is_draining() {
            false => Response::text("ok\n"),
            true => Response::text("buckets-lost\n").with_status(503),
        })
    }

    fn metrics(&'static self) -> Response<'static> {
        let text = Response::stream(|out| metrics::write(self, out));
        fresh(text.header("Content-Type", METRICS_TYPE))
    }

    fn snapshot(&'static self) -> Response<'static> {
        let json = Response::stream(|out| snapshot::write(self, out));
        fresh(json.header("Content-Type", "application/json"))
    }
}

/// Whether a `Host` is an address, a name that only a local network resolves, or one of `hosts`.
fn means_us(host: &str, hosts: &[String]) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => {
            return rest
                .split(']')
                .next()
                .is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok());
        }
        None => host.split(':').next().unwrap_or(host),
    };
    name.parse::<Ipv4Addr>().is_ok()
        || !name.contains('.')
        || hosts.iter().any(|known| {
            let [known, name] = [known, name].map(|name| name.strip_suffix('.').unwrap_or(name));
            known.eq_ignore_ascii_case(name)
        })
}

fn page() -> Response<'static> {
    Response::text(PAGE)
        .header("Content-Type", "text/html; charset=utf-8")
        .header("Content-Security-Policy", PAGE_POLICY)
        .header("X-Content-Type-Options", "nosniff")
        .header("Cache-Control", "no-cache")
}

/// What is true now only.
fn fresh(response: Response<'_>) -> Response<'_> {
    response.header("Cache-Control", "no-store")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_that_a_web_page_could_have_are_not_ours() {
        let hosts = ["metrics.example.org".to_owned()];
        for (host, is_ours) in [
            ("127.0.0.1:9180", true),
            ("10.0.0.7", true),
            ("[::1]:9180", true),
            ("[::1]", true),
            ("localhost:9180", true),
            ("transom", true),
            ("", true),
            ("metrics.example.org", true),
            ("Metrics.Example.Org:9180", true),
            ("metrics.example.org.", true),
            ("metrics.example.org.:9180", true),
            ("metrics.example.org..", false),
            ("example.org", false),
            ("evil.example:9180", false),
            ("127.0.0.1.evil.example", false),
            ("metrics.example.org.evil.example", false),
            ("localhost.", false),
            ("[::1", true),
            ("[evil.example]", false),
        ] {
            assert_eq!(means_us(host, &hosts), is_ours, "{host}");
        }
    }
}
