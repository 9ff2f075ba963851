"""What pruning an encoder of BERT-base's shape, with random weights, takes on this device.

first.py DATA [LAYERS WIDTH TOKENS]: DATA is a folder of GLUE; random sequences come first, then the
sentences of SST-2. A line for each run: seconds of its steps, F, and the peak above the model.
"""

import sys

import torch

import kprune
from kprune.engine.loading import load_tokenizer
from kprune.laboratory import benchmark
from kprune.laboratory.packaged import packaged_minilm
from kprune.limits.latency import pass_seconds

RUNS = [
    ("kprune", {}),
    ("kprune", {}),
    ("kprune", {"precision": "full"}),
    ("kprune", {"reuse": 10}),
]
RUNS += [("kprune+", {}), ("kwon", {}), ("magnitude", {})]
data, (layers, width, tokens) = sys.argv[1], [int(n) for n in sys.argv[2:5]] or (12, 768, 100_000)
device, tokenizer = kprune.device(), load_tokenizer(packaged_minilm())
print(torch.cuda.get_device_name(0) if device.type == "cuda" else device, torch.__version__)
samples = {
    "random, 32 long": benchmark.random_sample(32, tokens, tokenizer),
    "SST-2": kprune.sample("sst2", tokenizer, tokens, 0, data),
}
for name, sample in samples.items():
    model = benchmark.random_encoder(layers, width, 0, len(tokenizer)).to(device)
    one_pass = [pass_seconds(model, sample) for _ in range(2)][1]
    print(f"{name}: F = {one_pass:.2f} s")
    kept = []
    for method, options in RUNS:
        if method == "kwon" and sample.labels is None:
            continue
        with benchmark.peak_memory(device) as memory:
            _, report = kprune.prune(model, sample, 0.8, method, progress=False, **options)
        seconds = {step: round(spent, 2) for step, spent in report.seconds.items()}
        passes = sum(report.seconds.values()) / one_pass
        print(
            f"  {method} {options}: {passes:.1f} F, {memory['peak']:.0f} MB, {seconds}", flush=True
        )
        kept.append(report.kept)
    print("  the same units twice:", kept[0] == kept[1])
pruned, report = kprune.prune(model, sample, 0.9, "magnitude", progress=False)
ids = torch.ones(4, 16, dtype=torch.int64, device=device)
finite = [
    pruned.to(dtype)(input_ids=ids)[0].isfinite().all().item()
    for dtype in (torch.bfloat16, torch.half)
]
print("without heads, in bfloat16 and float16:", report.heads, finite)
