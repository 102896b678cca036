//! The images of LiveCluster's programs, and of the parts that the test cluster runs.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use super::archive::{Image, write_archive};
use super::files::{Content, FileTree};
use crate::process::{Run as _, is_installed};
use crate::stage::stage;

/// The user that our programs run as: nobody in particular, with no rights to any file.
const NON_ROOT: u32 = 65532;
/// Tag of our own images: the version of the workspace.
pub const TAG: &str = env!("CARGO_PKG_VERSION");
/// Redis as the tests run it: Debian's package under the name that the chart asks for.
pub const REDIS: &str = "docker.io/library/redis:7.0.15";
/// Certificates of the public authorities: webhooks go out by TLS.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// One of LiveCluster's programs.
#[derive(Clone, Copy, Debug)]
struct Program {
    name: &'static str,
    ports: &'static [&'static str],
}

const PROGRAMS: [Program; 3] = [
    Program { name: "sfu", ports: &["7880/tcp", "7881/tcp", "9600/tcp"] },
    Program { name: "turn-server", ports: &["3478/udp", "3478/tcp", "5349/tcp", "9601/tcp"] },
    Program { name: "operator", ports: &["9600/tcp"] },
];

/// Returns the full reference of one of our images.
#[must_use]
pub fn reference(program: &str) -> String {
    format!("docker.io/livecluster/{program}:{TAG}")
}

/// Returns the directory of the image archives.
#[must_use]
pub fn archive_directory() -> PathBuf {
    crate::repository().join("target/images")
}

/// Returns the paths of the archives that [`write_all`] writes.
#[must_use]
pub fn archives() -> Vec<PathBuf> {
    PROGRAMS.iter().map(|program| program.name).chain(["redis"]).map(archive_path).collect()
}

/// Writes the archives of all images that a LiveCluster consists of.
pub fn write_all() -> Result<()> {
    for program in PROGRAMS {
        write_program(program)?;
    }
    write_redis()
}

fn archive_path(name: &str) -> PathBuf {
    archive_directory().join(format!("{name}.tar"))
}

fn write_program(program: Program) -> Result<()> {
    let path = archive_path(program.name);
    stage(&format!("image {}", reference(program.name)), || {
        if cfg!(target_os = "linux") {
            write_archive(&program_image(program)?, &path)
        } else {
            build_with_docker(program.name, &path)
        }
    })
}

fn program_image(program: Program) -> Result<Image> {
    let target = env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| crate::repository().join("target"), PathBuf::from);
    let binary = target.join("release").join(program.name);
    ensure!(
        binary.is_file(),
        "{} is missing: run `cargo build --release -p {}`",
        binary.display(),
        program.name
    );
    let mut files = base_files()?;
    let inside = format!("/usr/bin/{}", program.name);
    files.put_libraries(Path::new("/"), &binary)?;
    files.put_program(&inside, binary);
    Ok(Image {
        reference: reference(program.name),
        files,
        entrypoint: vec![inside],
        user: NON_ROOT,
        ports: program.ports.iter().map(ToString::to_string).collect(),
    })
}

/// What a dynamically linked program expects to find besides its libraries.
fn base_files() -> Result<FileTree> {
    let text = |text: &str| Content::Text(text.to_owned(), 0o644);
    let mut files = FileTree::new();
    files.put("/etc/passwd", text("nonroot:x:65532:65532:nonroot:/:/sbin/nologin\n"));
    files.put("/etc/group", text("nonroot:x:65532:\n"));
    // glibc asks the files first, then DNS, as everywhere.
    files.put("/etc/nsswitch.conf", text("hosts: files dns\n"));
    files.put("/tmp", Content::Directory(0o1777));
    let certificates = fs::canonicalize(CERTIFICATES)
        .context("the certificates of public authorities are missing: install ca-certificates")?;
    files.put(CERTIFICATES, Content::Copy(certificates, 0o644));
    Ok(files)
}

/// Programs for another system than this one are built in a container.
fn build_with_docker(name: &str, path: &Path) -> Result<()> {
    let directory = path.parent().context("an archive is in a directory")?;
    fs::create_dir_all(directory)?;
    Command::new("docker")
        .current_dir(crate::repository())
        .args(["build", "-f", &format!("{name}/Dockerfile"), "-t", &reference(name), "."])
        .run()?;
    save_with_docker(&reference(name), path)
}

fn save_with_docker(reference: &str, path: &Path) -> Result<()> {
    Command::new("docker").args(["save", "-o"]).arg(path).arg(reference).run()
}

fn write_redis() -> Result<()> {
    let path = archive_path("redis");
    stage(&format!("image {REDIS}"), || {
        if is_installed("redis-server") && cfg!(target_os = "linux") {
            write_archive(&redis_image()?, &path)
        } else if is_installed("docker") {
            fs::create_dir_all(archive_directory())?;
            Command::new("docker").args(["pull", REDIS]).run()?;
            save_with_docker(REDIS, &path)
        } else {
            bail!("redis-server is missing: on Debian `apt-get install redis-server`")
        }
    })
}

fn redis_image() -> Result<Image> {
    let mut files = base_files()?;
    for program in ["redis-server", "redis-cli"] {
        let found = Command::new("sh").args(["-c", "command -v \"$0\"", program]).read()?;
        let found = fs::canonicalize(found.trim())?;
        files.put_libraries(Path::new("/"), &found)?;
        files.put_program(format!("/usr/local/bin/{program}"), found);
    }
    files.put("/data", Content::Directory(0o777));
    Ok(Image {
        reference: REDIS.to_owned(),
        files,
        entrypoint: vec!["/usr/local/bin/redis-server".to_owned()],
        user: NON_ROOT,
        ports: vec!["6379/tcp".to_owned()],
    })
}

/// Returns an image that holds one static program and runs it as `user`.
#[must_use]
pub fn single_program(reference: &str, source: &Path, inside: &str, user: u32) -> Image {
    let mut files = FileTree::new();
    files.put("/tmp", Content::Directory(0o1777));
    files.put_program(inside, source);
    Image {
        reference: reference.to_owned(),
        files,
        entrypoint: vec![inside.to_owned()],
        user,
        ports: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_carry_registry_and_tag() {
        assert_eq!(reference("sfu"), format!("docker.io/livecluster/sfu:{TAG}"));
    }

    #[test]
    fn single_program_is_the_entrypoint() {
        let image = single_program("localhost/x:1", Path::new("/bin/x"), "/usr/local/bin/x", 0);
        assert_eq!(image.entrypoint, ["/usr/local/bin/x"]);
        assert!(image.files.entries().any(|(path, content)| {
            path == Path::new("usr/local/bin/x")
                && *content == Content::Copy("/bin/x".into(), 0o755)
        }));
    }
}
