//! The panes that are tables: exhausted requests, routes, the memory equation.

use super::parts::{ALARM, DIM, STRONG, gauge, places, title};
use super::units::{duration, exact, percent, size, time};
use ratatui::Frame;
use ratatui::layout::Constraint::{self, Fill, Length};
use ratatui::layout::{Alignment, Rect};
use ratatui::style::Style;
use ratatui::text::Line;
use ratatui::widgets::{Row, Table};
use transom::snapshot::{Application, Snapshot};
use transom_plot::grouped;

/// A column: its name, whether it has numbers, which stand at the right, and its width.
type Column = (&'static str, bool, Constraint);

fn table<'r>(
    frame: &mut Frame,
    area: Rect,
    columns: &[Column],
    rows: impl Iterator<Item = Row<'r>>,
) {
    let head = columns.iter().map(|(name, right, _)| cell(*name, *right));
    let head = Row::new(head.collect::<Vec<_>>()).style(DIM);
    let widths = columns.iter().map(|(.., width)| *width);
    frame.render_widget(Table::new(rows, widths).header(head), area);
}

fn cell(text: impl Into<String>, right: bool) -> Line<'static> {
    let side = if right {
        Alignment::Right
    } else {
        Alignment::Left
    };
    Line::raw(text.into()).alignment(side)
}

/// A text from outside: codes that would move the cursor or colour the screen are shown, not obeyed.
fn plain(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        })
        .collect()
}

/// Draws the last exhausted requests.
pub fn exhausted(frame: &mut Frame, area: Rect, application: &Application, now_ms: u64) {
    let all = application.culprits.first().map_or(0, |it| it.n);
    let beside = if all == 0 {
        "none".to_owned()
    } else {
        format!("{} in all", grouped(all))
    };
    let rest = title(frame, area, "EXHAUSTED", Line::raw(beside));
    if all == 0 {
        return;
    }
    // Exact where there is room.
    let bytes = if area.width < 100 { size } else { grouped };
    let rows = application.culprits.iter().map(|it| {
        let ago_ms = now_ms.saturating_sub(it.unix_ms);
        let asked = if it.asked == 0 {
            "-".to_owned()
        } else {
            bytes(it.asked)
        };
        let row = Row::new(vec![
            cell(duration(ago_ms / 1000), true),
            cell(if it.parked { "X" } else { "" }, false),
            cell(plain(&it.route), false),
            cell(plain(&it.reason), false),
            cell(asked, true),
            cell(bytes(it.used), true),
            cell(bytes(it.size), true),
            cell(plain(&it.raise), false),
        ]);
        // New, for as long as the page has it so.
        if ago_ms < 8000 { row.style(ALARM) } else { row }
    });
    let digits = Length(if area.width < 100 { 7 } else { 13 });
    let columns = [
        ("ago", true, Length(11)),
        ("", false, Length(1)),
        ("route", false, Fill(1)),
        ("what", false, Length(11)),
        ("asked", true, digits),
        ("used", true, digits),
        ("of", true, digits),
        ("raise", false, Length(13)),
    ];
    table(frame, rest, &columns, rows);
}

/// Draws what each route needs.
pub fn routes(frame: &mut Frame, area: Rect, application: &Application) {
    let beside = format!(
        "arena bytes of a request, of {}; time in its bucket",
        exact(application.arena_size)
    );
    let rest = title(frame, area, "ROUTES", Line::raw(beside));
    let rows = application.routes.iter().map(|it| {
        let style = |bad: bool| if bad { ALARM } else { Style::new() };
        let called = |text: String| if it.calls == 0 { "-".to_owned() } else { text };
        Row::new(vec![
            cell(plain(&it.route), false),
            cell(grouped(it.calls), true),
            cell(grouped(it.exhausted), true).style(style(it.exhausted > 0)),
            cell(called(size(it.p50)), true),
            cell(called(size(it.p99)), true),
            cell(called(size(it.p9999)), true),
            cell(called(size(it.max)), true).style(style(it.max > application.arena_size)),
            cell(called(time(it.call_us.p50)), true),
            cell(called(time(it.call_us.p99)), true),
        ])
    });
    let columns = [
        ("route", false, Fill(1)),
        ("calls", true, Length(11)),
        ("exhausted", true, Length(9)),
        ("p50", true, Length(7)),
        ("p99", true, Length(7)),
        ("p99.99", true, Length(7)),
        ("most", true, Length(7)),
        ("p50", true, Length(6)),
        ("p99", true, Length(6)),
    ];
    table(frame, rest, &columns, rows);
}

/// Draws the memory equation.
pub fn equation(frame: &mut Frame, area: Rect, snapshot: &Snapshot) {
    let resident = snapshot.resident.unwrap_or(0);
    let ours = places(snapshot, &["region", "process"]);
    let beside = format!(
        "resident {}, {} of region and process ({})",
        grouped(resident),
        percent(resident, ours),
        grouped(ours)
    );
    let rest = title(frame, area, "EQUATION", Line::raw(beside));
    let terms = snapshot.equation.iter().map(|it| {
        Row::new(vec![
            cell(it.term.as_str(), false),
            cell(format!("{} × {}", grouped(it.count), exact(it.unit)), true),
            cell(grouped(it.bytes), true),
            Line::from(gauge(it.bytes, snapshot.bound)),
            cell(it.place.as_str(), false),
            cell(it.flags.as_str(), false),
        ])
    });
    let sum = Row::new(vec![
        cell("sum", false),
        cell("", true),
        cell(grouped(snapshot.bound), true),
    ])
    .style(STRONG);
    let columns = [
        ("term", false, Length(20)),
        ("count × unit", true, Length(15)),
        ("bytes", true, Length(13)),
        // The flags are worth more than a picture of the bytes.
        ("", false, Length(if area.width < 100 { 0 } else { 10 })),
        ("place", false, Length(7)),
        ("flags", false, Fill(1)),
    ];
    table(frame, rest, &columns, terms.chain([sum]));
}
