#!/usr/bin/env python3
"""Loads a model that `imma quantize` wrote with transformers and compressed-tensors, compares every linear's weight with
q * scale as the files hold them, and the embeddings of two sentences with the float model's.

    python load_back.py MODEL_DIR W8A8_DIR
"""
import sys, torch, glob
torch.cuda.is_current_stream_capturing = lambda: False  # asks a driver that a CPU's machine lacks
from transformers import AutoModel, AutoTokenizer, CompressedTensorsConfig
from safetensors import safe_open
src, out = sys.argv[1:3]
raw = {}
for f in glob.glob(out + "/*.safetensors"):
    s = safe_open(f, "pt")
    raw |= {k: s.get_tensor(k) for k in s.keys()}
model = AutoModel.from_pretrained(out, quantization_config=CompressedTensorsConfig(run_compressed=False))
same = 0
for name, w in model.named_parameters():
    key = name
    if name.endswith(".weight") and name[:-6] + "weight_scale" in raw:
        scale = raw[name[:-6] + "weight_scale"]
        scale = scale.repeat_interleave(w.shape[1] // scale.shape[1], 1)
        want = raw[key].to(scale.dtype) * scale
        assert torch.equal(w, want), name
        same += 1
print(same, "layers equal to q * scale, of", sum(k.endswith("weight_scale") for k in raw))
tok = AutoTokenizer.from_pretrained(src)
x = tok(["The weather is lovely today.", "He drove to the stadium."], return_tensors="pt", padding=True)
a = AutoModel.from_pretrained(src).eval()(**x).last_hidden_state.mean(1)
b = model.eval()(**x).last_hidden_state.mean(1)
print("cosine to the float model", torch.nn.functional.cosine_similarity(a, b))
