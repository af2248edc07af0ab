//! Tasks as the driver takes them: one by one, or as a graph of nodes in a chain.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::ptr::{null, null_mut};

use cudarc::driver::{result, sys};

use super::driver::Driver;
use super::queue::{Issue, Task};
use crate::error::Result;

/// Bytes of `Words` in kernels/cuda/rows.cu: what one launch brings.
const WORDS: usize = 2048;
/// The most bytes that come with launches instead of being copied.
pub(super) const MOST_PUT: usize = 8 * WORDS;
const PUT_THREADS: u32 = 128;

/// A sequence that is launched as one.
pub(super) struct Graph {
    graph: sys::CUgraph,
    ready: sys::CUgraphExec,
    /// The nodes of every task, as many as it has launches.
    nodes: Vec<Vec<sys::CUgraphNode>>,
}

// SAFETY: the driver's handles may be used from any thread whose current context is theirs; whoever has a graph, the
// driver's queue, makes it so.
unsafe impl Send for Graph {}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: both handles are this one's; nothing of the graph runs any more after the wait.
        unsafe {
            let _ = sys::cuStreamSynchronize(null_mut());
            if !self.ready.is_null() {
                let _ = result::graph::exec_destroy(self.ready);
            }
            let _ = result::graph::destroy(self.graph);
        }
    }
}

/// A kernel with its arguments.
struct Call {
    kernel: sys::CUfunction,
    grid: [u32; 3],
    threads: u32,
    arguments: Vec<Vec<u64>>,
}

impl Call {
    fn pointers(&mut self) -> Vec<*mut c_void> {
        let cells = self.arguments.iter_mut();
        cells.map(|cell| cell.as_mut_ptr().cast()).collect()
    }

    /// Hands the call to the driver as the parameters of a node; they are copied there.
    fn parameters<T>(&mut self, take: impl FnOnce(&sys::CUDA_KERNEL_NODE_PARAMS) -> T) -> T {
        let mut pointers = self.pointers();
        let [x, y, z] = self.grid;
        take(&sys::CUDA_KERNEL_NODE_PARAMS {
            func: self.kernel,
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: self.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: 0,
            kernelParams: pointers.as_mut_ptr(),
            extra: null_mut(),
            kern: null_mut(),
            ctx: null_mut(),
        })
    }
}

impl Driver {
    /// The launches of a task; none for what is no kernel.
    fn calls(&self, task: &Task) -> Result<Vec<Call>> {
        match task {
            Task::Launch {
                kernel,
                grid,
                threads,
                arguments,
                ..
            } => Ok(vec![Call {
                kernel: *kernel as sys::CUfunction,
                grid: *grid,
                threads: *threads,
                arguments: arguments.clone(),
            }]),
            Task::Put { to, bytes } => {
                let kernel = self.kernel("put")?;
                let put = |(i, part): (usize, &[u8])| {
                    let mut words = vec![0; WORDS / 8];
                    for (word, bytes) in words.iter_mut().zip(part.chunks(8)) {
                        let mut cell = [0; 8];
                        cell[..bytes.len()].copy_from_slice(bytes);
                        *word = u64::from_ne_bytes(cell);
                    }
                    let count = (part.len() / 4) as u64;
                    Call {
                        kernel,
                        grid: [1, 1, 1],
                        threads: PUT_THREADS,
                        // A count of 32 bits begins its cell.
                        arguments: vec![vec![to + (i * WORDS) as u64], words, vec![count.to_le()]],
                    }
                };
                Ok(bytes.chunks(WORDS).enumerate().map(put).collect())
            }
            Task::Copy { .. } | Task::Zero { .. } => Ok(Vec::new()),
        }
    }

    /// Adds a task after a node, which becomes its last one.
    fn add(
        &self,
        graph: &mut Graph,
        last: &mut Option<sys::CUgraphNode>,
        task: &Task,
    ) -> Result<()> {
        let mut add = |node: &dyn Fn(
            *mut sys::CUgraphNode,
            *const sys::CUgraphNode,
            usize,
        ) -> sys::CUresult| {
            let before = *last;
            let at = before.as_ref().map_or(null(), std::ptr::from_ref);
            let mut made = null_mut();
            let code = node(&raw mut made, at, usize::from(before.is_some()));
            code.result().map_err(|e| self.lost("a graph", e))?;
            *last = Some(made);
            Ok::<_, crate::KernelError>(made)
        };
        let mut nodes = Vec::new();
        for mut call in self.calls(task)? {
            let handle = graph.graph;
            let made = call.parameters(|parameters| {
                // SAFETY: the graph lives; the node before is one of its own; parameters are copied.
                add(&|node, before, count| unsafe {
                    sys::cuGraphAddKernelNode_v2(node, handle, before, count, parameters)
                })
            })?;
            nodes.push(made);
        }
        graph.nodes.push(nodes);
        match task {
            Task::Launch { .. } | Task::Put { .. } => {}
            Task::Copy { to, from, bytes } => {
                let copy = flat_copy(*to, *from, *bytes);
                // SAFETY: the graph lives; the node before is one of its own; parameters are copied.
                add(&|node, before, count| unsafe {
                    sys::cuGraphAddMemcpyNode(
                        node,
                        graph.graph,
                        before,
                        count,
                        &raw const copy,
                        self.context,
                    )
                })?;
            }
            Task::Zero { at, bytes } => {
                let zero = sys::CUDA_MEMSET_NODE_PARAMS {
                    dst: *at,
                    pitch: 0,
                    value: 0,
                    elementSize: 1,
                    width: *bytes,
                    height: 1,
                };
                // SAFETY: as above.
                add(&|node, before, count| unsafe {
                    sys::cuGraphAddMemsetNode(
                        node,
                        graph.graph,
                        before,
                        count,
                        &raw const zero,
                        self.context,
                    )
                })?;
            }
        }
        Ok(())
    }
}

/// A copy of bytes in a row.
fn flat_copy(to: u64, from: u64, bytes: usize) -> sys::CUDA_MEMCPY3D {
    let device = sys::CUmemorytype::CU_MEMORYTYPE_DEVICE;
    sys::CUDA_MEMCPY3D {
        srcXInBytes: 0,
        srcY: 0,
        srcZ: 0,
        srcLOD: 0,
        srcMemoryType: device,
        srcHost: null(),
        srcDevice: from,
        srcArray: null_mut(),
        reserved0: null_mut(),
        srcPitch: 0,
        srcHeight: 0,
        dstXInBytes: 0,
        dstY: 0,
        dstZ: 0,
        dstLOD: 0,
        dstMemoryType: device,
        dstHost: null_mut(),
        dstDevice: to,
        dstArray: null_mut(),
        reserved1: null_mut(),
        dstPitch: 0,
        dstHeight: 0,
        WidthInBytes: bytes,
        Height: 1,
        Depth: 1,
    }
}

impl Issue for Driver {
    type Graph = Graph;

    fn issue(&self, task: &Task) -> Result<()> {
        let stream = null_mut();
        for mut call in self.calls(task)? {
            let [x, y, z] = call.grid;
            let (kernel, block) = (call.kernel, (call.threads, 1, 1));
            let mut pointers = call.pointers();
            // SAFETY: whoever gave the task answers for its arguments and memory; arguments are copied by the call.
            unsafe { result::launch_kernel(kernel, (x, y, z), block, 0, stream, &mut pointers) }
                .map_err(|e| self.lost(&self.name_of(kernel), e))?;
        }
        match task {
            Task::Launch { .. } | Task::Put { .. } => Ok(()),
            Task::Copy { to, from, bytes } => {
                // SAFETY: whoever gave the task answers for its memory.
                unsafe { result::memcpy_dtod_async(*to, *from, *bytes, stream) }
                    .map_err(|e| self.lost("copying", e))
            }
            Task::Zero { at, bytes } => {
                // SAFETY: as above.
                unsafe { result::memset_d8_async(*at, 0, *bytes, stream) }
                    .map_err(|e| self.lost("clearing", e))
            }
        }
    }

    fn graph(&self, tasks: &[Task]) -> Result<Graph> {
        let mut handle = null_mut();
        // SAFETY: the driver writes a handle.
        let code = unsafe { sys::cuGraphCreate(&raw mut handle, 0) };
        code.result().map_err(|e| self.lost("a graph", e))?;
        let mut graph = Graph {
            graph: handle,
            ready: null_mut(),
            nodes: Vec::new(),
        };
        let mut last = None;
        for task in tasks {
            self.add(&mut graph, &mut last, task)?;
        }
        let flags = sys::CUgraphInstantiate_flags(0);
        // SAFETY: the graph was just made.
        graph.ready = unsafe { result::graph::instantiate(graph.graph, flags) }
            .map_err(|e| self.lost("a graph", e))?;
        Ok(graph)
    }

    fn launch(&self, graph: &Graph, before: &[Task], tasks: &[Task]) -> Result<()> {
        let changed = before.iter().zip(tasks).zip(&graph.nodes);
        for ((_, task), nodes) in changed.filter(|((before, task), _)| before != task) {
            for (mut call, node) in self.calls(task)?.into_iter().zip(nodes) {
                // SAFETY: the node is one of this graph's, the parameters are copied; launches before this one keep
                // theirs.
                let code = call.parameters(|parameters| unsafe {
                    sys::cuGraphExecKernelNodeSetParams_v2(graph.ready, *node, parameters)
                });
                code.result().map_err(|e| self.lost("a graph", e))?;
            }
        }
        // SAFETY: whoever gave the tasks answers for their arguments and memory, which are those that the graph has.
        unsafe { result::graph::launch(graph.ready, null_mut()) }
            .map_err(|e| self.lost("a graph", e))
    }
}
