//! What `transom top` draws, from what it knows.

use super::rates::Rates;
use super::units::{duration, exact, number, percent, rate, size, time};
use crate::snapshot::{Application, Cell, Front, Snapshot};
use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Row, Table};

/// A part of the screen that a key hides and shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pane {
    /// The grid.
    Buckets,
    /// The last exhausted requests.
    Exhausted,
    /// What each route needs.
    Routes,
    /// The memory equation.
    Equation,
}

impl Pane {
    /// From above.
    pub const ALL: [Pane; 4] = [Pane::Buckets, Pane::Exhausted, Pane::Routes, Pane::Equation];
}

/// What is known of the server, and what of it is to be seen.
#[derive(Debug)]
pub struct Model {
    /// Who is asked.
    pub address: String,
    /// The last snapshot.
    pub snapshot: Option<Snapshot>,
    /// Of the last second.
    pub rates: Rates,
    /// Why there is no newer snapshot.
    pub trouble: Option<String>,
    /// By [`Pane::ALL`].
    pub shown: [bool; 4],
    /// Keys are explained in the last line.
    pub keys: bool,
}

const ALARM: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
const DIM: Style = Style::new().add_modifier(Modifier::DIM);
const STRONG: Style = Style::new().add_modifier(Modifier::BOLD);

/// The lines that all that is shown would take.
#[must_use]
pub fn height(model: &Model, width: u16) -> u16 {
    let Some(snapshot) = &model.snapshot else {
        return 3;
    };
    let panes = wanted(model, snapshot, width).iter().sum::<u16>();
    top_lines(model, snapshot).len() as u16 + panes + u16::from(model.keys)
}

/// Draws all of it, from the top; what does not fit is cut at the end of its pane.
pub fn draw(frame: &mut Frame, model: &Model) {
    let [mut rest, keys] = Layout::vertical([
        Constraint::Fill(1),
        Constraint::Length(u16::from(model.keys)),
    ])
    .areas(frame.area());
    if model.keys {
        let text = "q quit   b buckets   x exhausted   r routes   e equation";
        frame.render_widget(Line::styled(text, DIM), keys);
    }
    let Some(snapshot) = &model.snapshot else {
        let text = model
            .trouble
            .clone()
            .unwrap_or_else(|| format!("Asking {} …", model.address));
        frame.render_widget(
            Paragraph::new(text).wrap(ratatui::widgets::Wrap { trim: true }),
            rest,
        );
        return;
    };
    let lines = top_lines(model, snapshot);
    let top;
    [top, rest] =
        Layout::vertical([Constraint::Length(lines.len() as u16), Constraint::Fill(1)]).areas(rest);
    frame.render_widget(Paragraph::new(lines), top);
    let heights = share(wanted(model, snapshot, rest.width), rest.height);
    for (pane, height) in Pane::ALL.into_iter().zip(heights) {
        let area;
        [area, rest] =
            Layout::vertical([Constraint::Length(height), Constraint::Fill(1)]).areas(rest);
        if height == 0 {
            continue;
        }
        match (&snapshot.application, pane) {
            (_, Pane::Equation) => equation(frame, area, snapshot),
            (Some(it), Pane::Buckets) => buckets(frame, area, it),
            (Some(it), Pane::Exhausted) => exhausted(frame, area, it, snapshot.unix_ms),
            (Some(it), Pane::Routes) => routes(frame, area, it),
            (None, Pane::Buckets) => frame.render_widget(
                Line::styled(
                    "No buckets in this process: its applications are others.",
                    DIM,
                ),
                area,
            ),
            (None, _) => {}
        }
    }
}

/// Lines of each pane, if there is room: a title, what is in it, and an empty line.
fn wanted(model: &Model, snapshot: &Snapshot, width: u16) -> [u16; 4] {
    let lines = |n: usize| u16::try_from(n).unwrap_or(u16::MAX / 8).min(u16::MAX / 8);
    let of = |pane| match (&snapshot.application, pane) {
        (_, Pane::Equation) => lines(snapshot.equation.len() + 4),
        (Some(it), Pane::Buckets) => Grid::rows_wanted(it.cells.len(), width) + 2,
        (Some(it), Pane::Exhausted) if it.culprits.is_empty() => 2,
        (Some(it), Pane::Exhausted) => lines(it.culprits.len() + 3),
        (Some(it), Pane::Routes) => lines(it.routes.len() + 3),
        (None, Pane::Buckets) => 2,
        (None, _) => 0,
    };
    let mut wanted = Pane::ALL.map(of);
    for (lines, shown) in wanted.iter_mut().zip(model.shown) {
        *lines *= u16::from(shown);
    }
    wanted
}

/// What each pane gets of so many lines: all of them a few, then all they want, from above.
fn share(wanted: [u16; 4], mut lines: u16) -> [u16; 4] {
    let mut got = [0; 4];
    for most in [5, u16::MAX] {
        for (got, wanted) in got.iter_mut().zip(wanted) {
            let more = (wanted.min(most) - *got).min(lines);
            *got += more;
            lines -= more;
        }
    }
    got
}

fn top_lines(model: &Model, snapshot: &Snapshot) -> Vec<Line<'static>> {
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
    let ours: u64 = places(snapshot, &["region", "process"]);
    let mut memory = vec![
        Span::raw("memory "),
        Span::styled(size(snapshot.resident), STRONG),
        Span::raw(format!(" of {} ", size(ours))),
        gauge(snapshot.resident, ours),
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
        Span::styled(number(front.connections), STRONG),
        Span::raw(format!(" of {} ", number(front.connections_max))),
        gauge(front.connections, front.connections_max),
        Span::raw("  slots "),
        Span::styled(number(front.slots_busy), STRONG),
        Span::raw(format!(" of {} ", number(front.slots))),
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
        Span::styled(number(front.waiting), waiting),
    ])
}

/// Eight characters, filled from the left in eighths.
fn gauge(part: u64, of: u64) -> Span<'static> {
    const WIDTH: usize = 8;
    const EIGHTHS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    let ratio = if of == 0 {
        0.0
    } else {
        (part as f64 / of as f64).min(1.0)
    };
    let eighths = (ratio * (WIDTH * 8) as f64).round() as usize;
    let text: String = (0..WIDTH)
        .map(|index| match eighths.saturating_sub(index * 8) {
            8.. => '█',
            some => EIGHTHS[some],
        })
        .collect();
    let colour = if ratio >= 1.0 {
        Color::Red
    } else {
        Color::Blue
    };
    Span::styled(format!("▕{text}▏"), Style::new().fg(colour))
}

/// A title with what is said beside it; returns what is left below.
fn title(frame: &mut Frame, area: Rect, title: &'static str, beside: Line<'static>) -> Rect {
    let [line, rest] = Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(area);
    let mut spans = vec![Span::styled(title, STRONG), Span::raw("  ")];
    spans.extend(beside.spans);
    frame.render_widget(Line::from(spans), line);
    rest
}

/// What a state looks like: a letter and a colour. The letters of what takes part are none: their level says
/// it.
fn look(state: &str) -> (char, Style) {
    match state {
        "unbound" => ('·', DIM),
        "idle" => (' ', Style::new().fg(Color::Gray)),
        "busy" => ('b', STRONG.fg(Color::Cyan)),
        "resting" => ('R', STRONG.fg(Color::Yellow)),
        "parked" => ('X', ALARM),
        _ => ('?', STRONG),
    }
}

/// What a bucket looks like that is lost, although its state does not say so.
const LOST: (char, Style) = ('L', ALARM);

/// How buckets are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// Places in a row.
    pub columns: usize,
    /// Characters of a place.
    pub width: usize,
    /// Buckets that a place stands for.
    pub each: usize,
}

impl Grid {
    /// The widest places that show all buckets in so much room: a letter, a level and a gap; the first two;
    /// one of them; or that for several buckets.
    #[must_use]
    pub fn new(buckets: usize, columns: usize, rows: usize) -> Self {
        let (columns, rows) = (columns.max(1), rows.max(1));
        for width in [3, 2, 1] {
            let columns = (columns / width).max(1);
            if buckets <= columns * rows {
                return Grid {
                    columns,
                    width,
                    each: 1,
                };
            }
        }
        Grid {
            columns,
            width: 1,
            each: buckets.div_ceil(columns * rows),
        }
    }

    /// Rows that make a good picture.
    fn rows_wanted(buckets: usize, columns: u16) -> u16 {
        let rows = buckets.div_ceil((usize::from(columns) / 3).max(1));
        rows.clamp(1, 8) as u16
    }
}

/// A place of the grid, from a bucket on: of several buckets the state that matters most, and the level of
/// the fullest.
fn place(
    application: &Application,
    first: usize,
    cells: &[Cell],
    width: usize,
) -> Vec<Span<'static>> {
    const LEVELS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    const RANK: [&str; 5] = ["unbound", "idle", "busy", "resting", "parked"];
    let rank = |cell: &Cell| RANK.iter().position(|it| *it == application.state(*cell));
    let state = cells.iter().max_by_key(|cell| rank(cell));
    let by_time = &application.lost.by_time;
    let lost = by_time
        .iter()
        .any(|bucket| (first..first + cells.len()).contains(bucket));
    let (letter, style) = match state.map_or("", |cell| application.state(*cell)) {
        "parked" => look("parked"),
        _ if lost => LOST,
        state => look(state),
    };
    let used = cells.iter().map(|cell| cell.1).max().unwrap_or(0);
    let most = cells.iter().map(|cell| cell.2).max().unwrap_or(0);
    let level = match used {
        0 => 0,
        _ => (used * 8)
            .div_ceil(application.arena_size.max(1))
            .clamp(1, 8) as usize,
    };
    // A bucket that has been full once is underlined in red: the mark of the most ever, as far as letters go.
    let level_style = if most >= application.arena_size {
        style.fg(Color::Red).add_modifier(Modifier::UNDERLINED)
    } else {
        style
    };
    let (unbound, plain) = (letter == '·', letter == ' ' || letter == 'b');
    let level = match level {
        0 if unbound => '·',
        0 => '_',
        some => LEVELS[some],
    };
    if width == 1 {
        let one = if plain { level } else { letter };
        return vec![Span::styled(one.to_string(), level_style)];
    }
    let letter = if unbound { ' ' } else { letter };
    vec![
        Span::styled(letter.to_string(), style),
        Span::styled(level.to_string(), level_style),
        Span::raw(" ".repeat(width - 2)),
    ]
}

fn buckets(frame: &mut Frame, area: Rect, application: &Application) {
    let rows = usize::from(area.height.saturating_sub(2));
    let grid = Grid::new(application.cells.len(), usize::from(area.width), rows);
    let mut beside = format!(
        "{} × {}",
        number(application.buckets),
        exact(application.bucket_size)
    );
    if grid.each > 1 {
        beside += &format!(", {} to a character", grid.each);
    }
    let mut spans = vec![Span::raw(beside + ": ")];
    for (index, state) in application.states.iter().enumerate() {
        let count = application
            .cells
            .iter()
            .filter(|cell| cell.0 == index)
            .count();
        let (letter, style) = look(state);
        let style = if count == 0 { DIM } else { style };
        let key = if letter == ' ' { '_' } else { letter };
        spans.push(Span::styled(
            format!(" {key} {} {state}", number(count as u64)),
            style,
        ));
    }
    let by_time = application.lost.resting + application.lost.overdue;
    if by_time > 0 {
        let text = format!(" {} {} lost by time", LOST.0, number(by_time));
        spans.push(Span::styled(text, LOST.1));
    }
    let rest = title(frame, area, "BUCKETS", Line::from(spans));
    let chunks = application.cells.chunks(grid.each);
    let places: Vec<(usize, &[Cell])> = (0..).step_by(grid.each).zip(chunks).collect();
    let lines: Vec<Line> = places
        .chunks(grid.columns)
        .map(|row| {
            let spans = row
                .iter()
                .flat_map(|(first, it)| place(application, *first, it, grid.width));
            Line::from(spans.collect::<Vec<_>>())
        })
        .collect();
    frame.render_widget(Paragraph::new(lines), rest);
}

/// A heading, at the right where numbers are.
fn heading(names: &[(&'static str, bool)]) -> Row<'static> {
    let cells = names.iter().map(|(name, right)| cell(*name, *right));
    Row::new(cells.collect::<Vec<_>>()).style(DIM)
}

fn cell(text: impl Into<String>, right: bool) -> Line<'static> {
    let side = if right {
        Alignment::Right
    } else {
        Alignment::Left
    };
    Line::raw(text.into()).alignment(side)
}

/// A text from outside: what would move the cursor or colour the screen is shown and not done.
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

fn exhausted(frame: &mut Frame, area: Rect, application: &Application, now_ms: u64) {
    let all = application.culprits.first().map_or(0, |it| it.n);
    let beside = if all == 0 {
        "none".to_owned()
    } else {
        format!("{} in all", number(all))
    };
    let rest = title(frame, area, "EXHAUSTED", Line::raw(beside));
    if all == 0 {
        return;
    }
    // Exact where there is room.
    let bytes = if area.width < 100 { size } else { number };
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
    let digits = if area.width < 100 { 7 } else { 13 };
    let widths = [
        Constraint::Length(11),
        Constraint::Length(1),
        Constraint::Fill(1),
        Constraint::Length(11),
        Constraint::Length(digits),
        Constraint::Length(digits),
        Constraint::Length(digits),
        Constraint::Length(13),
    ];
    let head = heading(&[
        ("ago", true),
        ("", false),
        ("route", false),
        ("what", false),
        ("asked", true),
        ("used", true),
        ("of", true),
        ("raise", false),
    ]);
    frame.render_widget(Table::new(rows, widths).header(head), rest);
}

fn routes(frame: &mut Frame, area: Rect, application: &Application) {
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
            cell(number(it.calls), true),
            cell(number(it.exhausted), true).style(style(it.exhausted > 0)),
            cell(called(size(it.p50)), true),
            cell(called(size(it.p99)), true),
            cell(called(size(it.p9999)), true),
            cell(called(size(it.max)), true).style(style(it.max > application.arena_size)),
            cell(called(time(it.call_us.p50)), true),
            cell(called(time(it.call_us.p99)), true),
        ])
    });
    let widths = [
        Constraint::Fill(1),
        Constraint::Length(11),
        Constraint::Length(9),
        Constraint::Length(7),
        Constraint::Length(7),
        Constraint::Length(7),
        Constraint::Length(7),
        Constraint::Length(6),
        Constraint::Length(6),
    ];
    let head = heading(&[
        ("route", false),
        ("calls", true),
        ("exhausted", true),
        ("p50", true),
        ("p99", true),
        ("p99.99", true),
        ("most", true),
        ("p50", true),
        ("p99", true),
    ]);
    frame.render_widget(Table::new(rows, widths).header(head), rest);
}

/// Bytes of the terms that lie in these places.
fn places(snapshot: &Snapshot, places: &[&str]) -> u64 {
    let terms = snapshot.equation.iter();
    terms
        .filter(|term| places.contains(&term.place.as_str()))
        .map(|term| term.bytes)
        .sum()
}

fn equation(frame: &mut Frame, area: Rect, snapshot: &Snapshot) {
    let ours = places(snapshot, &["region", "process"]);
    let beside = format!(
        "resident {}, {} of region and process ({})",
        number(snapshot.resident),
        percent(snapshot.resident, ours),
        number(ours)
    );
    let rest = title(frame, area, "EQUATION", Line::raw(beside));
    let terms = snapshot.equation.iter().map(|it| {
        Row::new(vec![
            cell(it.term.as_str(), false),
            cell(format!("{} × {}", number(it.count), exact(it.unit)), true),
            cell(number(it.bytes), true),
            Line::from(gauge(it.bytes, snapshot.bound)),
            cell(it.place.as_str(), false),
            cell(it.flags.as_str(), false),
        ])
    });
    let sum = Row::new(vec![
        cell("sum", false),
        cell("", true),
        cell(number(snapshot.bound), true),
    ])
    .style(STRONG);
    let widths = [
        Constraint::Length(20),
        Constraint::Length(15),
        Constraint::Length(13),
        // The flags are worth more than a picture of the bytes.
        Constraint::Length(if area.width < 100 { 0 } else { 10 }),
        Constraint::Length(7),
        Constraint::Fill(1),
    ];
    let head = heading(&[
        ("term", false),
        ("count × unit", true),
        ("bytes", true),
        ("", false),
        ("place", false),
        ("flags", false),
    ]);
    frame.render_widget(Table::new(terms.chain([sum]), widths).header(head), rest);
}
