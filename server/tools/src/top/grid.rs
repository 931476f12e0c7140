//! The grid of buckets.

use super::parts::{ALARM, DIM, STRONG, title};
use super::units::exact;
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;
use transom::snapshot::{Application, Cell};
use transom_plot::grouped;

/// What a state looks like: a letter and a colour. An idle bucket has no letter: its level shows it.
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
    pub fn rows_wanted(buckets: usize, columns: u16) -> u16 {
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

/// Draws all buckets.
pub fn buckets(frame: &mut Frame, area: Rect, application: &Application) {
    let rows = usize::from(area.height.saturating_sub(2));
    let grid = Grid::new(application.cells.len(), usize::from(area.width), rows);
    let mut beside = format!(
        "{} × {}",
        grouped(application.buckets),
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
            format!(" {key} {} {state}", grouped(count as u64)),
            style,
        ));
    }
    let by_time = application.lost.resting + application.lost.overdue;
    if by_time > 0 {
        let text = format!(" {} {} lost by time", LOST.0, grouped(by_time));
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
