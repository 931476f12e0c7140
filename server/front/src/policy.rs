//! What a loop goes by: limits, times and routes, which may change while it serves, and its orders.

use crate::options::{Allowance, Sizes};
use crate::orders::{Order, Orders};
use crate::routes::RouteTable;
use crate::rules::Limits;
use std::sync::Arc;
use transom_http::HeadLimits;

/// What a loop goes by.
pub(crate) struct Policy {
    pub heads: HeadLimits,
    /// What may change while it serves.
    pub limits: Limits,
    /// By forward: where its requests go.
    pub forwards: Vec<Arc<RouteTable>>,
    /// Loops that share what is behind the doors.
    pub loops: u32,
    pub orders: Arc<Orders>,
    pub order: Order,
    /// How often there were new rules when it last looked.
    pub edition: u32,
}

impl Policy {
    /// As it is at the start.
    pub(crate) fn new(
        sizes: &Sizes,
        allowance: &Allowance,
        forwards: Vec<Arc<RouteTable>>,
        orders: Arc<Orders>,
    ) -> Self {
        Policy {
            heads: HeadLimits {
                head_max: sizes.head_limit,
                target_max: sizes.head_limit / 2,
                ..HeadLimits::default()
            },
            limits: Limits::new(allowance),
            forwards,
            loops: sizes.loops,
            orders,
            order: Order::Serve,
            edition: 0,
        }
    }
}
