//! RKNN graphs by Rockchip's librknnrt, which is opened at run time: building needs nothing of it.
//!
//! Functions, numbers and structures are those of the C interface of versions 2.x. It has met a stand-in library that
//! a C compiler built from the same declarations (`boards/tests/rknn.rs`), and no real chip yet.

#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_void};
use std::path::PathBuf;
use std::sync::Arc;

use kinglet_kernels::{FixedGraph, GraphError, Port};
use libloading::{Library, Symbol};

use crate::probe::numbers;

/// The file of the library, where it is not found by its name.
pub const LIBRARY: &str = "KINGLET_RKNNRT";
/// The library's versions that this was written for: these structures.
const VERSIONS: std::ops::Range<u32> = 2..3;
/// The oldest driver that goes with them (README of Rockchip's rknn-toolkit2).
const DRIVER: [u32; 3] = [0, 9, 2];
/// What a file of a graph begins with.
const MAGIC: &[u8] = b"RKNN";

const MOST_DIMENSIONS: usize = 16;
const NAME: usize = 256;
/// The most values of an input or an output.
const MOST_VALUES: usize = 64 << 20;

// Commands of rknn_query.
const IN_OUT_NUM: c_int = 0;
const INPUT_ATTR: c_int = 1;
const OUTPUT_ATTR: c_int = 2;
const SDK_VERSION: c_int = 5;
// Orders and types of values.
const NCHW: c_int = 0;
const NHWC: c_int = 1;
const UNDEFINED: c_int = 3;
const FLOAT32: c_int = 0;

type Context = u64;

#[repr(C)]
#[derive(Default)]
struct Counts {
    inputs: u32,
    outputs: u32,
}

#[repr(C)]
struct Attributes {
    index: u32,
    dimensions: u32,
    sides: [u32; MOST_DIMENSIONS],
    name: [c_char; NAME],
    values: u32,
    bytes: u32,
    order: c_int,
    kind: c_int,
    quantization: c_int,
    fraction: i8,
    zero: i32,
    scale: f32,
    row_stride: u32,
    bytes_with_stride: u32,
    pass_through: u8,
    column_stride: u32,
}

#[repr(C)]
struct Versions {
    library: [c_char; NAME],
    driver: [c_char; NAME],
}

#[repr(C)]
struct Input {
    index: u32,
    values: *mut c_void,
    bytes: u32,
    pass_through: u8,
    kind: c_int,
    order: c_int,
}

#[repr(C)]
struct Output {
    want_float: u8,
    is_ours: u8,
    index: u32,
    values: *mut c_void,
    bytes: u32,
}

type Init = unsafe extern "C" fn(*mut Context, *mut c_void, u32, u32, *mut c_void) -> c_int;
type Destroy = unsafe extern "C" fn(Context) -> c_int;
type Query = unsafe extern "C" fn(Context, c_int, *mut c_void, u32) -> c_int;
type SetInputs = unsafe extern "C" fn(Context, u32, *mut Input) -> c_int;
type Run = unsafe extern "C" fn(Context, *mut c_void) -> c_int;
type GetOutputs = unsafe extern "C" fn(Context, u32, *mut Output, *mut c_void) -> c_int;
type ReleaseOutputs = unsafe extern "C" fn(Context, u32, *mut Output) -> c_int;

/// The library.
pub struct Runtime {
    // The functions live as long as the library, which is last.
    init: Init,
    destroy: Destroy,
    query: Query,
    set_inputs: SetInputs,
    run: Run,
    get_outputs: GetOutputs,
    release_outputs: ReleaseOutputs,
    _library: Library,
}

impl Runtime {
    /// Opens librknnrt.so: `KINGLET_RKNNRT`, or where the system finds it.
    ///
    /// # Errors
    /// [`GraphError`] if it is not there, or is another library.
    pub fn find() -> Result<Arc<Self>, GraphError> {
        let own = std::env::var_os(LIBRARY).map(PathBuf::from);
        Self::open(&own.unwrap_or_else(|| PathBuf::from("librknnrt.so")))
    }

    /// Opens the library in this file.
    ///
    /// # Errors
    /// As [`Runtime::find`].
    pub fn open(file: &std::path::Path) -> Result<Arc<Self>, GraphError> {
        let named = |e: libloading::Error| {
            let cause = std::error::Error::source(&e).map(|cause| format!(": {cause}"));
            let reason = format!("{e}{}", cause.unwrap_or_default());
            GraphError(format!(
                "Rockchip's library cannot be used: {}; install librknnrt.so, or name it in {LIBRARY}",
                super::short(&reason)
            ))
        };
        // SAFETY: a library's start code runs; that the user names one is the trust that is given to it.
        let library = unsafe { Library::new(file) }.map_err(named)?;
        let init = function(&library, "rknn_init").map_err(named)?;
        let destroy = function(&library, "rknn_destroy").map_err(named)?;
        let query = function(&library, "rknn_query").map_err(named)?;
        let set_inputs = function(&library, "rknn_inputs_set").map_err(named)?;
        let run = function(&library, "rknn_run").map_err(named)?;
        let get_outputs = function(&library, "rknn_outputs_get").map_err(named)?;
        let release_outputs = function(&library, "rknn_outputs_release").map_err(named)?;
        Ok(Arc::new(Runtime {
            init,
            destroy,
            query,
            set_inputs,
            run,
            get_outputs,
            release_outputs,
            _library: library,
        }))
    }

    /// Loads a graph onto the NPU.
    ///
    /// # Errors
    /// [`GraphError`]: no RKNN file, a library or driver of another version, no chip, a graph that has not one input
    /// and one output of known shapes.
    pub fn graph(self: &Arc<Self>, bytes: &[u8]) -> Result<RknnGraph, GraphError> {
        if !bytes.starts_with(MAGIC) {
            return Err(GraphError("it is no RKNN file".to_owned()));
        }
        let size = u32::try_from(bytes.len());
        let size = size.map_err(|_| GraphError("it is larger than 4 GiB".to_owned()))?;
        let mut copy = bytes.to_vec();
        let mut context: Context = 0;
        // SAFETY: the library reads `size` bytes at `copy`, which live through the call, and writes the context.
        let code = unsafe {
            (self.init)(
                &raw mut context,
                copy.as_mut_ptr().cast(),
                size,
                0,
                std::ptr::null_mut(),
            )
        };
        said("rknn_init", code)?;
        let held = Held {
            runtime: Arc::clone(self),
            context,
        };
        let runs_on = held.versions()?;
        let counts: Counts = held.ask("the number of inputs", IN_OUT_NUM, Counts::default())?;
        if (counts.inputs, counts.outputs) != (1, 1) {
            return Err(GraphError(format!(
                "it has {} inputs and {} outputs; one each is expected",
                counts.inputs, counts.outputs
            )));
        }
        let (input, order) = held.port(INPUT_ATTR)?;
        let (output, given) = held.port(OUTPUT_ATTR)?;
        if given == NHWC && output.shape.len() == 4 {
            return Err(GraphError(
                "its output is in channels-last order; convert it without".to_owned(),
            ));
        }
        Ok(RknnGraph {
            held,
            runs_on,
            input,
            output,
            order,
        })
    }
}

/// A function of the library.
fn function<T: Copy>(library: &Library, name: &str) -> Result<T, libloading::Error> {
    // SAFETY: the caller's type is that of the C interface of versions 2.x; the version is checked before a function
    // is called that other versions have otherwise.
    unsafe { library.get(name.as_bytes()) }.map(|symbol: Symbol<'_, T>| *symbol)
}

/// A context, ended when it is dropped.
struct Held {
    runtime: Arc<Runtime>,
    context: Context,
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: the context came from rknn_init and is not used after this.
        unsafe { (self.runtime.destroy)(self.context) };
    }
}

impl Held {
    fn ask<T>(&self, what: &'static str, command: c_int, mut answer: T) -> Result<T, GraphError> {
        // SAFETY: the library writes at most the size it is told into `answer`, which has the C layout.
        let code = unsafe {
            (self.runtime.query)(
                self.context,
                command,
                (&raw mut answer).cast(),
                size_of::<T>() as u32,
            )
        };
        said(what, code)?;
        Ok(answer)
    }

    /// Checks the versions of library and driver, and says them.
    fn versions(&self) -> Result<String, GraphError> {
        let empty = Versions {
            library: [0; NAME],
            driver: [0; NAME],
        };
        let versions = self.ask("its version", SDK_VERSION, empty)?;
        let (library, driver) = (text(&versions.library), text(&versions.driver));
        let number = |text: &str| numbers(text).ok_or(());
        match number(&library) {
            Ok(v) if VERSIONS.contains(&v[0]) => {}
            _ => {
                return Err(GraphError(format!(
                    "librknnrt says that it is version \"{library}\"; {}.x is supported",
                    VERSIONS.start
                )));
            }
        }
        match number(&driver) {
            Ok(v) if v >= DRIVER => {}
            _ => {
                let [a, b, c] = DRIVER;
                return Err(GraphError(format!(
                    "the NPU's driver says that it is version \"{driver}\"; librknnrt {library} wants {a}.{b}.{c} or later: update the kernel"
                )));
            }
        }
        Ok(format!("the NPU (librknnrt {library}, driver {driver})"))
    }

    /// The one input or output, in the order (1, channels, height, width), and the library's own order.
    fn port(&self, command: c_int) -> Result<(Port, c_int), GraphError> {
        // SAFETY: zero is a value of every field.
        let empty: Attributes = unsafe { std::mem::zeroed() };
        let a = self.ask("a shape", command, empty)?;
        let count = a.dimensions as usize;
        let sides = a.sides.get(..count).filter(|sides| !sides.is_empty());
        let sides = sides.ok_or_else(|| {
            GraphError(format!(
                "it has a shape of {count} dimensions; 1 to {MOST_DIMENSIONS} are accepted"
            ))
        })?;
        let mut shape: Vec<usize> = sides.iter().map(|side| *side as usize).collect();
        if a.order == NHWC && count == 4 {
            shape = vec![shape[0], shape[3], shape[1], shape[2]];
        }
        let port = Port {
            name: text(&a.name),
            shape,
        };
        if port.values() == 0 || port.values() > MOST_VALUES || port.values() != a.values as usize {
            return Err(GraphError(format!(
                "\"{}\" of {:?} has {} values; 1 to {MOST_VALUES} are accepted",
                port.name, port.shape, a.values
            )));
        }
        Ok((port, a.order))
    }
}

/// A graph on the NPU.
pub struct RknnGraph {
    held: Held,
    runs_on: String,
    input: Port,
    output: Port,
    /// The order of the input's values.
    order: c_int,
}

impl FixedGraph for RknnGraph {
    fn runs_on(&self) -> &str {
        &self.runs_on
    }

    fn input(&self) -> &Port {
        &self.input
    }

    fn output(&self) -> &Port {
        &self.output
    }

    fn run(&mut self, input: &[f32]) -> Result<Vec<f32>, GraphError> {
        if input.len() != self.input.values() {
            let (got, expected) = (input.len(), self.input.values());
            return Err(GraphError(format!(
                "{got} values were given, it takes {expected}"
            )));
        }
        let picture = self.order == NHWC && self.input.shape.len() == 4;
        let mut values = if picture {
            channels_last(input, self.input.shape[1])
        } else {
            input.to_vec()
        };
        let order = match self.order {
            NHWC if picture => NHWC,
            NCHW if self.input.shape.len() == 4 => NCHW,
            _ => UNDEFINED,
        };
        let mut given = Input {
            index: 0,
            values: values.as_mut_ptr().cast(),
            bytes: (values.len() * size_of::<f32>()) as u32,
            pass_through: 0,
            kind: FLOAT32,
            order,
        };
        let (runtime, context) = (&self.held.runtime, self.held.context);
        // SAFETY: one input of as many bytes as `values` has, which lives through the call; the library copies it.
        said("rknn_inputs_set", unsafe {
            (runtime.set_inputs)(context, 1, &raw mut given)
        })?;
        // SAFETY: the context is alive; there is no extension.
        said("rknn_run", unsafe {
            (runtime.run)(context, std::ptr::null_mut())
        })?;
        let mut got = Output {
            want_float: 1,
            is_ours: 0,
            index: 0,
            values: std::ptr::null_mut(),
            bytes: 0,
        };
        // SAFETY: the library fills one output with memory of its own, which it is given back below.
        said("rknn_outputs_get", unsafe {
            (runtime.get_outputs)(context, 1, &raw mut got, std::ptr::null_mut())
        })?;
        let expected = self.output.values();
        let floats = got.bytes as usize / size_of::<f32>();
        let whole = !got.values.is_null() && floats == expected;
        let copied = whole.then(|| {
            let mut out = vec![0f32; expected];
            // SAFETY: the library says that so many bytes are there. Bytes, since it promises no alignment.
            unsafe {
                std::ptr::copy_nonoverlapping(
                    got.values.cast::<u8>(),
                    out.as_mut_ptr().cast::<u8>(),
                    expected * size_of::<f32>(),
                );
            }
            out
        });
        // SAFETY: what rknn_outputs_get filled, once.
        unsafe { (runtime.release_outputs)(context, 1, &raw mut got) };
        copied.ok_or_else(|| GraphError(format!("it gave {floats} values, not {expected}")))
    }
}

fn channels_last(values: &[f32], channels: usize) -> Vec<f32> {
    let pixels = values.len() / channels;
    let mut out = Vec::with_capacity(values.len());
    for pixel in 0..pixels {
        out.extend((0..channels).map(|channel| values[channel * pixels + pixel]));
    }
    out
}

fn text(chars: &[c_char]) -> String {
    let bytes: Vec<u8> = chars
        .iter()
        .map(|c| *c as u8)
        .take_while(|b| *b != 0)
        .collect();
    super::short(&String::from_utf8_lossy(&bytes))
}

fn said(what: &str, code: c_int) -> Result<(), GraphError> {
    let meaning = match code {
        0 => return Ok(()),
        -1 => "it failed",
        -2 => "it took too long",
        -3 => "the NPU is not there",
        -4 => "no memory",
        -5 => "a wrong argument",
        -6 => "the file is no graph for this library",
        -7 => "the context is gone",
        -8 => "a wrong input",
        -9 => "a wrong output",
        -10 => "the library does not go with the driver or the chip",
        -12 => "the graph was converted for another version of the library",
        -13 => "the graph was converted for another chip",
        _ => "an error that has no name here",
    };
    Err(GraphError(format!("{what}: {meaning} ({code})")))
}
