//! What `transom top` knows of the server, and what it shows of that.

use super::rates::{Counters, Rates};
use crate::admin_client::AdminAddress;
use crate::snapshot::SnapshotError;
use ratatui::crossterm::event::{KeyCode, KeyModifiers};
use transom::snapshot::Snapshot;

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
    /// The server that is asked.
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

impl Model {
    /// Nothing is known yet.
    pub fn new(address: &AdminAddress) -> Self {
        Model {
            address: address.to_string(),
            snapshot: None,
            rates: Rates::default(),
            trouble: None,
            shown: [true, true, true, false],
            keys: true,
        }
    }

    /// A snapshot, or why there is none.
    pub fn hear(&mut self, news: Result<Snapshot, SnapshotError>) {
        match news {
            Ok(snapshot) => {
                self.rates.add(Counters::of(&snapshot));
                self.snapshot = Some(snapshot);
                self.trouble = None;
            }
            Err(error) => self.trouble = Some(error.to_string()),
        }
    }

    /// A key was pressed; false to quit.
    pub fn press(&mut self, key: KeyCode, modifiers: KeyModifiers) -> bool {
        let pane = match key {
            KeyCode::Char('c') if modifiers.contains(KeyModifiers::CONTROL) => return false,
            KeyCode::Char('q') | KeyCode::Esc => return false,
            KeyCode::Char('b') => 0,
            KeyCode::Char('x') => 1,
            KeyCode::Char('r') => 2,
            KeyCode::Char('e') => 3,
            _ => return true,
        };
        self.shown[pane] = !self.shown[pane];
        true
    }
}
