"""Passes that pruning takes at twelve layers: MPNet with a new head, SST-2's sentences, in turns."""

import sys
import time

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import kprune
from kprune.laboratory.packaged import packaged_mpnet
from kprune.limits.latency import pass_seconds

tokens, methods = int(sys.argv[1]), sys.argv[2:]
folder = packaged_mpnet()
torch.manual_seed(0)
dense = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
dense.eval()
sample = kprune.sample("sst2", AutoTokenizer.from_pretrained(folder), tokens, 0, "../shared/data/glue")
passes = [pass_seconds(dense, sample)]
for method in methods:
    start = time.perf_counter()
    report = kprune.prune(dense, sample, 0.8, method, progress=False)[1]
    took = time.perf_counter() - start
    passes.append(pass_seconds(dense, sample))
    one = sum(passes[-2:]) / 2
    parts = {name: round(seconds / one, 2) for name, seconds in report.seconds.items()}
    print(f"{method}: {took:.1f} s, F = {one:.1f} s, {took / one:.2f} F", parts, flush=True)
