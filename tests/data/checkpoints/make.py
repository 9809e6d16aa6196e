#!/usr/bin/env python3
"""Makes the small checkpoints in this folder, and what their layers are as floats.

    pip install torch==2.15.0 transformers==5.23.0 compressed-tensors==0.20.0 bitsandbytes==0.50.2
    python make.py

ct_dynamic, ct_static, ct_asymmetric and ct_group are written by the compressed-tensors package; bnb holds what bitsandbytes
quantises, under the names that transformers saves (`SCB`, `weight_format` 0); floats is plain. Every folder has
`expected.safetensors`: `P.weight` as the package dequantises it, in float32, and for some layers an input `P.x` and the output `P.y` that
the package computes with quantised inputs.
"""
import json, pathlib, torch
from bitsandbytes.functional import int8_vectorwise_dequant, int8_vectorwise_quant
from safetensors.torch import save_file
from compressed_tensors.compressors import ModelCompressor, decompress_module
from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config
from compressed_tensors.quantization.lifecycle.forward import fake_quantize
from compressed_tensors.quantization.utils import calculate_qparams, compute_dynamic_scales_and_zp

HERE = pathlib.Path(__file__).parent
torch.manual_seed(7)


class Block(torch.nn.Module):
    def __init__(self, hidden=24, inner=40):
        super().__init__()
        self.embed = torch.nn.Embedding(10, hidden)
        self.norm = torch.nn.LayerNorm(hidden)
        self.up = torch.nn.Linear(hidden, inner)
        self.down = torch.nn.Linear(inner, hidden, bias=False)
        self.lm_head = torch.nn.Linear(hidden, 10, bias=False)


def args(**more):
    return dict(num_bits=8, type="int", symmetric=True, strategy="channel", **more)


def folder(name, config, tensors, expected, shards=1):
    out = HERE / name
    out.mkdir(exist_ok=True)
    (out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    tensors = {k: v.contiguous().clone() for k, v in tensors.items()}
    if shards == 1:
        save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    else:
        index = {"metadata": {"total_size": sum(v.nbytes for v in tensors.values())}, "weight_map": {}}
        for i in range(shards):
            file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
            part = {k: v for j, (k, v) in enumerate(sorted(tensors.items())) if j % shards == i}
            save_file(part, out / file, metadata={"format": "pt"})
            index["weight_map"] |= {k: file for k in part}
        (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    expected = {k: v.detach().float().contiguous() for k, v in expected.items()}
    save_file(expected, out / "expected.safetensors")


def compressed(name, dtype, weights, inputs, targets, ignore, shards=1, sizes=()):
    model = Block(*sizes).to(dtype)
    with torch.no_grad():
        model.up.weight[3] *= 20  # a channel that stands out
        model.down.weight[5] = 0  # and one of zeros
    group = {"targets": targets, "weights": weights, "input_activations": inputs}
    config = QuantizationConfig(config_groups={"group_0": group}, ignore=ignore, format="int-quantized")
    apply_quantization_config(model, config)
    expected = {}
    with torch.no_grad():
        for layer, module in model.named_modules():
            scheme = getattr(module, "quantization_scheme", None)
            if scheme is None:
                continue
            size = scheme.weights.group_size
            parts = module.weight.unflatten(1, (-1, size)) if size else module.weight.unsqueeze(1)
            low, high = parts.amin(2), parts.amax(2)
            scale, zero = calculate_qparams(low, high, scheme.weights)
            module.weight_scale.copy_(scale)
            if not scheme.weights.symmetric:
                module.weight_zero_point.copy_(zero)
            x = torch.randn(5, module.in_features).to(dtype)
            if scheme.input_activations.dynamic:
                s, z = compute_dynamic_scales_and_zp(x, scheme.input_activations, module)
            else:
                s, z = calculate_qparams(x.min().reshape(1), x.max().reshape(1), scheme.input_activations)
                module.input_scale.copy_(s)
                if not scheme.input_activations.symmetric:
                    module.input_zero_point.copy_(z)
            expected[f"{layer}.x"] = x
            expected[f"{layer}.xq"] = fake_quantize(x, s, z, scheme.input_activations).float()
    compressor = ModelCompressor(quantization_config=config)
    compressor.compress_model(model)
    tensors = dict(model.state_dict())
    with torch.no_grad():
        for layer, module in model.named_modules():
            if getattr(module, "quantization_scheme", None) is not None:
                decompress_module(module)
                w = module.weight.float()
                expected[f"{layer}.weight"] = w
                y = expected.pop(f"{layer}.xq") @ w.T
                expected[f"{layer}.y"] = y if module.bias is None else y + module.bias.float()
    hf = {"model_type": "test", "quantization_config": config.model_dump(mode="json")}
    folder(name, hf, tensors, expected, shards)


token = args(dynamic=True) | {"strategy": "token"}
compressed("ct_dynamic", torch.bfloat16, args(), token, ["Linear"], ["lm_head"])
tensor = args(dynamic=False) | {"strategy": "tensor"}
compressed("ct_static", torch.float32, args(), tensor, ["re:.*(up|down)$"], ["re:lm_.*"], shards=3)
compressed("ct_asymmetric", torch.float16, args() | {"symmetric": False}, tensor | {"symmetric": False},
           ["up", "down"], ["lm_head"])
model = Block().half()
tensors, expected = dict(model.state_dict()), {}
for layer in ["up", "down"]:
    q, absmax, _ = int8_vectorwise_quant(tensors[f"{layer}.weight"])
    tensors |= {f"{layer}.weight": q, f"{layer}.SCB": absmax, f"{layer}.weight_format": torch.tensor(0, dtype=torch.uint8)}
    expected[f"{layer}.weight"] = int8_vectorwise_dequant(q, absmax)
bnb = {"quant_method": "bitsandbytes", "load_in_8bit": True, "load_in_4bit": False, "llm_int8_threshold": 6.0,
       "llm_int8_skip_modules": ["lm_head"]}
folder("bnb", {"model_type": "test", "quantization_config": bnb}, tensors, expected)
model = Block().bfloat16()
folder("floats", {"model_type": "test", "torch_dtype": "bfloat16"}, dict(model.state_dict()),
       {f"{n}.weight": model.get_submodule(n).weight for n in ["up", "down", "lm_head"]}, shards=2)
group = args() | {"strategy": "group", "group_size": 32}
compressed("ct_group", torch.bfloat16, group, token, ["Linear"], ["lm_head"], sizes=(64, 96))
