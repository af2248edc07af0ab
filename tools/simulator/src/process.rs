//! What a process costs, as /proc says.

/// Ticks a second of the times in /proc: USER_HZ, 100 on Linux for all that this runs on.
const TICKS: f64 = 100.0;

/// The cost of a process now.
pub(crate) struct Cost {
    /// Bytes in memory.
    pub(crate) resident: u64,
    pub(crate) threads: u64,
    pub(crate) files: u64,
    /// Seconds of processors, so far.
    pub(crate) seconds: f64,
}

impl Cost {
    /// Of this process id, or `self`.
    pub(crate) fn of(process: &str) -> Result<Self, String> {
        let folder = format!("/proc/{process}");
        let read = |file: &str| {
            std::fs::read_to_string(format!("{folder}/{file}"))
                .map_err(|e| format!("{folder}/{file}: {e}"))
        };
        let status = read("status")?;
        let number = |key: &str| -> u64 {
            let line = status.lines().find_map(|l| l.strip_prefix(key));
            let word = line.and_then(|l| l.split_whitespace().next());
            word.and_then(|w| w.parse().ok()).unwrap_or(0)
        };
        // Behind the name, which may hold anything: state is the first, user and system time the 12th and
        // 13th (man 5 proc).
        let stat = read("stat")?;
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let ticks = fields.split_whitespace().skip(11).take(2);
        let ticks: f64 = ticks.filter_map(|t| t.parse::<f64>().ok()).sum();
        let files = std::fs::read_dir(format!("{folder}/fd")).map_or(0, Iterator::count);
        Ok(Cost {
            resident: number("VmRSS:") * 1024,
            threads: number("Threads:"),
            files: files as u64,
            seconds: ticks / TICKS,
        })
    }
}
