"""plus: the package as it is; swaps:N: N swaps at the most in each FFN after the search (as in swap.py)."""
from collections import deque
import torch
from dataclasses import replace
from kprune.plus import elimination
from kprune.plus.elimination import RIDGE
from kprune.plus.method import kprune_plus
from kprune.sublayerwise import sublayerwise
from kprune.mask_search import search
def plus():
    def run(job): deque(sublayerwise(job.state, job.budget, kprune_plus(2.0, job.options.seed)), maxlen=0)
    return run
def swaps(most="200"):
    def run(job):
        kept, old = {}, elimination.eliminate
        def eliminate(gram, weight, size):
            kept[len(kept)] = (gram, weight) if size == 1 else None
            return old(gram, weight, size)
        elimination.eliminate = eliminate
        def searched(state, t, importance, budget):
            (keep, *rest), nu = search(state, t, importance, budget)
            if t % 2 and keep.any() and not keep.all():
                A, W = kept[t]; R = A + RIDGE * A.diagonal().diag(); AW = R @ W
                keep = keep.clone(); n = 0
                for _ in range(int(most)):
                    K = keep.nonzero().flatten(); N = (~keep).nonzero().flatten()
                    M = torch.linalg.inv(R[K][:, K]); Wk = M @ AW[K]; X = R[N][:, K]
                    gain = (AW[N] - X @ Wk).square().sum(1) / (R[N, N] - ((X @ M) * X).sum(1))
                    i = N[gain.argmax()]; keep[i] = True
                    K = keep.nonzero().flatten(); M = torch.linalg.inv(R[K][:, K]); Wk = M @ AW[K]
                    j = K[(Wk.square().sum(1) / M.diagonal()).argmin()]; keep[j] = False
                    if i == j: break
                    n += 1
                print(t, int(keep.sum()), "swaps", n, flush=True)
            return [keep, *rest], nu
        try: deque(sublayerwise(job.state, job.budget, replace(kprune_plus(2.0, job.options.seed), search=searched)), maxlen=0)
        finally: elimination.eliminate = old
    return run
