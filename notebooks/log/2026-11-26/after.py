from itertools import chain
from kprune.plus import curvature, elimination
from kprune.plus.method import kprune_plus
from kprune.sublayerwise import sublayerwise
from collections import deque
from dataclasses import replace
import random
from kprune.pruning import prepared
orig = curvature.passes
ow = curvature.Curvature._weights.func
import torch, torch.nn.functional as F
def go(job, m=None): deque(sublayerwise(job.state, job.budget, m or kprune_plus(2.0, job.options.seed)), maxlen=0)
def probes(n):
    def run(job):
        curvature.passes = lambda s, b, g, seed: chain(*[orig(s, b, g, seed + 1000 * k) for k in range(int(n))])
        try: go(job)
        finally: curvature.passes = orig
    return run
def mix(m, power="1"):
    m, power = float(m), float(power)
    def w(self):
        found = []
        for norms in self.norms:
            n = norms ** power
            rel = n / (n.sum() / (n > 0).sum().clamp(min=1)).clamp(min=1e-30)
            found.append(F.pad(m + (1 - m) * rel, (0, 0, 0, 1), value=1.0))
        return found
    def run(job):
        curvature.Curvature._weights = property(w)
        try: go(job)
        finally: curvature.Curvature._weights = property(ow)
    return run
def ridge(r):
    def run(job):
        old, elimination.RIDGE = elimination.RIDGE, float(r)
        try: go(job)
        finally: elimination.RIDGE = old
    return run
def aug(copies, p="0.15"):
    """copies only tuned on: the curvature is of the sample itself"""
    def run(job):
        from augment import augment
        s = job.state.sample
        more = augment(s, "rand", int(copies), float(p), job.options.seed)
        j2 = prepared(job.model, replace(s, examples=[*s.examples, *more], labels=None), job.options, progress=False); j2.budget = job.budget
        go(j2); job.state = j2.state
    return run
def plus():
    return go
