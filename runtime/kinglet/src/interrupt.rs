//! What Ctrl-C says while something is written that another run can go on with.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::failure::Outcome;

/// Whether there is nothing to explain any more.
static OVER: AtomicBool = AtomicBool::new(false);

/// From now on Ctrl-C and SIGTERM end the program at once, saying how to go on with `out`. Whatever is
/// being written may be cut off anywhere.
pub(crate) fn explained(out: &Path) -> Outcome {
    let out = out.display().to_string();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name("interrupt".to_owned())
        .spawn(move || {
            if runtime.block_on(interrupted()).is_err() {
                return;
            }
            if OVER.load(Ordering::SeqCst) {
                eprintln!("\nkinglet: interrupted");
            } else {
                eprintln!(
                    "\nkinglet: interrupted; the same command goes on from here ({out}.partial keeps what is done)"
                );
            }
            std::process::exit(1);
        })?;
    Ok(())
}

/// The result is there.
pub(crate) fn over() {
    OVER.store(true, Ordering::SeqCst);
}

#[cfg(unix)]
async fn interrupted() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        result = tokio::signal::ctrl_c() => result,
        _ = terminate.recv() => Ok(()),
    }
}

#[cfg(not(unix))]
async fn interrupted() -> std::io::Result<()> {
    tokio::signal::ctrl_c().await
}
