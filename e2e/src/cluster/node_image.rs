//! The node image of a bare machine: a Debian root with systemd, kind's own base files (taken
//! from kind's Go module when the image is made), our builds of Kubernetes, containerd and
//! runc, and the images of the control plane already in containerd's store.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::node_images::{self, NodePrograms};
use super::root_filesystem;
use crate::artifact_cache::{self, InputHash};
use crate::process::Run as _;
use crate::stage::{say, stage};
use crate::tools::KUBERNETES;

/// Name of the image in the engine; the tag is the hash of its inputs.
const REPOSITORY: &str = "livecluster/node";
/// Measured on two cores; compressing the images is most of it.
const COLD_SECONDS: u32 = 80;
/// The store is on the machine while it is filled; containerd starts in under a second.
const CONTAINERD_TIMEOUT: Duration = Duration::from_secs(30);

/// What the image is made of.
pub(super) struct Inputs {
    /// Built programs.
    pub(super) programs: NodePrograms,
    /// Folder of kind's Go module.
    pub(super) kind_sources: PathBuf,
    /// Root of the Debian system.
    pub(super) root: PathBuf,
}

/// Returns the name of the node image, which is made if the engine does not have it.
pub(super) fn get_or_build(docker_host: &str, inputs: &Inputs) -> Result<String> {
    let image = format!("{REPOSITORY}:{}", hash(inputs)?);
    let docker = || {
        let mut docker = Command::new("docker");
        docker.env("DOCKER_HOST", docker_host);
        docker
    };
    if docker().args(["image", "inspect", &image]).succeeds() {
        return Ok(image);
    }
    let cache = artifact_cache::directory()?;
    let _lock = artifact_cache::lock(&cache, "node-image")?;
    stage(&format!("node image (cold about {COLD_SECONDS} s)"), || {
        let staging = cache.join("node-image.partial");
        artifact_cache::remove_directory(&staging)?;
        fs::create_dir_all(&staging)?;
        let root = staging.join("root");
        Command::new("cp").args(["-a", "--reflink=auto"]).arg(&inputs.root).arg(&root).run()?;
        add_base_files(&root, inputs)?;
        add_programs(&root, &inputs.programs)?;
        add_runtime_configuration(&root, &inputs.programs)?;
        say("    images of the control plane");
        fill_store(&root, &staging, inputs)?;
        say("    import");
        let shell = "tar -C \"$1\" -cf - . | docker import \
             -c 'ENV container=docker' \
             -c 'ENTRYPOINT [\"/usr/local/bin/entrypoint\",\"/sbin/init\"]' - \"$2\"";
        let mut import = Command::new("sh");
        import.env("DOCKER_HOST", docker_host).args(["-ec", shell, "sh"]).arg(&root).arg(&image);
        import.run()?;
        artifact_cache::remove_directory(&staging)
    })?;
    remove_older(docker, &image)?;
    Ok(image)
}

fn hash(inputs: &Inputs) -> Result<String> {
    let ours = crate::repository().join("e2e/cluster");
    let path = |path: &Path| path.to_string_lossy().into_owned();
    Ok(InputHash::new()
        // The recipe is an input too.
        .with(include_str!("node_image.rs"))
        .with(include_str!("node_images.rs"))
        .with(inputs.programs.directories().map(path).join("\n"))
        .with(path(&inputs.kind_sources))
        .with(path(&inputs.root))
        .with_path(&ours.join("node"))?
        .with_path(&ours.join("manifests/node-network.yaml"))?
        .with_path(&ours.join("manifests/storage.yaml"))?
        .finish())
}

/// Copies kind's files and switches off what a container does not need, as kind's own
/// Dockerfile does.
fn add_base_files(root: &Path, inputs: &Inputs) -> Result<()> {
    let files = inputs.kind_sources.join("images/base/files");
    let mut copy = Command::new("cp");
    copy.args(["-r", "--no-preserve=mode,ownership"]).arg(files.join(".")).arg(root).run()?;
    artifact_cache::remove_directory(&root.join("LICENSES"))?;
    for scripts in ["usr/local/bin", "kind/bin"] {
        make_executable(&root.join(scripts))?;
    }
    let system = root.join("usr/lib/systemd/system");
    for wanted in ["multi-user", "local-fs", "basic"] {
        root_filesystem::remove_files(&system.join(format!("{wanted}.target.wants")))?;
    }
    let unwanted = "rm -rf etc/systemd/system/*.wants \
         usr/lib/systemd/system/sysinit.target.wants/systemd-tmpfiles-setup.service \
         usr/lib/systemd/system/sockets.target.wants/*udev* \
         usr/lib/systemd/system/sockets.target.wants/*initctl*";
    Command::new("sh").current_dir(root).args(["-ec", unwanted]).run()?;
    append(&root.join("etc/systemd/journald.conf"), "ReadKMsg=no\n")?;
    let ours = crate::repository().join("e2e/cluster");
    install(&ours.join("node/guard-sysctl.sh"), &root.join("kind/bin/guard-sysctl.sh"), 0o755)?;
    let unit = root.join("etc/systemd/system/kubelet.service.d/20-guard.conf");
    install(&ours.join("node/20-guard.conf"), &unit, 0o644)?;
    install(&ours.join("node/kubeadm"), &root.join("usr/local/sbin/kubeadm"), 0o755)?;
    let manifests = root.join("kind/manifests");
    install(&ours.join("manifests/node-network.yaml"), &manifests.join("default-cni.yaml"), 0o644)?;
    install(&ours.join("manifests/storage.yaml"), &manifests.join("default-storage.yaml"), 0o644)?;
    for directory in ["etc/kubernetes/manifests", "kind/images", "usr/lib/modules"] {
        fs::create_dir_all(root.join(directory))?;
    }
    if !root.join("sbin/init").exists() {
        symlink("/usr/lib/systemd/systemd", root.join("sbin/init"))?;
    }
    let systemctl = |arguments: &[&str]| {
        Command::new("chroot").arg(root).arg("systemctl").args(arguments).run()
    };
    systemctl(&["enable", "kubelet.service", "containerd.service", "undo-mount-hacks.service"])?;
    systemctl(&["mask", "systemd-binfmt.service"])?;
    fs::write(root.join("kind/version"), KUBERNETES)?;
    Ok(())
}

fn add_programs(root: &Path, programs: &NodePrograms) -> Result<()> {
    for (source, target) in [
        (programs.k8s.join("kubeadm"), "usr/bin/kubeadm"),
        (programs.k8s.join("kubelet"), "usr/bin/kubelet"),
        (programs.k8s.join("kubectl"), "usr/bin/kubectl"),
        (programs.containerd.join("containerd"), "usr/local/bin/containerd"),
        (
            programs.containerd.join("containerd-shim-runc-v2"),
            "usr/local/bin/containerd-shim-runc-v2",
        ),
        (programs.containerd.join("ctr"), "usr/local/bin/ctr"),
        (programs.runc.join("runc"), "usr/local/sbin/runc"),
        (programs.cni.join("host-local"), "opt/cni/bin/host-local"),
        (programs.cni.join("loopback"), "opt/cni/bin/loopback"),
        (programs.cni.join("ptp"), "opt/cni/bin/ptp"),
        (programs.cni.join("portmap"), "opt/cni/bin/portmap"),
    ] {
        install(&source, &root.join(target), 0o755)?;
    }
    Ok(())
}

/// Writes what kind's Dockerfile derives with `ctr oci spec`, and fits containerd's
/// configuration to a node that is itself a container without all capabilities.
fn add_runtime_configuration(root: &Path, programs: &NodePrograms) -> Result<()> {
    let specification =
        Command::new(programs.containerd.join("ctr")).args(["oci", "spec"]).read()?;
    let specification = base_specification(serde_json::from_str(&specification)?)?;
    fs::write(root.join("etc/containerd/cri-base.json"), specification.to_string())?;
    let path = root.join("etc/containerd/config.toml");
    let text = fs::read_to_string(&path)?;
    fs::write(&path, runtime_settings(&text, &programs.pause_image()?)?)?;
    Ok(())
}

/// Adds kind's hook to the description that all containers start from.
fn base_specification(mut specification: Value) -> Result<Value> {
    let hook = json!({"path": "/kind/bin/mount-product-files.sh"});
    let fields = specification.as_object_mut().context("a specification is an object")?;
    fields.insert("hooks".to_owned(), json!({"createContainer": [hook]}));
    if let Some(process) = fields.get_mut("process").and_then(Value::as_object_mut) {
        process.remove("rlimits");
    }
    Ok(specification)
}

fn runtime_settings(text: &str, pause_image: &str) -> Result<String> {
    let mut replaced = 0;
    let lines = text.lines().map(|line| {
        let indent = &line[..line.len() - line.trim_start().len()];
        if line.trim_start().starts_with("sandbox_image =") {
            replaced += 1;
            format!("{indent}sandbox_image = \"{pause_image}\"\n")
        } else if line.trim_start().starts_with("restrict_oom_score_adj =") {
            // Lowering the score takes a capability that the machine may lack.
            replaced += 1;
            format!("{indent}restrict_oom_score_adj = true\n")
        } else {
            format!("{line}\n")
        }
    });
    let text = lines.collect();
    ensure!(replaced == 2, "kind's containerd configuration has changed its form");
    Ok(text)
}

/// Puts the images into the store that the node's containerd will open.
fn fill_store(root: &Path, staging: &Path, inputs: &Inputs) -> Result<()> {
    let archives = node_images::write(&inputs.programs, &inputs.root, &staging.join("images"))?;
    let store = root.join("var/lib/containerd");
    fs::create_dir_all(&store)?;
    let socket = staging.join("containerd.sock");
    let mut containerd = start_containerd(&inputs.programs, &store, staging, &socket)?;
    let ctr = || {
        let mut ctr = Command::new(inputs.programs.containerd.join("ctr"));
        ctr.arg("--address").arg(&socket).arg("--namespace=k8s.io");
        ctr
    };
    let import = |archive: &PathBuf| {
        ctr()
            .args(["images", "import", "--local", "--all-platforms", "--no-unpack", "--digests"])
            .args(["--compress-blobs", "--label=io.cri-containerd.pinned=pinned"])
            .arg(archive)
            .run()
    };
    let filled = wait_for(&mut containerd, || ctr().arg("version").succeeds())
        // Compressing takes the time, on one core an image.
        .and_then(|()| in_parallel(&archives, import));
    containerd.kill()?;
    containerd.wait()?;
    filled
}

fn in_parallel<T: Sync>(items: &[T], work: impl Fn(&T) -> Result<()> + Sync) -> Result<()> {
    thread::scope(|scope| {
        let running: Vec<_> = items.iter().map(|item| scope.spawn(|| work(item))).collect();
        running.into_iter().try_for_each(|one| {
            one.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a worker panicked")))
        })
    })
}

fn start_containerd(
    programs: &NodePrograms,
    store: &Path,
    staging: &Path,
    socket: &Path,
) -> Result<Child> {
    let settings = staging.join("containerd.toml");
    // Only the content store is wanted; the optional directory would be made in /opt.
    let text = format!(
        "version = 3\n\
         disabled_plugins = [\"io.containerd.cri.v1.images\", \"io.containerd.cri.v1.runtime\", \
         \"io.containerd.grpc.v1.cri\", \"io.containerd.nri.v1.nri\"]\n\
         [plugins.'io.containerd.internal.v1.opt']\n  path = '{}'\n",
        staging.join("opt").display()
    );
    fs::write(&settings, text)?;
    let log = fs::File::create(staging.join("containerd.log"))?;
    // It must not outlive this program, however that ends.
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL"])
        .arg(programs.containerd.join("containerd"))
        .arg("--config")
        .arg(settings)
        .arg("--root")
        .arg(store)
        .arg("--state")
        .arg(staging.join("state"))
        .arg("--address")
        .arg(socket)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("starting containerd")
}

fn wait_for(child: &mut Child, ready: impl Fn() -> bool) -> Result<()> {
    let started = Instant::now();
    while !ready() {
        ensure!(child.try_wait()?.is_none(), "containerd ended before it was ready");
        ensure!(started.elapsed() < CONTAINERD_TIMEOUT, "containerd is not ready");
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn remove_older(docker: impl Fn() -> Command, current: &str) -> Result<()> {
    let filter = format!("reference={REPOSITORY}");
    let list = ["image", "ls", "--filter", &filter, "--format", "{{.Repository}}:{{.Tag}}"];
    for image in docker().args(list).read()?.lines().filter(|image| *image != current) {
        docker().args(["image", "rm", image]).run()?;
    }
    Ok(())
}

fn install(source: &Path, target: &Path, mode: u32) -> Result<()> {
    let directory = target.parent().context("a file is in a directory")?;
    fs::create_dir_all(directory)?;
    fs::copy(source, target)
        .with_context(|| format!("copying {} to {}", source.display(), target.display()))?;
    fs::set_permissions(target, fs::Permissions::from_mode(mode))?;
    Ok(())
}

fn make_executable(directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        fs::set_permissions(entry?.path(), fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

fn append(path: &Path, line: &str) -> Result<()> {
    let mut text = fs::read_to_string(path).unwrap_or_default();
    text.push_str(line);
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtime_is_fitted_and_nothing_else_changes() {
        let text = "a = 1\n  sandbox_image = \"old\"\n  restrict_oom_score_adj = false\n";
        assert_eq!(
            runtime_settings(text, "pause:1").unwrap(),
            "a = 1\n  sandbox_image = \"pause:1\"\n  restrict_oom_score_adj = true\n"
        );
        runtime_settings("a = 1\n", "pause:1").unwrap_err();
    }

    #[test]
    fn one_failure_among_parallel_works_is_the_result() {
        in_parallel(&[1, 2, 3], |_| Ok(())).unwrap();
        let result = in_parallel(&[1, 2, 3], |item| {
            ensure!(*item != 2, "two");
            Ok(())
        });
        assert_eq!(result.unwrap_err().to_string(), "two");
    }

    #[test]
    fn specification_gets_the_hook_and_loses_the_limits() {
        let before = json!({"process": {"rlimits": [1], "cwd": "/"}});
        assert_eq!(
            base_specification(before).unwrap(),
            json!({
                "process": {"cwd": "/"},
                "hooks": {"createContainer": [{"path": "/kind/bin/mount-product-files.sh"}]}
            })
        );
    }
}
