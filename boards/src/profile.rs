//! What a board is on paper.

use kinglet_kernels::InstructionSet;
use serde::{Deserialize, Serialize};

use crate::error::{BoardError, Result};

/// A board. Every table names where its figures come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// What commands call it.
    pub name: String,
    /// What people call it.
    pub title: String,
    /// The chip.
    pub soc: String,
    /// Device tree names (`compatible`) that mean this board; any one does.
    #[serde(default)]
    pub compatible: Vec<String>,
    /// Memory.
    pub memory: Memory,
    /// Kinds of cores, the fastest first.
    pub core: Vec<Core>,
    /// The graphics processor.
    #[serde(default)]
    pub gpu: Option<Gpu>,
    /// The neural processor.
    #[serde(default)]
    pub npu: Option<Npu>,
    /// Power modes, as its tools call them.
    #[serde(default)]
    pub power: Vec<String>,
    /// Recipes of `quant/recipes` that were made for it.
    #[serde(default)]
    pub recipes: Vec<String>,
}

/// Memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// GiB that the system calls its own.
    pub gib: f64,
    /// GiB of it that the system, a desktop and other programs keep.
    pub reserve_gib: f64,
    /// Bytes a second, in GB.
    pub bandwidth: f64,
    /// Where this is from.
    pub source: String,
}

/// Cores of one kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Core {
    /// Its name.
    pub kind: String,
    /// How many.
    pub count: u32,
    /// Clock in GHz.
    pub ghz: f64,
    /// The instruction set of Kinglet that it runs, by its name.
    pub set: String,
    /// Multiplications with additions of 8-bit integers a cycle.
    pub int8: f64,
    /// Multiplications with additions of 32-bit floats a cycle.
    pub f32: f64,
    /// Where this is from.
    pub source: String,
}

/// A graphics processor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gpu {
    /// Its name.
    pub name: String,
    /// CUDA compute capability, if it has one.
    #[serde(default)]
    pub compute: Option<String>,
    /// Where this is from.
    pub source: String,
}

/// A neural processor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Npu {
    /// Its name.
    pub name: String,
    /// Operations a second at 8 bits, in units of 10^12.
    pub tops: f64,
    /// The library that programs it.
    pub runtime: String,
    /// Where this is from.
    pub source: String,
}

macro_rules! profiles {
    ($($file:literal),* $(,)?) => {
        /// The texts of the profiles, with their files' names.
        const PROFILES: &[(&str, &str)] = &[$(($file, include_str!(concat!("../profiles/", $file, ".toml")))),*];
    };
}

// One line a board.
profiles![
    "orin-nano-8",
    "orin-nx-16",
    "agx-orin-64",
    "agx-thor",
    "raspberry-pi-5-8",
    "raspberry-pi-5-16",
    "orange-pi-5-16",
    "rock-5b-16",
    "imx8mp-evk",
    "pc",
];

/// What no figure of a profile is beyond: what is would be a mistake.
const LIMITS: [(&str, f64); 5] = [
    ("memory.gib", 4096.0),
    ("memory.bandwidth", 10_000.0),
    ("core.ghz", 10.0),
    ("core.int8", 4096.0),
    ("core.f32", 1024.0),
];

impl Profile {
    /// Reads a profile and checks its figures.
    ///
    /// # Errors
    /// [`BoardError::Profile`] naming the key.
    pub fn parse(file: &str, text: &str) -> Result<Self> {
        let refuse = |reason: String| BoardError::Profile {
            name: file.to_owned(),
            reason,
        };
        let profile: Profile = toml::from_str(text).map_err(|e| refuse(e.message().to_owned()))?;
        let memory = &profile.memory;
        let mut figures = vec![
            ("memory.gib", memory.gib),
            ("memory.bandwidth", memory.bandwidth),
        ];
        for core in &profile.core {
            figures.extend([
                ("core.ghz", core.ghz),
                ("core.int8", core.int8),
                ("core.f32", core.f32),
            ]);
            if !InstructionSet::ALL.iter().any(|set| set.name() == core.set) {
                return Err(refuse(format!(
                    "core.set \"{}\" is no instruction set",
                    core.set
                )));
            }
            if !(1..=1024).contains(&core.count) {
                return Err(refuse(format!("core.count {} is impossible", core.count)));
            }
        }
        for (key, figure) in figures {
            let most = LIMITS
                .iter()
                .find(|(name, _)| *name == key)
                .map_or(0.0, |(_, most)| *most);
            if !(figure > 0.0 && figure <= most) {
                return Err(refuse(format!(
                    "{key} {figure} is impossible: above 0 and at most {most} is expected"
                )));
            }
        }
        if !(0.0..memory.gib).contains(&memory.reserve_gib) {
            return Err(refuse(format!(
                "memory.reserve_gib {} is not below memory.gib {}",
                memory.reserve_gib, memory.gib
            )));
        }
        if profile.core.is_empty() {
            return Err(refuse("core is missing".to_owned()));
        }
        Ok(profile)
    }

    /// All profiles.
    ///
    /// # Errors
    /// [`BoardError::Profile`]; a test sees to it that there is none.
    pub fn all() -> Result<Vec<Self>> {
        let parse = |(file, text): &(&str, &str)| Profile::parse(file, text);
        PROFILES.iter().map(parse).collect()
    }

    /// The profile of this name.
    ///
    /// # Errors
    /// [`BoardError::Unknown`] with the names that there are.
    pub fn named(name: &str) -> Result<Self> {
        match PROFILES.iter().find(|(file, _)| *file == name) {
            Some((file, text)) => Profile::parse(file, text),
            None => Err(BoardError::Unknown {
                name: name.to_owned(),
                known: PROFILES
                    .iter()
                    .map(|(file, _)| *file)
                    .collect::<Vec<_>>()
                    .join(", "),
            }),
        }
    }

    /// The instruction set of its fastest cores.
    #[must_use]
    pub fn set(&self) -> InstructionSet {
        let core = self.core.first();
        let named = core.and_then(|core| {
            InstructionSet::ALL
                .into_iter()
                .find(|s| s.name() == core.set)
        });
        named.unwrap_or(InstructionSet::Scalar)
    }

    /// Bytes of memory that Kinglet may take.
    #[must_use]
    pub fn room(&self) -> u64 {
        ((self.memory.gib - self.memory.reserve_gib) * (1u64 << 30) as f64) as u64
    }

    /// Multiplications with additions a second of all cores together: of 8-bit integers, and of floats.
    #[must_use]
    pub fn ceilings(&self) -> (f64, f64) {
        let sum = |per_cycle: fn(&Core) -> f64| {
            let all = |core: &Core| f64::from(core.count) * core.ghz * 1e9 * per_cycle(core);
            self.core.iter().map(all).sum()
        };
        (sum(|core| core.int8), sum(|core| core.f32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_is_sound_and_called_as_its_file() {
        for (file, text) in PROFILES {
            let profile = Profile::parse(file, text).unwrap();
            assert_eq!(profile.name, *file);
            assert_eq!(Profile::named(file).unwrap(), profile);
            assert!(profile.room() > 1 << 30, "{file}");
            let (int8, f32) = profile.ceilings();
            assert!(int8 >= f32 && f32 > 1e9, "{file}");
        }
        let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/profiles")).unwrap();
        assert_eq!(
            files.count(),
            PROFILES.len(),
            "a profile that is not listed"
        );
    }

    #[test]
    fn impossible_figures_are_refused_by_name() {
        let text = PROFILES[0].1;
        for (from, to, words) in [
            ("gib = 7.4", "gib = 0", "memory.gib"),
            ("gib = 7.4", "gib = inf", "memory.gib"),
            ("bandwidth = 68", "bandwidth = 680000", "memory.bandwidth"),
            (
                "reserve_gib = 2.0",
                "reserve_gib = 9.0",
                "memory.reserve_gib",
            ),
            ("count = 6", "count = 0", "core.count"),
            ("neon-dotprod", "neon-magic", "neon-magic"),
            ("title", "titel", "titel"),
        ] {
            assert!(text.contains(from), "{from}");
            let refused = Profile::parse("x", &text.replacen(from, to, 1)).unwrap_err();
            assert!(refused.to_string().contains(words), "{refused}");
        }
        let unknown = Profile::named("toaster").unwrap_err().to_string();
        assert!(unknown.contains("raspberry-pi-5-8"), "{unknown}");
    }
}
