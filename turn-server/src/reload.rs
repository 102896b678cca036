//! Files that may change while the server runs: read again, compared, handed out when they are
//! different and make sense. What makes no sense, or is gone, leaves the old contents in force.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// Looks in vain after which a file is said to be gone. One that is just replaced is there before.
const MISSES: u32 = 3;

/// A file and what it held when it was last taken.
#[derive(Debug)]
pub(crate) struct Watched {
    path: PathBuf,
    taken: Option<Vec<u8>>,
    /// Contents that were refused: said once, not at every look.
    refused: Option<Vec<u8>>,
    /// Looks in vain, one after the other.
    misses: u32,
}

impl Watched {
    /// Watches a file of which nothing is known.
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), taken: None, refused: None, misses: 0 }
    }

    /// Reads the file; calls `take` if it holds something else than before. A file that is
    /// missing or empty for a moment, as while it is replaced, changes nothing.
    pub(crate) fn look(&mut self, take: impl FnOnce(&[u8]) -> Result<(), String>) -> bool {
        let contents = match read(&self.path) {
            Ok(contents) => contents,
            Err(error) => {
                self.miss(&error);
                return false;
            }
        };
        self.misses = 0;
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

    fn miss(&mut self, error: &io::Error) {
        self.misses = self.misses.saturating_add(1);
        if self.misses != MISSES {
            return;
        }
        let file = self.path.display();
        if self.taken.is_some() {
            tracing::warn!(%file, %error, "A file is gone: what it held stays in force");
        } else {
            // A media node's list of peers comes after the server has started.
            tracing::info!(%file, %error, "A file is not there yet");
        }
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let contents = fs::read(path)?;
    if contents.trim_ascii().is_empty() {
        return Err(io::Error::new(ErrorKind::UnexpectedEof, "it is empty"));
    }
    Ok(contents)
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
        assert_eq!(
            [Some("\n"), Some("a")].map(&mut look),
            [false, false],
            "a file that is written"
        );
        assert_eq!(taken, ["a", "b", "a"]);
    }
}
