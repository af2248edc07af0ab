//! One line of results.

use serde::Serialize;

/// One measurement: ours beside a peer's, taken in turn in the same run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    /// What was computed.
    pub(crate) work: String,
    /// The weight's format, by GGUF's name.
    pub(crate) format: String,
    /// Threads on both sides.
    pub(crate) threads: usize,
    /// Our kernels.
    pub(crate) kernels: String,
    /// Our figure.
    pub(crate) ours: f64,
    /// The library; none if there was no peer.
    pub(crate) peer: Option<String>,
    /// How it was set up.
    pub(crate) peer_config: Option<String>,
    /// Its figure.
    pub(crate) theirs: Option<f64>,
    /// The unit of both figures; more is better.
    pub(crate) unit: &'static str,
    /// Ours by theirs.
    pub(crate) ratio: Option<f64>,
    /// Our share of the machine's limit, 0 to 1.
    pub(crate) roof: Option<f64>,
}

impl Row {
    pub(crate) fn print(&self, json: bool) {
        if json {
            // Numbers and strings, which always serialize.
            println!("{}", serde_json::to_string(self).unwrap_or_default());
            return;
        }
        let share = |v: Option<f64>| {
            v.map_or(String::new(), |v| {
                format!("{:5.1} % of the roof", 100.0 * v)
            })
        };
        let peer = match (&self.peer, self.theirs, self.ratio) {
            (Some(peer), Some(theirs), Some(ratio)) => format!(
                "{peer} {}: {theirs:8.4}, ratio {ratio:.2}",
                self.peer_config.as_deref().unwrap_or_default()
            ),
            _ => "no peer".to_owned(),
        };
        println!(
            "{:32} {:5} {:>9.4} {}  {}  {peer}",
            self.work,
            self.format,
            self.ours,
            self.unit,
            share(self.roof)
        );
    }
}
