//! Whole models of random weights: reading and writing text, drawing.

use std::ffi::OsStr;
use std::hint::black_box;
use std::io::BufRead;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use clap::ValueEnum;
use kinglet_kernels::cpu::CacheFormat;
use kinglet_kernels::{Cpu, Device, Format, Roof};
use kinglet_model::autoencoder::Autoencoder;
use kinglet_model::linear::Loader;
use kinglet_model::{Context, Model, Source};
use kinglet_quant::pack::pack;
use kinglet_tests::shape::Shape;

use crate::peer::{Best, Peer};
use crate::row::Row;
use crate::{BenchError, ModelArguments, Result, random};

/// What is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Work {
    /// Qwen2.5-0.5B's shape: prefill of 128 and 512 tokens, decoding 64.
    #[value(name = "0.5b")]
    Small,
    /// Qwen2.5-1.5B's shape, the same.
    #[value(name = "1.5b")]
    Middle,
    /// SmolLM2-135M, its own weights, the same; norms of queries and keys that it has not are ones.
    #[value(name = "smollm2")]
    SmolLm2,
    /// Two layers of the 7B shape with 1,024 latent tokens: dense, and half of 37 experts.
    Pair,
    /// One layer of the 7B shape, with 28 heads of keys, and 1,024 latent tokens.
    Block,
    /// The autoencoder's decoder at 512 x 512.
    Decoder,
    /// One pass of the whole 7B shape for a picture of 256 x 256, and decoding.
    Whole,
    /// Loading the whole 7B shape from a packed container, which is made first (17 GB of disk).
    Start,
}

const SMALL: Shape = Shape {
    hidden: 896,
    inner: 4864,
    heads: 14,
    kv_heads: 2,
    layers: 24,
    vocabulary: 151_936,
    vision_layers: 1,
    ..Shape::RELEASE
};
const MIDDLE: Shape = Shape {
    hidden: 1536,
    inner: 8960,
    heads: 12,
    kv_heads: 2,
    layers: 28,
    ..SMALL
};
const SMOLLM2: Shape = Shape {
    hidden: 576,
    inner: 1536,
    heads: 9,
    kv_heads: 3,
    layers: 30,
    vocabulary: 49_152,
    ..SMALL
};
/// Both sides are measured so often in turn.
const TURNS: usize = 3;

pub(crate) fn run(cpu: Cpu, arguments: &ModelArguments, json: bool) -> Result<()> {
    let roof = Roof::measure(cpu.set());
    eprintln!(
        "{}: {:.0} Gop/s on integers, {:.1} GB/s read",
        cpu.describe(),
        roof.integers.unwrap_or(0.0) / 1e9,
        roof.read / 1e9
    );
    let default = [
        Work::Small,
        Work::Middle,
        Work::SmolLm2,
        Work::Pair,
        Work::Block,
        Work::Decoder,
    ];
    let all = if arguments.work.is_empty() {
        &default[..]
    } else {
        &arguments.work
    };
    let bench = Bench {
        cpu,
        roof,
        arguments,
        json,
    };
    for work in all {
        match work {
            Work::Small => {
                for format in [Format::Q8_0, Format::Q4_0] {
                    bench.random("0.5b", &SMALL, format)?;
                }
            }
            Work::Middle => {
                for format in [Format::Q8_0, Format::Q4_0, Format::Q4_K] {
                    bench.random("1.5b", &MIDDLE, format)?;
                }
            }
            Work::SmolLm2 => match &arguments.smollm2 {
                Some(file) => bench.smollm2(file)?,
                None => eprintln!("NOT MEASURED: smollm2, whose file is not given"),
            },
            Work::Pair => bench.pair()?,
            Work::Block => bench.block()?,
            Work::Decoder => bench.decoder()?,
            Work::Whole => bench.whole()?,
            Work::Start => bench.start()?,
        }
    }
    Ok(())
}

struct Bench<'a> {
    cpu: Cpu,
    roof: Roof,
    arguments: &'a ModelArguments,
    json: bool,
}

fn seconds<T>(f: impl FnOnce() -> Result<T>) -> Result<f64> {
    let start = Instant::now();
    black_box(f()?);
    Ok(start.elapsed().as_secs_f64())
}

/// The bytes that a token reads: all matrices of the understanding half, but only a row of the table.
pub(crate) fn read_by_a_token(source: &Source) -> f64 {
    let counts = |name: &str| {
        (name.starts_with("blk.") || name.starts_with("output")) && !name.contains("_gen")
    };
    let tensors = source.tensors.iter().filter(|(name, _)| counts(name));
    tensors.map(|(_, t)| t.bytes.len() as f64).sum()
}

/// Multiplications and additions of a token in the same matrices; the last one is for the last token.
pub(crate) fn operations_of_a_token(source: &Source) -> f64 {
    let counts = |name: &str| name.starts_with("blk.") && !name.contains("_gen");
    let tensors = source.tensors.iter().filter(|(name, _)| counts(name));
    tensors.map(|(_, t)| 2.0 * t.values() as f64).sum()
}

impl Bench<'_> {
    fn random(&self, name: &str, shape: &Shape, format: Format) -> Result<()> {
        let source = random::source(shape, format)?;
        let file = self.folder()?.join(format!("qwen2-{name}-{format}.gguf"));
        if self.arguments.llama.is_some() || self.arguments.candle.is_some() {
            random::write_qwen2(&source, &file)?;
        }
        let mut peers = self.llama(&file)?;
        if let Some(program) = &self.arguments.candle {
            let threads = rayon::current_num_threads().to_string();
            let arguments = [file.as_os_str(), OsStr::new(&threads)];
            peers.push(("candle", Peer::start(program, &arguments)?));
        }
        self.language(name, &source, format, &file, &mut peers)
    }

    /// Where model files are written.
    fn folder(&self) -> Result<&Path> {
        let folder = &self.arguments.folder;
        std::fs::create_dir_all(folder).map_err(|e| BenchError::File(folder.clone(), e))?;
        Ok(folder)
    }

    fn smollm2(&self, file: &Path) -> Result<()> {
        let (source, format) = random::with_weights_of(&SMOLLM2, file)?;
        self.language("smollm2", &source, format, file, &mut self.llama(file)?)
    }

    /// llama.cpp on a file, as it loads it and with its weights in large pages.
    fn llama(&self, file: &Path) -> Result<Vec<(&'static str, Peer)>> {
        let Some(program) = &self.arguments.llama else {
            return Ok(Vec::new());
        };
        let threads = rayon::current_num_threads().to_string();
        let arguments = [file.as_os_str(), OsStr::new(&threads), OsStr::new("own")];
        Ok(vec![
            ("llama.cpp", Peer::start(program, &arguments[..2])?),
            (
                "llama.cpp",
                Peer::start_in_large_pages(program, &arguments)?,
            ),
        ])
    }

    /// Reading 128 and 512 tokens, writing 64, and memory; the peers have `file`, which is the same model.
    fn language(
        &self,
        name: &str,
        source: &Source,
        format: Format,
        file: &Path,
        peers: &mut [(&str, Peer)],
    ) -> Result<()> {
        let (bytes, operations) = (read_by_a_token(source), operations_of_a_token(source));
        let model = Model::load(source, self.cpu)?;
        for tokens in [128, 512] {
            let ids: Vec<u32> = (0..tokens).map(|i| i as u32 * 37 % 1000).collect();
            let (ours, theirs) = self.alternate(peers, &format!("prefill {tokens}"), || {
                let mut context = model.context();
                seconds(|| next(&model, &mut context, &ids))
            })?;
            let limit = self
                .roof
                .integers
                .map(|roof| tokens as f64 * operations / roof);
            self.print(
                &format!("prefill {name} {tokens}"),
                format,
                tokens,
                ours,
                limit,
                &theirs,
            );
        }
        let (first, tokens) = ((0..16).collect::<Vec<u32>>(), 64);
        let (ours, theirs) = self.alternate(peers, &format!("decode {tokens}"), || {
            let mut context = model.context();
            next(&model, &mut context, &first)?;
            seconds(|| {
                (0..tokens as u32).try_for_each(|i| next(&model, &mut context, &[i * 41 % 1000]))
            })
        })?;
        let limit = Some(tokens as f64 * bytes / self.roof.read);
        self.print(
            &format!("decode {name} {tokens}"),
            format,
            tokens,
            ours,
            limit,
            &theirs,
        );
        self.memory(name, source, format, file, peers)
    }

    /// The most memory of a process that reads 512 tokens, by the bytes of its container: ours has the
    /// whole model in it, a peer's the half that understands.
    fn memory(
        &self,
        name: &str,
        source: &Source,
        format: Format,
        theirs: &Path,
        peers: &mut [(&str, Peer)],
    ) -> Result<()> {
        let file = self.folder()?.join(format!("{name}-{format}.gguf"));
        random::write(source, &file)?;
        let threads = rayon::current_num_threads().to_string();
        let own = std::env::current_exe().map_err(|e| BenchError::File(file.clone(), e))?;
        let mut ours = Peer::start(
            &own,
            &["--threads", &threads, "hold", &file.to_string_lossy()].map(OsStr::new),
        )?;
        let of = |bytes: f64, file: &Path| match std::fs::metadata(file) {
            Ok(m) => Ok(m.len() as f64 / bytes),
            Err(e) => Err(BenchError::File(file.to_owned(), e)),
        };
        let answer = ours.ask("memory")?;
        let most = answer.first().map_or(f64::INFINITY, |(_, bytes)| *bytes);
        let share = of(most, &file)?;
        let mut row = self.row(
            &format!("memory {name}"),
            format.name(),
            1.0 / share,
            "containers/peak",
        );
        if let Some((name, peer)) = peers.iter_mut().find(|(name, _)| *name == "candle") {
            let most = peer
                .ask("memory")?
                .first()
                .map_or(f64::INFINITY, |(_, bytes)| *bytes);
            let other = of(most, theirs)?;
            row.peer = Some((*name).to_owned());
            row.peer_config = Some("its own reader".to_owned());
            row.theirs = Some(other);
            row.ratio = Some(share / other);
        }
        row.ours = share;
        row.print(self.json);
        Ok(())
    }

    fn alternate(
        &self,
        peers: &mut [(&str, Peer)],
        question: &str,
        ours: impl Fn() -> Result<f64>,
    ) -> Result<(f64, Best)> {
        let (mut best, mut theirs) = (f64::INFINITY, Best::default());
        for _ in 0..TURNS {
            best = best.min(ours()?);
            for (name, peer) in peers.iter_mut() {
                let seen = peer.ask(question)?.into_iter();
                theirs.take(
                    seen.map(|(config, s)| (format!("{name} {config}"), s))
                        .collect(),
                );
            }
        }
        Ok((best, theirs))
    }

    /// One row for each configuration of the peer; `limit` is the least time that the machine allows.
    fn print(
        &self,
        work: &str,
        format: Format,
        tokens: usize,
        ours: f64,
        limit: Option<f64>,
        theirs: &Best,
    ) {
        let row = |peer: Option<(&str, f64)>| Row {
            work: work.to_owned(),
            format: format.name().to_owned(),
            threads: rayon::current_num_threads(),
            kernels: self.cpu.set().name().to_owned(),
            ours: tokens as f64 / ours,
            peer: peer.and_then(|(name, _)| Some(name.split_once(' ')?.0.to_owned())),
            peer_config: peer.and_then(|(name, _)| Some(name.split_once(' ')?.1.to_owned())),
            theirs: peer.map(|(_, seconds)| tokens as f64 / seconds),
            unit: "tokens/s",
            ratio: peer.map(|(_, seconds)| seconds / ours),
            roof: limit.map(|limit| limit / ours),
        };
        let mut rows: Vec<Row> = theirs.iter().map(|peer| row(Some(peer))).collect();
        if rows.is_empty() {
            rows.push(row(None));
        }
        for row in rows {
            row.print(self.json);
        }
    }

    fn velocity(&self, model: &Arc<Model<Cpu>>, side: usize, turns: usize) -> Result<f64> {
        let values = model.config.latent.token_values();
        let noise: Vec<f32> = (0..side * side * values)
            .map(|i| (i as f32 * 0.7).sin())
            .collect();
        let x = self.cpu.upload(&noise, values)?;
        let mut context = model.context();
        context.push_ids(&(0..16).collect::<Vec<u32>>(), &mut None)?;
        let mut best = f64::INFINITY;
        for _ in 0..turns {
            best = best.min(seconds(|| {
                Ok(context.velocity(&x, 0.75, (side, side), &mut None)?)
            })?);
        }
        Ok(best)
    }

    fn pair(&self) -> Result<()> {
        let dense = Shape {
            layers: 2,
            vision_layers: 1,
            ..Shape::RELEASE
        };
        let sparse = Shape {
            experts: 37,
            dense_ends: false,
            ..dense
        };
        let side = 32;
        for format in [Format::Q8_0, Format::Q4_0, Format::Q4_K] {
            let model = |shape| {
                Ok::<_, BenchError>(Model::load(&random::source(shape, format)?, self.cpu)?)
            };
            let (dense, sparse) = (model(&dense)?, model(&sparse)?);
            let (mut one, mut other) = (f64::INFINITY, f64::INFINITY);
            for _ in 0..TURNS {
                one = one.min(self.velocity(&dense, side, 1)?);
                other = other.min(self.velocity(&sparse, side, 1)?);
            }
            let row = |name: &str, ours: f64, theirs: Option<f64>| Row {
                work: format!("two 7B layers, 1024 latents, {name}"),
                format: format.name().to_owned(),
                threads: rayon::current_num_threads(),
                kernels: self.cpu.set().name().to_owned(),
                ours: 1.0 / ours,
                peer: theirs.map(|_| "our own".to_owned()),
                peer_config: theirs.map(|_| "dense".to_owned()),
                theirs: theirs.map(|theirs| 1.0 / theirs),
                unit: "passes/s",
                ratio: theirs.map(|theirs| theirs / ours),
                roof: None,
            };
            row("dense", one, None).print(self.json);
            row("18 of 37 experts", other, Some(one)).print(self.json);
        }
        Ok(())
    }

    /// A layer beside stable-diffusion.cpp's block. Ours has two markers of the other branch, 16 tokens before it, and
    /// the way from latents to velocities, too.
    fn block(&self) -> Result<()> {
        let shape = Shape {
            layers: 1,
            kv_heads: Shape::RELEASE.heads,
            vision_layers: 1,
            vocabulary: 1024,
            ..Shape::RELEASE
        };
        let side: usize = 32;
        let threads = rayon::current_num_threads().to_string();
        for format in [Format::Q8_0, Format::Q4_0, Format::Q4_K] {
            let model = Model::load(&random::source(&shape, format)?, self.cpu)?;
            let mut peers = Vec::new();
            for (name, program) in &self.arguments.sd {
                let arguments = [format.name(), &threads].map(OsStr::new);
                peers.push((name.as_str(), Peer::start(program, &arguments)?));
            }
            let tokens = side * side;
            let (ours, theirs) = self.alternate(&mut peers, &format!("block {tokens}"), || {
                self.velocity(&model, side, 1)
            })?;
            let work = format!("transformer block, {tokens} latents");
            let row = || self.row(&work, format.name(), ours, "passes/s");
            if peers.is_empty() {
                row().print(self.json);
            }
            for (config, seconds) in theirs.iter() {
                let mut row = row();
                row.peer = Some("stable-diffusion.cpp".to_owned());
                row.peer_config = Some(config.to_owned());
                row.theirs = Some(1.0 / seconds);
                row.ratio = Some(seconds / ours);
                row.print(self.json);
            }
        }
        Ok(())
    }

    fn decoder(&self) -> Result<()> {
        let shape = Shape {
            layers: 1,
            vision_layers: 1,
            vocabulary: 1024,
            ..Shape::RELEASE
        };
        let source = random::source(&shape, Format::Q8_0)?;
        let loader = Loader {
            device: &self.cpu,
            source: &source,
            audit: None,
        };
        let autoencoder = Autoencoder::load(loader, &source.config)?;
        let side = 64;
        let channels = source.config.latent.channels;
        let latents: Vec<f32> = (0..side * side * channels)
            .map(|i| (i as f32 * 0.7).sin())
            .collect();
        let latents = self.cpu.upload(&latents, channels)?;
        let mut best = f64::INFINITY;
        for _ in 0..TURNS {
            best = best.min(seconds(|| {
                Ok(autoencoder.decode(&self.cpu, &latents, side, side)?)
            })?);
        }
        self.alone("autoencoder, decode 512x512", "F32", best, "pictures/s");
        Ok(())
    }

    fn whole(&self) -> Result<()> {
        let format = Format::Q4_0;
        let start = Instant::now();
        let model = Model::load(&random::source(&Shape::RELEASE, format)?, self.cpu)?;
        let made = start.elapsed().as_secs_f64();
        self.alone("7B shape, made and packed", format.name(), made, "loads/s");
        let best = self.velocity(&model, 16, 2)?;
        self.alone(
            "7B shape, pass for 256x256",
            format.name(),
            best,
            "passes/s",
        );
        let mut context = model.context();
        next(&model, &mut context, &(0..16).collect::<Vec<u32>>())?;
        let tokens = 8;
        let decode = seconds(|| (0..tokens).try_for_each(|i| next(&model, &mut context, &[i])))?;
        let token = decode / f64::from(tokens);
        self.alone("7B shape, decode", format.name(), token, "tokens/s");
        Ok(())
    }

    fn start(&self) -> Result<()> {
        let folder = self.folder()?;
        let (plain, packed) = (folder.join("7b.gguf"), folder.join("7b-packed.gguf"));
        random::write(&random::source(&Shape::RELEASE, Format::Q4_0)?, &plain)?;
        let pack = seconds(|| Ok(pack(&plain, self.cpu.set(), &packed, &mut |_, _| {})?))?;
        self.alone("7B shape, packing", "Q4_0", pack, "files/s");
        for (name, file) in [("plain", &plain), ("packed", &packed)] {
            let mut best = [f64::INFINITY; 2];
            for _ in 0..TURNS {
                let start = Instant::now();
                let model = Model::load(&Source::open(file)?, self.cpu)?;
                best[0] = best[0].min(start.elapsed().as_secs_f64());
                next(&model, &mut model.context(), &[1, 2, 3])?;
                best[1] = best[1].min(start.elapsed().as_secs_f64());
            }
            self.alone(
                &format!("7B shape, {name}, load"),
                "Q4_0",
                best[0],
                "starts/s",
            );
            let work = format!("7B shape, {name}, load and a word");
            self.alone(&work, "Q4_0", best[1], "starts/s");
        }
        Ok(())
    }

    fn alone(&self, work: &str, format: &str, seconds: f64, unit: &'static str) {
        self.row(work, format, seconds, unit).print(self.json);
    }

    fn row(&self, work: &str, format: &str, seconds: f64, unit: &'static str) -> Row {
        Row {
            work: work.to_owned(),
            format: format.to_owned(),
            threads: rayon::current_num_threads(),
            kernels: self.cpu.set().name().to_owned(),
            ours: 1.0 / seconds,
            peer: None,
            peer_config: None,
            theirs: None,
            unit,
            ratio: None,
            roof: None,
        }
    }
}

/// Loads a container, reads 512 tokens and answers every line with the most memory so far in bytes.
pub(crate) fn hold(cpu: Cpu, file: &Path) -> Result<()> {
    let source = Source::open(file)?;
    let model = Model::load(&source, cpu.with_cache(CacheFormat::F16))?;
    let ids: Vec<u32> = (0..512).map(|i| i * 37 % 1000).collect();
    next(&model, &mut model.context(), &ids)?;
    for _ in std::io::stdin().lock().lines() {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let most = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
        let kilobytes = most.and_then(|l| l.split_whitespace().next()?.parse::<f64>().ok());
        println!(
            "kinglet={}",
            kilobytes.map_or(f64::INFINITY, |k| k * 1024.0)
        );
    }
    Ok(())
}

/// Reads tokens and computes the logits behind the last one.
pub(crate) fn next<D: Device>(
    model: &Arc<Model<D>>,
    context: &mut Context<D>,
    ids: &[u32],
) -> Result<()> {
    let rows = context.push_ids(ids, &mut None)?;
    let last = model.device.gather_rows(&rows, &[ids.len() as u32 - 1])?;
    black_box(model.language.logits(&model.device, &last)?);
    Ok(())
}
