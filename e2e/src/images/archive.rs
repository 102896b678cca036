//! Writes an image in the form of `docker save`: one layer, a configuration, a manifest.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

use super::files::{Content, FileTree};

/// An image before it is written.
#[derive(Clone, Debug)]
pub struct Image {
    /// Full reference with registry and tag.
    pub reference: String,
    /// The files of its one layer.
    pub files: FileTree,
    /// The program that a container starts, with its first arguments.
    pub entrypoint: Vec<String>,
    /// User and group that it starts as.
    pub user: u32,
    /// Ports that it listens on, for the reader: `7880/tcp`.
    pub ports: Vec<String>,
}

/// Writes the archive of an image; the file appears whole or not at all.
pub fn write_archive(image: &Image, path: &Path) -> Result<()> {
    let directory = path.parent().context("an archive is in a directory")?;
    fs::create_dir_all(directory)?;
    let layer_path = path.with_extension("layer.partial");
    let layer_digest = write_layer(&image.files, &layer_path)
        .with_context(|| format!("layer of {}", image.reference))?;
    let partial = path.with_extension("partial");
    let written = assemble(image, &layer_path, &layer_digest, &partial);
    fs::remove_file(&layer_path)?;
    written.with_context(|| format!("archive of {}", image.reference))?;
    fs::rename(&partial, path).with_context(|| format!("publishing {}", path.display()))
}

fn assemble(image: &Image, layer_path: &Path, layer_digest: &str, partial: &Path) -> Result<()> {
    let configuration = configuration(image, layer_digest).to_string();
    let configuration_name = format!("{}.json", hex::encode(Sha256::digest(&configuration)));
    let layer_name = format!("{layer_digest}/layer.tar");
    let manifest = json!([{
        "Config": configuration_name,
        "RepoTags": [image.reference],
        "Layers": [layer_name],
    }]);
    let mut archive = Builder::new(BufWriter::new(File::create(partial)?));
    append_bytes(&mut archive, &configuration_name, configuration.as_bytes(), 0o644)?;
    append_file(&mut archive, Path::new(&layer_name), layer_path, 0o644)?;
    append_bytes(&mut archive, "manifest.json", manifest.to_string().as_bytes(), 0o644)?;
    archive.into_inner()?.flush()?;
    Ok(())
}

fn configuration(image: &Image, layer_digest: &str) -> serde_json::Value {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let ports: serde_json::Map<String, serde_json::Value> =
        image.ports.iter().map(|port| (port.clone(), json!({}))).collect();
    json!({
        "architecture": architecture,
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {
            "Entrypoint": image.entrypoint,
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "ExposedPorts": ports,
            "User": format!("{0}:{0}", image.user),
            "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer_digest}")]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "livecluster"}],
    })
}

/// Passes bytes on and hashes them on the way.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn write_layer(files: &FileTree, path: &Path) -> Result<String> {
    let file = BufWriter::new(File::create(path)?);
    let mut layer = Builder::new(Hashing { inner: file, hash: Sha256::new() });
    for (name, content) in files.entries() {
        match content {
            Content::Directory(mode) => {
                let mut header = header(EntryType::Directory, *mode, 0);
                let name = PathBuf::from(format!("{}/", name.display()));
                layer.append_data(&mut header, name, io::empty())?;
            }
            Content::Copy(source, mode) => append_file(&mut layer, name, source, *mode)?,
            Content::Text(text, mode) => append_bytes(&mut layer, name, text.as_bytes(), *mode)?,
            Content::Link(target) => {
                layer.append_link(&mut header(EntryType::Symlink, 0o777, 0), name, target)?;
            }
        }
    }
    let mut hashing = layer.into_inner()?;
    hashing.flush()?;
    Ok(hex::encode(hashing.hash.finalize()))
}

fn append_file<W: Write>(
    archive: &mut Builder<W>,
    name: &Path,
    source: &Path,
    mode: u32,
) -> Result<()> {
    let file = File::open(source).with_context(|| format!("opening {}", source.display()))?;
    let size = file.metadata()?.len();
    archive.append_data(&mut header(EntryType::Regular, mode, size), name, file)?;
    Ok(())
}

fn append_bytes<W: Write>(
    archive: &mut Builder<W>,
    name: impl AsRef<Path>,
    bytes: &[u8],
    mode: u32,
) -> Result<()> {
    let size = u64::try_from(bytes.len())?;
    archive.append_data(&mut header(EntryType::Regular, mode, size), name, bytes)?;
    Ok(())
}

/// No time, no owner: they would make every build another image.
fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read as _;

    use super::*;

    fn image() -> Image {
        let mut files = FileTree::new();
        files.put("/etc/hello", Content::Text("hi".into(), 0o640));
        files.put("/bin/hello", Content::Link("/etc/hello".into()));
        Image {
            reference: "docker.io/livecluster/hello:1".into(),
            files,
            entrypoint: vec!["/bin/hello".into()],
            user: 65532,
            ports: vec!["7880/tcp".into()],
        }
    }

    fn read(bytes: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(bytes);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (entry.path().unwrap().display().to_string(), content)
        });
        entries.collect()
    }

    fn written(name: &str) -> Vec<u8> {
        let path = std::env::temp_dir().join(format!("e2e-{name}-{}.tar", std::process::id()));
        write_archive(&image(), &path).unwrap();
        let bytes = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        bytes
    }

    #[test]
    fn same_files_give_the_same_bytes() {
        assert_eq!(written("first"), written("second"));
    }

    #[test]
    fn manifest_names_configuration_and_layer_by_their_hashes() {
        let archive = read(&written("manifest"));
        let manifest: serde_json::Value =
            serde_json::from_slice(&archive["manifest.json"]).unwrap();
        assert_eq!(manifest[0]["RepoTags"][0], "docker.io/livecluster/hello:1");
        let configuration_name = manifest[0]["Config"].as_str().unwrap();
        let configuration = &archive[configuration_name];
        assert_eq!(
            configuration_name,
            format!("{}.json", hex::encode(Sha256::digest(configuration)))
        );
        let layer = &archive[manifest[0]["Layers"][0].as_str().unwrap()];
        let configuration: serde_json::Value = serde_json::from_slice(configuration).unwrap();
        assert_eq!(
            configuration["rootfs"]["diff_ids"][0],
            format!("sha256:{}", hex::encode(Sha256::digest(layer)))
        );
        assert_eq!(configuration["config"]["User"], "65532:65532");
        assert_eq!(read(layer)["etc/hello"], b"hi");
    }
}
