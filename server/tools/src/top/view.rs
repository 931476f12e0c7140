//! What `transom top` draws, from what it knows.

use super::grid::{self, Grid};
use super::header;
use super::model::{Model, Pane};
use super::parts::DIM;
use super::tables;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::text::Line;
use ratatui::widgets::Paragraph;
use transom::snapshot::Snapshot;

/// The lines that all that is shown would take.
#[must_use]
pub fn height(model: &Model, width: u16) -> u16 {
    let Some(snapshot) = &model.snapshot else {
        return 3;
    };
    let panes = wanted(model, snapshot, width).iter().sum::<u16>();
    header::lines(model, snapshot).len() as u16 + panes + u16::from(model.keys)
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
    let lines = header::lines(model, snapshot);
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
            (_, Pane::Equation) => tables::equation(frame, area, snapshot),
            (Some(it), Pane::Buckets) => grid::buckets(frame, area, it),
            (Some(it), Pane::Exhausted) => tables::exhausted(frame, area, it, snapshot.unix_ms),
            (Some(it), Pane::Routes) => tables::routes(frame, area, it),
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
