"""A network with shapes that are fixed.

usage: fixed.py FROM.onnx TO.onnx SIZE...
"""

import sys

import onnx

model = onnx.load(sys.argv[1])
shape = model.graph.input[0].type.tensor_type.shape
del shape.dim[:]
for size in sys.argv[3:]:
    shape.dim.add().dim_value = int(size)
# What follows from the input is worked out anew.
del model.graph.value_info[:]
for output in model.graph.output:
    output.type.tensor_type.ClearField("shape")
onnx.save(onnx.shape_inference.infer_shapes(model), sys.argv[2])
