"""onnxruntime: graphs of one node, weights constant, operands and results bound to memory once."""

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

TYPES = {"int8": TensorProto.INT8, "uint8": TensorProto.UINT8, "int32": TensorProto.INT32, "float32": TensorProto.FLOAT}


def versions():
    return {"onnxruntime": onnxruntime.__version__}


def session(node, x, constants, result, threads):
    """`node` on the operand `x` called A; the result, called Y, has type `result`."""
    shape = [x.shape[0], constants["B"].shape[1]]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node],
        "product",
        [value("A", TYPES[str(x.dtype)], list(x.shape))],
        [value("Y", TYPES[result], shape)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    operators = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=operators, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    made = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = made.io_binding()
    binding.bind_cpu_input("A", x)
    y = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, result))
    binding.bind_ortvalue_output("Y", y)

    def run():
        made.run_with_iobinding(binding)

    def result_of_a_run():
        run()
        return y.numpy()

    return run, result_of_a_run


def peers(data, threads):
    def signed():
        node = helper.make_node("MatMulInteger", ["A", "B"], ["Y"])
        return session(node, data.qa, {"B": data.qw}, "int32", threads)

    def unsigned():
        node = helper.make_node("MatMulInteger", ["A", "B", "zero"], ["Y"])
        x = (data.qa.astype(np.int16) + 128).astype(np.uint8)
        return session(node, x, {"B": data.qw, "zero": np.array(128, np.uint8)}, "int32", threads)

    def dynamic():
        node = helper.make_node("DynamicQuantizeMatMul", ["A", "B", "scale"], ["Y"], domain="com.microsoft")
        constants = {"B": data.quantised_w, "scale": data.steps}
        return session(node, data.a, constants, "float32", threads)

    yield "gemm", "onnxruntime s8s8", signed
    yield "gemm", "onnxruntime u8s8", unsigned
    yield "linear", "onnxruntime", dynamic
