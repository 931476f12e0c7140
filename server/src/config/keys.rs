//! What a configuration is read from, and which flags it may set.

use std::fmt;

/// The flags that a file may set.
pub struct Keys<'k> {
    /// Their names, without dashes.
    pub names: Vec<String>,
    /// Of these, those that may be given more than once.
    pub lists: Vec<String>,
    /// Of these, those that are true or false.
    pub switches: Vec<String>,
    /// Whether a flag takes a value; if not, why.
    pub check: &'k dyn Fn(&str, &str) -> Result<(), String>,
}

impl fmt::Debug for Keys<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys")
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

/// A file that has been read.
#[derive(Debug, Clone, Copy)]
pub struct Source<'s> {
    /// Its name, for errors.
    pub name: &'s str,
    /// What is in it.
    pub bytes: &'s [u8],
}
