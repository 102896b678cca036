//! The files of an image: paths with contents, in order, without times or owners.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::process::Run as _;

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A directory with its mode bits.
    Directory(u32),
    /// A file that is copied from the machine, with its mode bits.
    Copy(PathBuf, u32),
    /// A file with this text, with its mode bits.
    Text(String, u32),
    /// A symbolic link to a path.
    Link(PathBuf),
}

/// Paths, relative to the root of the image, and what is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileTree(BTreeMap<PathBuf, Content>);

impl FileTree {
    /// An empty tree.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts something at an absolute path, and the directories above it.
    pub fn put(&mut self, path: impl AsRef<Path>, content: Content) {
        let path = path.as_ref();
        let path = path.strip_prefix("/").unwrap_or(path);
        for parent in path.ancestors().skip(1).filter(|p| !p.as_os_str().is_empty()) {
            self.0.entry(parent.to_path_buf()).or_insert(Content::Directory(0o755));
        }
        self.0.insert(path.to_path_buf(), content);
    }

    /// Puts a program of the machine at a path, executable.
    pub fn put_program(&mut self, path: impl AsRef<Path>, source: impl Into<PathBuf>) {
        self.put(path, Content::Copy(source.into(), 0o755));
    }

    /// Puts the shared libraries of a program, and its loader, where it looks for them.
    ///
    /// `root` is the root directory that the program was made for: `/`, or that of a node.
    pub fn put_libraries(&mut self, root: &Path, program: &Path) -> Result<()> {
        let mut ldd = if root == Path::new("/") {
            Command::new("ldd")
        } else {
            let mut chroot = Command::new("chroot");
            chroot.arg(root).arg("ldd");
            chroot
        };
        for library in library_paths(&ldd.arg(program).read()?)? {
            let source = root.join(library.strip_prefix("/")?);
            let resolved = fs::canonicalize(&source)
                .with_context(|| format!("library {}", source.display()))?;
            let mode = fs::metadata(&resolved)?.permissions().mode() & 0o777;
            self.put(&library, Content::Copy(resolved, mode));
        }
        Ok(())
    }

    /// Lists the entries, parents before children.
    pub fn entries(&self) -> impl Iterator<Item = (&Path, &Content)> {
        self.0.iter().map(|(path, content)| (path.as_path(), content))
    }
}

/// Reads the output of `ldd`: `name => /path (address)`, or `/path (address)` for the loader.
fn library_paths(ldd: &str) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for line in ldd.lines().map(str::trim) {
        if line.ends_with("not found") {
            bail!("a shared library is missing: {line}");
        }
        let target = line.split_once("=> ").map_or(line, |(_, target)| target);
        if let Some(path) = target.split(" (").next().filter(|path| path.starts_with('/')) {
            paths.push(PathBuf::from(path));
        }
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_come_before_children() {
        let mut tree = FileTree::new();
        tree.put("/a/b/c", Content::Text("x".into(), 0o644));
        let paths: Vec<&str> = tree.entries().filter_map(|(path, _)| path.to_str()).collect();
        assert_eq!(paths, ["a", "a/b", "a/b/c"]);
    }

    #[test]
    fn given_directory_keeps_its_mode() {
        let mut tree = FileTree::new();
        tree.put("/tmp", Content::Directory(0o1777));
        tree.put("/tmp/x", Content::Text(String::new(), 0o644));
        assert_eq!(tree.entries().next().unwrap().1, &Content::Directory(0o1777));
    }

    #[test]
    fn libraries_and_loader_are_found_and_the_kernels_is_not() {
        let output = "\tlinux-vdso.so.1 (0x00007)\n\
            \tlibssl.so.3 => /lib/x86_64-linux-gnu/libssl.so.3 (0x00007)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007)\n";
        assert_eq!(
            library_paths(output).unwrap(),
            [
                PathBuf::from("/lib/x86_64-linux-gnu/libssl.so.3"),
                PathBuf::from("/lib64/ld-linux-x86-64.so.2")
            ]
        );
        assert_eq!(library_paths("\tstatically linked\n").unwrap(), Vec::<PathBuf>::new());
        library_paths("\tlibx.so => not found\n").unwrap_err();
    }
}
