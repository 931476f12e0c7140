//! The lines above all panes: whether the server is healthy, and how much it does.

use super::model::Model;
use super::parts::{ALARM, STRONG, gauge, places};
use super::units::{duration, rate, size, time};
use ratatui::style::{Color, Style};
use ratatui::text::{Line, Span};
use transom::snapshot::{Front, Snapshot};
use transom_plot::grouped;

/// All of its lines.
pub fn lines(model: &Model, snapshot: &Snapshot) -> Vec<Line<'static>> {
    let state = match (&model.trouble, snapshot.ready, snapshot.draining) {
        (Some(_), ..) => Span::styled("NO ANSWER", ALARM),
        (None, true, _) => Span::styled("ready", STRONG.fg(Color::Green)),
        (None, false, true) => Span::styled("draining", STRONG.fg(Color::Yellow)),
        (None, false, false) => Span::styled(snapshot.why.clone(), ALARM),
    };
    let mut lines = vec![Line::from(vec![
        Span::styled("Transom ", STRONG),
        Span::raw(format!("{}  ", snapshot.version)),
        state,
        Span::raw(format!(
            "  pid {}  up {}  {}",
            snapshot.pid,
            duration(snapshot.uptime_ms / 1000),
            model.address
        )),
    ])];
    if let Some(trouble) = &model.trouble {
        lines.push(Line::styled(
            format!("{trouble}: this is what it was"),
            ALARM,
        ));
    }
    lines.push(rates_line(model, snapshot));
    if let Some(front) = &snapshot.front {
        lines.extend([times_line(front), front_line(front)]);
    }
    let resident = snapshot.resident.unwrap_or(0);
    let ours: u64 = places(snapshot, &["region", "process"]);
    let mut memory = vec![
        Span::raw("memory "),
        Span::styled(size(resident), STRONG),
        Span::raw(format!(" of {} ", size(ours))),
        gauge(resident, ours),
    ];
    if let Some(it) = &snapshot.application {
        memory.extend([
            Span::raw("  shared heap "),
            Span::styled(size(it.shared_heap), STRONG),
            Span::raw(format!(" of {} ", size(it.shared_heap_size))),
            gauge(it.shared_heap, it.shared_heap_size),
        ]);
    }
    lines.extend([Line::from(memory), Line::default()]);
    lines
}

fn rates_line(model: &Model, snapshot: &Snapshot) -> Line<'static> {
    let rates = &model.rates;
    let mut spans = Vec::new();
    let mut item = |label: &'static str, text: String, style: Style| {
        let gap = if spans.is_empty() { "" } else { "  " };
        spans.extend([
            Span::raw(gap),
            Span::raw(label),
            Span::raw(" "),
            Span::styled(text, style),
        ]);
    };
    item(
        "requests/s",
        rate(rates.per_second(|it| it.requests)),
        STRONG,
    );
    let alarm = |per_second: Option<f64>| {
        if per_second > Some(0.0) {
            ALARM
        } else {
            STRONG
        }
    };
    if snapshot.application.is_some() {
        let exhausted = rates.per_second(|it| it.exhausted);
        item("exhausted/s", rate(exhausted), alarm(exhausted));
    }
    if snapshot.front.is_some() {
        item(
            "4xx/s",
            rate(rates.per_second(|it| it.client_errors)),
            STRONG,
        );
        let errors = rates.per_second(|it| it.server_errors);
        item("5xx/s", rate(errors), alarm(errors));
        let rejected = rates.per_second(|it| it.rejected);
        item("503/s", rate(rejected), alarm(rejected));
    }
    Line::from(spans)
}

fn front_line(front: &Front) -> Line<'static> {
    Line::from(vec![
        Span::raw("connections "),
        Span::styled(grouped(front.connections), STRONG),
        Span::raw(format!(" of {} ", grouped(front.connections_max))),
        gauge(front.connections, front.connections_max),
        Span::raw("  slots "),
        Span::styled(grouped(front.slots_busy), STRONG),
        Span::raw(format!(" of {} ", grouped(front.slots))),
        gauge(front.slots_busy, front.slots),
    ])
}

fn times_line(front: &Front) -> Line<'static> {
    let taken = |us| {
        if front.requests == 0 {
            "-".to_owned()
        } else {
            time(us)
        }
    };
    let waiting = if front.waiting > 0 { ALARM } else { STRONG };
    Line::from(vec![
        Span::raw("request time p50 "),
        Span::styled(taken(front.request_us.p50), STRONG),
        Span::raw("  p99 "),
        Span::styled(taken(front.request_us.p99), STRONG),
        Span::raw("  most "),
        Span::styled(taken(front.request_us.max), STRONG),
        Span::raw("  waiting for a slot "),
        Span::styled(grouped(front.waiting), waiting),
    ])
}
