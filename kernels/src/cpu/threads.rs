//! The threads that kernels run on: one for each big core, kept on them.
//!
//! A product is cut into equal parts for all threads, so one slow core would make all others wait. On a
//! chip with cores of several kinds (RK3588: four A76 and four A55) only the fast ones work; the system
//! and everything else of the program have the others. Threads that find no work sleep after some tens
//! of microseconds: an idle agent burns nothing.

use std::path::Path;
use std::sync::OnceLock;

use crate::error::{KernelError, Result};

/// Where Linux says what cores there are.
const CORES: &str = "/sys/devices/system/cpu";
/// A core counts as big if it has this share of the fastest one's capacity.
const BIG: f64 = 0.75;

/// The big cores by their numbers, if there are smaller ones too; empty if all are alike or the system
/// does not say. `root` is where Linux says so, or a copy of that.
pub fn big_cores(root: &Path) -> Vec<usize> {
    let Ok(entries) = std::fs::read_dir(root) else {
        return Vec::new();
    };
    let mut cores = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let number = name.to_string_lossy();
        let Some(Ok(number)) = number.strip_prefix("cpu").map(str::parse::<usize>) else {
            continue;
        };
        // Relative speed at the highest clock; the kernel has it on ARM. Elsewhere clocks have to do.
        let capacity = ["cpu_capacity", "cpufreq/cpuinfo_max_freq"]
            .iter()
            .find_map(|file| {
                let text = std::fs::read_to_string(entry.path().join(file)).ok()?;
                text.trim().parse::<f64>().ok()
            });
        match capacity {
            Some(capacity) => cores.push((number, capacity)),
            // A core that is switched off, or a system that does not say.
            None => continue,
        }
    }
    let fastest = cores.iter().map(|(_, c)| *c).fold(0.0, f64::max);
    let mut big: Vec<usize> = cores
        .iter()
        .filter(|(_, capacity)| *capacity >= BIG * fastest)
        .map(|(number, _)| *number)
        .collect();
    big.sort_unstable();
    if big.len() == cores.len() {
        big.clear();
    }
    big
}

/// The cores that threads stay on, if some are bigger than others.
static BIG_CORES: OnceLock<Vec<usize>> = OnceLock::new();

/// Keeps this thread, which computes, on the big cores, if [`start`] has found any.
pub(super) fn stay_on_big_cores() {
    if let Some(cores) = BIG_CORES.get() {
        stay_on(cores);
    }
}

/// Starts the threads: as many as `KINGLET_THREADS` says, else one for each big core, else one for each
/// core. On a chip with big cores they stay there.
///
/// # Errors
/// [`KernelError::Threads`] if the number is none, or threads have been started already.
pub fn start() -> Result<()> {
    let mut big = big_cores(Path::new(CORES));
    big.retain(|core| is_allowed(*core));
    let wanted = match std::env::var("KINGLET_THREADS") {
        Ok(text) if !text.is_empty() => match text.parse::<usize>() {
            Ok(n) if (1..=1024).contains(&n) => Some(n),
            _ => {
                return Err(KernelError::Threads(format!(
                    "KINGLET_THREADS is \"{text}\"; a number from 1 to 1024 is expected"
                )));
            }
        },
        _ => None,
    };
    let mut pool = rayon::ThreadPoolBuilder::new().thread_name(|i| format!("kernels-{i}"));
    // 0 leaves the number to rayon: one for each core that this process may use.
    pool = pool.num_threads(wanted.unwrap_or(big.len()));
    if !big.is_empty() {
        let cores = BIG_CORES.get_or_init(|| big);
        pool = pool.start_handler(move |_| stay_on(cores));
    }
    pool.build_global()
        .map_err(|e| KernelError::Threads(e.to_string()))
}

/// Keeps this thread on some cores. Where that is not allowed it goes on without.
#[cfg(target_os = "linux")]
fn stay_on(cores: &[usize]) {
    let mut set = rustix::thread::CpuSet::new();
    for core in cores
        .iter()
        .filter(|c| **c < rustix::thread::CpuSet::MAX_CPU)
    {
        set.set(*core);
    }
    let _ = rustix::thread::sched_setaffinity(None, &set);
}

/// Whether whoever started this process lets it run there.
#[cfg(target_os = "linux")]
fn is_allowed(core: usize) -> bool {
    let known = core < rustix::thread::CpuSet::MAX_CPU;
    rustix::thread::sched_getaffinity(None).is_ok_and(|set| known && set.is_set(core))
}

#[cfg(not(target_os = "linux"))]
fn stay_on(_: &[usize]) {}

#[cfg(not(target_os = "linux"))]
fn is_allowed(_: usize) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chip(name: &str, cores: &[(&str, &str)]) -> Vec<usize> {
        let root = std::env::temp_dir().join(format!("kinglet-{name}-{}", std::process::id()));
        for (i, (file, text)) in cores.iter().enumerate() {
            let file = root.join(format!("cpu{i}")).join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }
        std::fs::create_dir_all(root.join("cpufreq")).unwrap();
        let big = big_cores(&root);
        std::fs::remove_dir_all(&root).unwrap();
        big
    }

    #[test]
    fn only_the_big_cores_of_a_mixed_chip_are_taken() {
        let (small, big) = (("cpu_capacity", "530\n"), ("cpu_capacity", "1024\n"));
        let rk3588 = [small, small, small, small, big, big, big, big];
        assert_eq!(chip("rk3588", &rk3588), [4, 5, 6, 7]);
        // One kind of core, two clocks near each other: all are taken, which is said by naming none.
        let clocks = ("cpufreq/cpuinfo_max_freq", "2400000");
        let faster = ("cpufreq/cpuinfo_max_freq", "2256000");
        assert!(chip("alike", &[clocks, faster, clocks]).is_empty());
        assert!(chip("silent", &[("cpu_capacity", "?"), ("online", "1")]).is_empty());
        assert!(big_cores(Path::new("/nowhere")).is_empty());
    }
}
