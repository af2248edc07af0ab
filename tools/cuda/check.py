"""Looks at compiled kernels: registers, spills, memory of a block, and the instructions that were meant.

usage: check.py CUBINS FOLDER_OF_CUOBJDUMP

CUBINS holds sm_XY.cubin, as `cargo test -p kinglet-kernels --features cuda --test nvrtc` writes them.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

REGISTERS = 128  # 512 threads a multiprocessor at least
MOST = {"experts_matrix": 168}  # where the tile must be found first: 384 threads
SHARED = 48 << 10  # what a block has on every chip
LONG = {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K"}
PLANES = {"Q4_0", "Q8_0", "Q4_K", "Q6_K"}  # whose integers lie apart
SHORT = {"Q2_K", "Q3_K", "Q6_K"}


def dump(tools, *arguments):
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
    return subprocess.run([f"{tools}/cuobjdump", *arguments], env=environment, capture_output=True, text=True, check=True).stdout


def usage(text):
    """{kernel: {REG: 40, ...}}"""
    found = {}
    for name, line in re.findall(r"Function (\w+):\s*\n\s*(.*)", text):
        found[name] = {key: int(value) for key, value in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", line)}
    return found


def instructions(text):
    """{kernel: what it is made of}"""
    parts = re.split(r"Function : (\w+)", text)
    return dict(zip(parts[1::2], parts[2::2]))


def main(cubins, tools):
    wrong, chips = [], 0
    for file in sorted(cubins.glob("sm_*.cubin")):
        chips += 1
        kernels = usage(dump(tools, "-res-usage", str(file)))
        if len(kernels) < 60:
            wrong.append(f"{file.name}: only {len(kernels)} kernels are found")
        for name, used in kernels.items():
            bound = next((n for start, n in MOST.items() if name.startswith(start)), REGISTERS)
            if used["REG"] > bound or used["STACK"] or used["LOCAL"] or used["SHARED"] > SHARED:
                wrong.append(f"{file.name}: {name} takes {used}")
        most = max(kernels, key=lambda name: kernels[name]["REG"])
        said = f"{file.stem}: {len(kernels)} kernels, at most {kernels[most]['REG']} registers ({most}), nothing spilled"
        # Tools of CUDA 13 read no sm_72.
        if file.stem != "sm_72":
            code = instructions(dump(tools, "-sass", str(file)))
            meant = {f"matrix_{f}": "IMMA.16832.S8.S8" for f in LONG}
            meant |= {f"matrix_{f}": "IMMA.16816.S8.S8" for f in SHORT}
            meant |= {f"vector_{f}": "IDP.4A" for f in LONG | SHORT}
            meant |= {f"gated_{f}": "IDP.4A" for f in LONG | SHORT}
            meant |= {f"flash_{head}": "HMMA.16816.F32" for head in (64, 80, 128)}
            meant |= {"rounded_F16": "HMMA.16816.F32 ", "rounded_BF16": "HMMA.16816.F32.BF16"}
            # Matrices of halves come from shared memory by the instruction for it.
            loads = {name: "LDSM.16" for name, instruction in meant.items() if "HMMA" in instruction}
            loads |= {name: "LDG.E.128" for name in ("attention", "vector_F32", "vector_F16", "vector_BF16", "rounded_F16")}
            loads |= {f"{kind}_{f}": "LDG.E.128" for kind in ("vector", "gated", "matrix") for f in PLANES}
            for name, instruction in [*meant.items(), *loads.items()]:
                if instruction not in code.get(name, ""):
                    wrong.append(f"{file.name}: {name} has no {instruction}")
            said += f"; {len(meant)} of them have the product instruction that is meant"
        print(said)
    for line in wrong:
        print(line, file=sys.stderr)
    if wrong or chips == 0:
        sys.exit(f"{len(wrong)} kernels are not as they should be, {chips} chips")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
