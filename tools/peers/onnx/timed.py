#!/usr/bin/env python3
"""onnxruntime as a peer of tools/bench.

usage: timed.py FILE.onnx THREADS

Reads lines "run N" and answers each with one line: "threads-THREADS=SECONDS", the best of N runs.
"""

import sys
import time

import numpy
import onnxruntime

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(sys.argv[2])
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
port = session.get_inputs()[0]
count = int(numpy.prod(port.shape))
values = (numpy.arange(count) % 101 / 101).astype(numpy.float32).reshape(port.shape)
for line in sys.stdin:
    best = float("inf")
    for _ in range(int(line.split()[1])):
        start = time.perf_counter()
        session.run(None, {port.name: values})
        best = min(best, time.perf_counter() - start)
    print(f"threads-{sys.argv[2]}={best:.9f}", flush=True)
