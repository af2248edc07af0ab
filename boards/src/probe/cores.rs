//! Cores: what they are called, how fast they are, what they can do.

use std::collections::BTreeMap;

use kinglet_kernels::InstructionSet;
use serde::Serialize;

use super::files::Tree;

/// The most cores that are believed.
const MOST: usize = 1024;

/// All cores.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cores {
    /// Cores of one kind and clock, the fastest first.
    pub clusters: Vec<Cluster>,
    /// The instruction set of Kinglet that all of them run.
    pub set: &'static str,
    #[serde(skip)]
    pub(super) x86: bool,
}

/// Cores of one kind and clock.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cluster {
    /// What they are called.
    pub kind: String,
    /// How many.
    pub count: usize,
    /// The highest clock in MHz, if it is told.
    pub mhz: Option<u64>,
}

/// Names of Arm's cores by the part number in `/proc/cpuinfo` (implementer 0x41; Linux,
/// arch/arm64/include/asm/cputype.h).
const PARTS: [(&str, &str); 13] = [
    ("0xd03", "Cortex-A53"),
    ("0xd04", "Cortex-A35"),
    ("0xd05", "Cortex-A55"),
    ("0xd07", "Cortex-A57"),
    ("0xd08", "Cortex-A72"),
    ("0xd09", "Cortex-A73"),
    ("0xd0a", "Cortex-A75"),
    ("0xd0b", "Cortex-A76"),
    ("0xd41", "Cortex-A78"),
    ("0xd42", "Cortex-A78AE"),
    ("0xd46", "Cortex-A510"),
    ("0xd83", "Neoverse-V3AE"),
    ("0xd84", "Neoverse-V3"),
];

impl Cores {
    pub(super) fn read(tree: &Tree, notes: &mut Vec<String>) -> Self {
        let text = tree.text("proc/cpuinfo").unwrap_or_default();
        let value = |block: &str, key: &str| {
            let of = |line: &str| {
                let (name, value) = line.split_once(':')?;
                (name.trim() == key).then(|| value.trim().to_owned())
            };
            block.lines().find_map(of)
        };
        let blocks: Vec<&str> = text
            .split("\n\n")
            .filter(|b| b.contains("processor"))
            .take(MOST)
            .collect();
        if blocks.is_empty() {
            notes.push("/proc/cpuinfo tells of no core".to_owned());
        }
        let x86 = blocks.iter().any(|b| value(b, "vendor_id").is_some());
        // The features that every core has.
        let mut common: Option<Vec<String>> = None;
        let mut kinds: BTreeMap<(String, Option<u64>), usize> = BTreeMap::new();
        for (i, block) in blocks.iter().enumerate() {
            let features = value(block, "Features")
                .or_else(|| value(block, "flags"))
                .unwrap_or_default();
            let features: Vec<String> = features.split_whitespace().map(str::to_owned).collect();
            common = Some(match common {
                None => features,
                Some(common) => common
                    .into_iter()
                    .filter(|f| features.contains(f))
                    .collect(),
            });
            let kind = match (value(block, "CPU part"), value(block, "model name")) {
                (Some(part), _) => PARTS
                    .iter()
                    .find(|(number, _)| *number == part)
                    .map_or(format!("a core of part {part}"), |(_, name)| {
                        (*name).to_owned()
                    }),
                (None, Some(name)) => name,
                (None, None) => "a core without a name".to_owned(),
            };
            let number = value(block, "processor")
                .and_then(|n| n.parse::<usize>().ok())
                .unwrap_or(i);
            let khz = tree.number(&format!(
                "sys/devices/system/cpu/cpu{number}/cpufreq/cpuinfo_max_freq"
            ));
            let mhz = khz.map(|khz| khz / 1000);
            if let Some(wrong) = mhz.filter(|mhz| !(1..=20_000).contains(mhz)) {
                notes.push(format!(
                    "core {number} claims {wrong} MHz, which nobody believes"
                ));
            }
            let mhz = mhz
                .filter(|mhz| (1..=20_000).contains(mhz))
                .map(|mhz| mhz as u64);
            *kinds.entry((kind, mhz)).or_default() += 1;
        }
        let mut clusters: Vec<Cluster> = kinds
            .into_iter()
            .map(|((kind, mhz), count)| Cluster { kind, count, mhz })
            .collect();
        clusters.sort_by_key(|c| std::cmp::Reverse(c.mhz));
        let common = common.unwrap_or_default();
        let has = |features: &[&str]| features.iter().all(|f| common.iter().any(|c| c == f));
        let set = if has(&[
            "avx512f",
            "avx512bw",
            "avx512vl",
            "avx512_vnni",
            "avx2",
            "fma",
            "f16c",
        ]) {
            InstructionSet::Avx512Vnni
        } else if has(&["avx2", "fma", "f16c"]) {
            InstructionSet::Avx2
        } else if has(&["asimd", "asimddp", "i8mm"]) {
            InstructionSet::NeonI8mm
        } else if has(&["asimd", "asimddp"]) {
            InstructionSet::NeonDotprod
        } else if has(&["asimd"]) {
            InstructionSet::Neon
        } else {
            InstructionSet::Scalar
        };
        Cores {
            clusters,
            set: set.name(),
            x86,
        }
    }

    /// The instruction set that all cores run.
    #[must_use]
    pub fn set(&self) -> InstructionSet {
        let named = InstructionSet::ALL
            .into_iter()
            .find(|s| s.name() == self.set);
        named.unwrap_or(InstructionSet::Scalar)
    }
}
