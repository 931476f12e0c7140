//! The flags of a front end as what it and the logs are asked for: plain values, that know no flags.

use super::front::{AccessLogSetting, ForwardedSetting, FrontSettings, LogSetting, ProxySetting};
use std::num::NonZeroU32;
use transom_front::{Allowance, Proxying, Rates, Sizes, Timeouts};
use transom_http::peer::forwarded::Field;
use transom_log::LogFormat;
use transom_log::access::AccessStyle;
use transom_net::ListenOptions;

impl From<ForwardedSetting> for Option<Field> {
    fn from(setting: ForwardedSetting) -> Self {
        match setting {
            ForwardedSetting::Off => None,
            ForwardedSetting::Forwarded => Some(Field::Forwarded),
            ForwardedSetting::XForwardedFor => Some(Field::XForwardedFor),
        }
    }
}

impl From<LogSetting> for LogFormat {
    fn from(setting: LogSetting) -> Self {
        match setting {
            LogSetting::Auto => LogFormat::Auto,
            LogSetting::Human => LogFormat::Human,
            LogSetting::Json => LogFormat::Json,
        }
    }
}

impl FrontSettings {
    /// Whether requests are logged, and how.
    pub(crate) fn access_style(&self) -> Option<AccessStyle> {
        match self.access_log {
            AccessLogSetting::Off => None,
            AccessLogSetting::Combined => Some(AccessStyle::Combined),
            AccessLogSetting::Json => Some(AccessStyle::Json),
        }
    }

    /// The sizes of a loop.
    pub(crate) fn sizes(&self) -> Sizes {
        Sizes {
            loops: self.loops(),
            connections: self.connections_per_loop(),
            partial_heads: self.partial_heads.get(),
            head_limit: self.head_limit.get(),
            sockets: self.listen_options(),
        }
    }

    /// What requests and connections may take.
    pub(crate) fn allowance(&self) -> Allowance {
        Allowance {
            connections_per_address: self.connections_per_address.map(NonZeroU32::get),
            requests_per_connection: self.requests_per_connection.get(),
            body_limit: self.body_limit.get() as u64,
            timeouts: self.timeouts(),
            rates: Rates {
                body: self.body_rate.get() as u64,
                write: self.write_rate.get() as u64,
            },
            proxying: Proxying {
                required: self.proxy_protocol == ProxySetting::Require,
                header_limit: self.proxy_header_limit.get(),
                forwarded: self.forwarded.into(),
                trust: self.trust.clone().into(),
            },
        }
    }

    /// How long things may take.
    pub(crate) fn timeouts(&self) -> Timeouts {
        Timeouts {
            header: self.header_timeout,
            body: self.body_timeout,
            write: self.write_timeout,
            idle: self.idle_timeout,
            queue: self.queue_timeout,
            deadline: self.deadline(),
        }
    }

    /// What the sockets of a listener are like.
    pub(crate) fn listen_options(&self) -> ListenOptions {
        ListenOptions {
            backlog: self.backlog.get(),
            receive_buffer: self.receive_buffer.get(),
            send_buffer: self.send_buffer.get(),
            only_ipv6: self.ipv6_only,
        }
    }
}
