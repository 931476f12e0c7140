//! Pieces that several parts of the screen use.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use transom::snapshot::Snapshot;

pub const ALARM: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
pub const DIM: Style = Style::new().add_modifier(Modifier::DIM);
pub const STRONG: Style = Style::new().add_modifier(Modifier::BOLD);

/// Eight characters, filled from the left in eighths.
pub fn gauge(part: u64, of: u64) -> Span<'static> {
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
pub fn title(frame: &mut Frame, area: Rect, title: &'static str, beside: Line<'static>) -> Rect {
    let [line, rest] = Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(area);
    let mut spans = vec![Span::styled(title, STRONG), Span::raw("  ")];
    spans.extend(beside.spans);
    frame.render_widget(Line::from(spans), line);
    rest
}

/// Bytes of the terms that lie in these places.
pub fn places(snapshot: &Snapshot, places: &[&str]) -> u64 {
    let terms = snapshot.equation.iter();
    terms
        .filter(|term| places.contains(&term.place.as_str()))
        .map(|term| term.bytes)
        .sum()
}
