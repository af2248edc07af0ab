//! The program under test.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::root;

/// The program: `KINGLET_PROGRAM`, or the development build, which is made first; our own code is optimised there too.
pub fn program() -> PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| {
        if let Some(path) = std::env::var_os("KINGLET_PROGRAM") {
            return path.into();
        }
        let mut cargo = Command::new(env!("CARGO"));
        // What cargo tells this test about its own package would have dependencies built anew.
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
                cargo.env_remove(&*name);
            }
        }
        let built = cargo
            // As the tests themselves: others would have dependencies built with other features.
            .args(["build", "--quiet", "--workspace", "--bin", "kinglet"])
            .current_dir(root())
            .status()
            .expect("cargo runs");
        assert!(built.success(), "the program does not build");
        let target =
            std::env::var_os("CARGO_TARGET_DIR").map_or(root().join("target"), PathBuf::from);
        target.join("debug/kinglet")
    });
    program.clone()
}

/// The program with these arguments, ready to run.
pub fn kinglet(arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command
        .args(arguments)
        .env_remove("KINGLET_MODEL")
        .env_remove("KINGLET_KERNELS")
        .stdin(Stdio::null());
    command
}

/// Runs the program, logging only errors, and returns exit code, standard output and standard
/// error.
pub fn run(arguments: &[&str]) -> (i32, String, String) {
    finished(
        kinglet(arguments)
            .env("KINGLET_LOG", "error")
            .output()
            .unwrap(),
    )
}

/// Exit code, standard output and standard error.
pub fn finished(output: Output) -> (i32, String, String) {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("the program prints UTF-8");
    let code = output.status.code().expect("it was not killed");
    (code, text(output.stdout), text(output.stderr))
}

/// Runs the program, which must fail with exit code 1 and one line that says `words`.
pub fn refused(arguments: &[&str], words: &[&str]) {
    let (code, stdout, stderr) = run(arguments);
    assert_eq!(code, 1, "{arguments:?}: {stderr}");
    assert_eq!(stdout, "", "{arguments:?}");
    assert_eq!(stderr.lines().count(), 1, "{arguments:?}: {stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    for word in words {
        assert!(
            stderr.contains(word),
            "{arguments:?}: \"{word}\" is not in {stderr}"
        );
    }
}

/// Writes a file into a folder and returns its path.
pub fn put(folder: &Path, name: &str, bytes: &[u8]) -> String {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path.to_string_lossy().into_owned()
}

/// A program that runs in the background and is killed when it is dropped.
pub struct Running(pub Child);

impl Running {
    /// Starts it.
    pub fn start(command: &mut Command) -> Self {
        Running(command.spawn().expect("it starts"))
    }

    /// Kills it without warning.
    pub fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// Asks it to end and returns its exit code.
    pub fn terminate(mut self) -> Option<i32> {
        let pid = self.0.id().to_string();
        let asked = Command::new("kill").args(["-TERM", &pid]).status().unwrap();
        assert!(asked.success());
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("it does not end");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
