//! Files that may change while the server runs: read again, compared, handed out when they are
//! different and make sense. What makes no sense leaves the old contents in force.

use std::fs;
use std::path::{Path, PathBuf};

/// A file and what it held when it was last taken.
#[derive(Debug)]
pub(crate) struct Watched {
    path: PathBuf,
    taken: Option<Vec<u8>>,
    /// Contents that were refused: said once, not at every look.
    refused: Option<Vec<u8>>,
}

impl Watched {
    /// Watches a file of which nothing is known.
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), taken: None, refused: None }
    }

    /// Reads the file; calls `take` if it holds something else than before. A file that is
    /// missing or empty for a moment, as while it is replaced, changes nothing.
    pub(crate) fn look(&mut self, take: impl FnOnce(&[u8]) -> Result<(), String>) -> bool {
        let Ok(contents) = fs::read(&self.path) else { return false };
        if self.taken.as_ref() == Some(&contents) || self.refused.as_ref() == Some(&contents) {
            return false;
        }
        let file = self.path.display();
        match take(&contents) {
            Ok(()) => {
                if self.taken.is_some() {
                    tracing::info!(%file, "A changed file was read");
                }
                self.taken = Some(contents);
                self.refused = None;
                true
            }
            Err(reason) => {
                tracing::warn!(%file, reason, "A changed file was not taken");
                self.refused = Some(contents);
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changes_that_make_sense_are_taken() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let mut watched = Watched::new(&path);
        let mut taken = Vec::new();
        let mut look = |contents: Option<&str>| {
            if let Some(contents) = contents {
                fs::write(&path, contents).unwrap();
            }
            watched.look(|bytes| {
                if bytes == b"bad" {
                    return Err("no".to_owned());
                }
                taken.push(String::from_utf8(bytes.to_vec()).unwrap());
                Ok(())
            })
        };
        let looks = [None, Some("a"), None, Some("a"), Some("bad"), None, Some("b"), Some("a")];
        assert_eq!(looks.map(&mut look), [false, true, false, false, false, false, true, true]);
        assert_eq!(taken, ["a", "b", "a"]);
    }
}
