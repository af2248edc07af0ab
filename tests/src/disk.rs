//! A small disk that can be filled: a tmpfs in a mount namespace of its own, which needs no rights.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::program::Running;

/// A disk, mounted where only programs see it that are started with [`Disk::inside`].
pub struct Disk {
    holder: Running,
    folder: PathBuf,
}

impl Disk {
    /// Mounts one of so many MiB at `folder`. None where the system allows no namespaces.
    pub fn mount(folder: &Path, mebibytes: usize) -> Option<Self> {
        let script =
            "mount -t tmpfs -o size=\"$1\"m tmpfs \"$2\" && echo mounted && exec sleep infinity";
        let mut command = Command::new("unshare");
        command
            .args([
                "--user",
                "--map-root-user",
                "--mount",
                "sh",
                "-c",
                script,
                "sh",
            ])
            .arg(mebibytes.to_string())
            .arg(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut holder = Running(command.spawn().ok()?);
        let mut line = String::new();
        let said = holder.0.stdout.take()?;
        BufReader::new(said).read_line(&mut line).ok()?;
        (line.trim() == "mounted").then(|| Disk {
            holder,
            folder: folder.to_owned(),
        })
    }

    /// The same program, started where this disk is.
    pub fn inside(&self, command: &Command) -> Command {
        let mut inside = Command::new("nsenter");
        inside
            .args(["--user", "--mount", "--preserve-credentials", "--target"])
            .arg(self.holder.0.id().to_string())
            .arg("--")
            .arg(command.get_program())
            .args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        inside.stdin(Stdio::null());
        inside
    }

    /// Fills it to the last byte.
    pub fn fill(&self) {
        let mut balloon = File::create(self.balloon()).unwrap();
        for size in [1 << 16, 1 << 12, 1] {
            while balloon.write_all(&vec![1; size]).is_ok() {}
        }
    }

    /// Makes room again.
    pub fn empty(&self) {
        std::fs::remove_file(self.balloon()).unwrap();
    }

    fn balloon(&self) -> PathBuf {
        let holder = format!("/proc/{}/root", self.holder.0.id());
        let folder = self.folder.strip_prefix("/").unwrap_or(&self.folder);
        Path::new(&holder).join(folder).join("balloon")
    }
}
