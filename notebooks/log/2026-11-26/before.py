import torch
from collections import deque
from dataclasses import replace
from kprune.plus.method import kprune_plus, one_scale
from kprune.plus import elimination as el
from kprune.sublayerwise import sublayerwise
from kprune.knowledge import Importance, Predictive, Representational, Weighted
from kprune.plus.elimination import Elimination
from kprune.plus.fisher import Fisher
from kprune.mask_search import search
from kprune.variations import Reused, Once
import math

def go(job, method): deque(sublayerwise(job.state, job.budget, method), maxlen=0)

def plus(*a):
    return lambda job: go(job, kprune_plus(2.0, job.options.seed))

def ridge(r):
    def run(job):
        old, el.RIDGE = el.RIDGE, float(r)
        try: go(job, kprune_plus(2.0, job.options.seed))
        finally: el.RIDGE = old
    return run

def chunk(c):
    def run(job):
        old, el.CHUNK = el.CHUNK, int(c)
        try: go(job, kprune_plus(2.0, job.options.seed))
        finally: el.CHUNK = old
    return run

def reuse(x):
    x = float(x)
    def run(job):
        m = kprune_plus(2.0, job.options.seed)
        go(job, replace(m, scores=Reused(m.scores, x)))
    return run

def once(*a):
    def run(job):
        m = kprune_plus(2.0, job.options.seed)
        go(job, replace(m, scores=Reused(m.scores, math.inf, always=(0,))))
    return run

def combine(headf, slope, wf="1"):
    """one scale, with heads weighted and a slope by depth"""
    headf, slope, wf = float(headf), float(slope), float(wf)
    def comb(sublayers, pred, rep):
        f = [1 / sum(s.sum() for s in part).clamp(min=1e-300) for part in (pred, rep)]
        out = []
        for sub, p, r in zip(sublayers, pred, rep):
            s = wf * f[0] * p + f[1] * r
            out.append(s * (headf if sub.kind == "MHA" else 1.0) * math.exp(slope * sub.layer))
        return out
    def run(job):
        m = kprune_plus(2.0, job.options.seed)
        go(job, replace(m, scores=replace(m.scores, combine=comb)))
    return run

import random
from kprune.pruning import prepared
from augment import augment
def aug(kind, copies, p="0.15"):
    def run(job):
        sample = job.state.sample
        more = augment(sample, kind, int(copies), float(p), job.options.seed)
        big = replace(sample, examples=[*sample.examples, *more], labels=None)
        j2 = prepared(job.model, big, job.options, progress=False)
        j2.budget = job.budget
        once()(j2)
        job.state = j2.state
    return run

from contextlib import ExitStack
import kprune.weight_tuning as wt
import kprune.plus.refits as rf
from kprune.encoders import tapped
CUR = {"t": None, "w": None}
_gather = wt.gather
def gather_w(state, rows, features, outputs, hold_out=False, done=lambda n: None):
    w = CUR["w"]
    if w is None or CUR["t"] is None: return _gather(state, rows, features, outputs, hold_out, done)
    t = CUR["t"]
    def r2(teacher, student, number):
        P, Y = rows(teacher, student, number)
        if P.shape[1] == 1: return P, Y
        s = w[t][number][..., None].sqrt().to(P)
        return P * s, Y * s
    return _gather(state, r2, features, outputs, hold_out, done)
wt.gather = gather_w; rf.gather = gather_w
_to, _ti, _th = wt.TuneOutput.__call__, rf.TuneInputs.__call__, rf.TuneHead.__call__
def to(self, state, t, keep):
    CUR["t"] = t
    return _to(self, state, t, keep)
def ti(self, state, t, keep):
    CUR["t"] = t if t % 2 else max(t - 1, 0)
    return _ti(self, state, t, keep)
def th(self, state):
    CUR["t"] = None
    return _th(self, state)
wt.TuneOutput.__call__ = to; rf.TuneInputs.__call__ = ti; rf.TuneHead.__call__ = th

def grads(state, gamma=2.0, seed=0, take=None):
    """per sublayer, per batch: ‖∂probe/∂total‖² [batch, length] of the dense model"""
    fisher = Fisher(gamma, seed)
    enc = state.student.copy()
    out = [[] for _ in enc.sublayers]; var = [[] for _ in enc.sublayers]
    for n, batch in enumerate(state.batches):
        with torch.enable_grad(), ExitStack() as st:
            totals = []
            st.enter_context(tapped(enc.sublayers))
            for sub in enc.sublayers: st.enter_context(sub.total(totals.append))
            z = enc.run(batch, state.student_hidden[n], 0)
            loss = fisher.loss(state, 0)(n, z).sum()
            gs = torch.autograd.grad(loss, totals)
        real = torch.ones_like(gs[0][..., 0]) if batch.mask is None else batch.mask.to(gs[0])
        for k, (g, tot) in enumerate(zip(gs, totals)):
            out[k].append(g.square().sum(-1) * real); var[k].append(tot.detach().var(-1) * real)
            if take: take(k, n, g * real[..., None])
    return out, var

def normed(some):
    total = sum(s.sum() for s in some); count = sum((s > 0).sum() for s in some)
    return [s / (total / count) for s in some]

def base(job, measure="once"):
    m = kprune_plus(2.0, job.options.seed)
    if measure == "once": m = replace(m, scores=Reused(m.scores, math.inf, always=(0,)))
    return m

def wgrad(mix="0.5", power="1", lncut="0"):
    """tokens weighted by gradient: mix·1 + (1−mix)·rel^power"""
    mix, power = float(mix), float(power)
    def run(job):
        st = job.state
        g, v = grads(st, seed=job.options.seed)
        w = []
        for k in range(len(g)):
            rel = normed([x ** power for x in g[k]])
            w.append([mix + (1 - mix) * r for r in rel])
        CUR["w"] = w
        try: go(job, base(job))
        finally: CUR["w"] = None
    return run

def wvar(power="1"):
    def run(job):
        g, v = grads(job.state, seed=job.options.seed)
        w = [normed([torch.where(x > 0, 1 / x.clamp(min=1e-12), 0) ** float(power) for x in v[k]]) for k in range(len(v))]
        print([round(float(max(x.max() for x in k)), 1) for k in w])
        CUR["w"] = w
        try: go(job, base(job))
        finally: CUR["w"] = None
    return run

def elimG(state, weighted, mixed=0.0, gamma=2.0, seed=0):
    """errors by elimination in the metric of the probe's gradient; also plain E"""
    fisher = Fisher(gamma, seed)
    enc = state.student.copy()
    subs = enc.sublayers
    z0 = lambda s, a, b: torch.zeros(a, b, dtype=torch.float64)
    A = [z0(s, s.output.in_features, s.output.in_features) for s in subs]
    Aw = [z0(s, s.output.in_features, s.output.in_features) for s in subs]
    G = [z0(s, s.output.out_features, s.output.out_features) for s in subs]
    var = [0.0 for s in subs]
    for n, batch in enumerate(state.batches):
        with torch.enable_grad(), ExitStack() as st:
            totals = []
            feats = st.enter_context(tapped(subs))
            for sub in subs: st.enter_context(sub.total(totals.append))
            z = enc.run(batch, state.student_hidden[n], 0)
            loss = fisher.loss(state, 0)(n, z).sum()
            gs = torch.autograd.grad(loss, totals)
        real = torch.ones_like(gs[0][..., 0]) if batch.mask is None else batch.mask.to(gs[0])
        for k, (g, tot, P) in enumerate(zip(gs, totals, feats)):
            r = real.bool()
            g, P, tot = g[r], P.detach()[r], tot.detach()[r]
            G[k] += (g.T @ g).double(); A[k] += (P.T @ P).double(); var[k] += tot.var(-1).sum().double()
            w = g.square().sum(-1, keepdim=True).sqrt()
            Pw = P * w
            Aw[k] += (Pw.T @ Pw).double()
    E, EG = [], []
    samples = len(state.sample.examples)
    for k, sub in enumerate(state.student.sublayers):
        W = sub.output.weight.T.double()
        E.append(el.eliminate(A[k], W, sub.unit_size) / var[k])
        lam, V = torch.linalg.eigh(G[k])
        root = V * lam.clamp(min=0).sqrt() 
        tokens = sum(b.tokens for b in state.batches)
        if weighted:   # Aw = Σ |g|² P Pᵀ; metric G / tr G
            a = Aw[k] + mixed * A[k] * (Aw[k].diagonal().sum() / A[k].diagonal().sum())
            root = root / lam.sum().sqrt()
            EG.append(el.eliminate(a, W @ root, sub.unit_size) / (2 * samples))
        else:
            EG.append(el.eliminate(A[k], W @ root, sub.unit_size) / tokens / (2 * samples))
    return E, EG

def elg(parts, weighted="1", mixed="0", *opts):
    """parts of F, E, G as shares, e.g. FEG; lower case g: absolute with F absolute"""
    def run(job):
        st = job.state
        m = kprune_plus(2.0, job.options.seed)
        E, EG = elimG(st, int(weighted), float(mixed), seed=job.options.seed)
        Fs = Importance(Fisher(2.0, job.options.seed), None, lambda s, p, r: p)(st, 0)
        print("sum F", [round(f.sum().item(), 4) for f in Fs]); print("sum G", [round(f.sum().item(), 4) for f in EG]); print("sum E", [round(f.sum().item(), 4) for f in E])
        def scores(state, t):
            imp = []
            tot = {n: sum(x.sum() for x in s[t:]) for n, s in (("F", Fs), ("E", E), ("G", EG))}
            for k in range(t, len(Fs)):
                s = 0
                for n, x in (("F", Fs), ("E", E), ("G", EG)):
                    if n in parts: s = s + x[k] / tot[n]
                if "g" in parts: s = s + EG[k]
                if "f" in parts: s = s + Fs[k]
                imp.append(s)
            return imp
        go(job, replace(m, scores=scores))
    return run

def always(*ts):
    ts = tuple(map(int, ts))
    def run(job):
        m = kprune_plus(2.0, job.options.seed)
        go(job, replace(m, scores=Reused(m.scores, math.inf, always=ts)))
    return run

import copy, time
from kprune.encoders import Encoder
from kprune.surgery import keep_units, set_weight
from kprune.limits.budget import Flops
@torch.no_grad()
def grams(st):
    twin = st.student.copy()
    A = [torch.zeros(s.output.in_features + 1, s.output.in_features + 1, dtype=torch.float64) for s in twin.sublayers]
    for n, b in enumerate(st.batches):
        with tapped(twin.sublayers) as f: twin.run(b, st.student_hidden[n])
        real = torch.ones_like(f[0][..., 0], dtype=torch.bool) if b.mask is None else b.mask
        for a, P in zip(A, f):
            P = torch.nn.functional.pad(P[real], (0, 1), value=1.0); a += (P.T @ P).double()
    return A

class Measured:
    """KL of candidates"""
    def __init__(self, job, A, tokens, ridge=1e-4, skip=0):
        self.job, self.A, self.ridge, self.cache = job, A, ridge, {}
        st = job.state
        sample = st.sample
        want, some = 0, []
        step = max(1, int(sample.tokens // tokens))
        idx = [i for i in range(len(sample.examples)) if i % step == 0]
        from kprune.data.batching import on_device
        part = replace(sample, examples=[sample.examples[i] for i in idx], labels=None)
        self.parts = on_device(part, st.student.device)
        self.tokens = sum(b.tokens for b in self.parts)
        enc = st.teacher.copy()
        with torch.no_grad(): self.aims = [enc.run(b) for b in self.parts]
        self.count = 0; self.build = 0.0; self.dense = job.model
    @torch.no_grad()
    def candidate(self, masks):
        t = time.time()
        e = Encoder(copy.deepcopy(self.dense)) if False else self.job.state.teacher.copy()
        for k, (s, m) in enumerate(zip(e.sublayers, masks)):
            key = (k, m.numpy().tobytes())
            if key not in self.cache:
                W = torch.cat([s.output.weight.T.double(), s.output.bias[None].double()])
                f1 = torch.cat([m.repeat_interleave(s.unit_size), torch.ones(1, dtype=torch.bool)])
                inner = self.A[k][f1][:, f1]; scale = inner.diagonal()
                L = torch.linalg.cholesky(inner + (self.ridge * scale).diag())
                new = torch.cholesky_solve(self.A[k][f1] @ W, L)
                self.cache[key] = (new[:-1].T.float().contiguous(), new[-1].float())
            keep_units(s, m); set_weight(s.output, *self.cache[key])
        self.build += time.time() - t
        return e
    @torch.no_grad()
    def __call__(self, masks):
        self.count += 1
        e = self.candidate(masks)
        return torch.cat([e.kind.distance(e.run(b), a, 2.0, b.mask) for b, a in zip(self.parts, self.aims)]).mean().item()

def coordinate(job, imp, kl, steps, passes_kind="seq", floor=0.0, log=print):
    st, subs = job.state, job.state.student.sublayers
    n = len(imp); a = torch.zeros(n, dtype=torch.float64)
    def masks(a):
        return search(st, 0, [s * math.exp(x) for s, x in zip(imp, a.tolist())], job.budget)[0]
    best = kl(masks(a)); log("start", round(best, 4), [int(m.sum()) for m in masks(a)])
    for step in steps:
        for k in list(range(n)):
            for sign in (1, -1):
                b = a.clone(); b[k] += sign * step
                got = kl(masks(b))
                if got < best - floor * best:
                    best, a = got, b
                    break
        log("step", step, round(best, 4), [int(m.sum()) for m in masks(a)], "evals", kl.count)
    return a, masks(a)

def alloc(tokens="3000", steps="1,0.5", tune="", held="0", extra=""):
    steps = [float(x) for x in steps.split(",")]
    def run(job):
        t0 = time.time()
        st = job.state
        m = kprune_plus(2.0, job.options.seed)
        imp = m.scores(st, 0); t1 = time.time()
        A = grams(st); t2 = time.time()
        kl = Measured(job, A, int(tokens))
        a, ms = coordinate(job, imp, kl, steps); t3 = time.time()
        m = replace(m, scores=lambda s, t: imp[t:], search=lambda s, t, i, b: (ms[t:], 0.0))
        go(job, m)
        print(f"measure {t1-t0:.1f} grams {t2-t1:.1f} search {t3-t2:.1f} (build {kl.build:.1f}, {kl.count} evals, {kl.tokens} tokens) sweep {time.time()-t3:.1f}")
        if extra: job.extra = (imp, a)
    return run

def centre(*a):
    """ridge towards the dense model's own solution for the units kept"""
    def run(job):
        st = job.state
        A = grams(st)
        def obs(state, t, keep):
            s, src = state.student.sublayers[t], state.teacher.sublayers[t]
            W = torch.cat([src.output.weight.T.double(), src.output.bias[None].double()])
            f1 = torch.cat([keep.repeat_interleave(s.unit_size), torch.ones(1, dtype=torch.bool)])
            inner = A[t][f1][:, f1]
            new = torch.linalg.solve(inner + (1e-4 * inner.diagonal()).diag(), A[t][f1] @ W)
            set_weight(s.output, new[:-1].T.float().contiguous(), new[-1].float())
            return None
        m = base(job)
        go(job, replace(m, tuners=(m.tuners[0], obs, m.tuners[1])))
    return run

def drop(copies, p="0.15", mode="drop"):
    def run(job):
        sample = job.state.sample
        rng = random.Random(job.options.seed); tok = sample.tokenizer
        special = {tok.cls_token_id, tok.sep_token_id}; out = []
        pool = [i for e in sample.examples for i in e["input_ids"] if i not in special]
        for c in range(int(copies)):
            for e in sample.examples:
                ids = e["input_ids"]; new = []
                for n, i in enumerate(ids):
                    if i in special or rng.random() >= float(p): new.append((n, i))
                    elif mode == "mask": new.append((n, tok.mask_token_id))
                    elif mode == "repl": new.append((n, rng.choice(pool)))
                d = {"input_ids": [i for _, i in new]}
                if "token_type_ids" in e: d["token_type_ids"] = [e["token_type_ids"][n] for n, _ in new]
                out.append(d)
        big = replace(sample, examples=[*sample.examples, *out], labels=None)
        j2 = prepared(job.model, big, job.options, progress=False); j2.budget = job.budget
        once()(j2); job.state = j2.state
    return run

def G(weighted="1", mixed="0", ridge="1e-4", copies="0", again="", probes="1"):
    """elimination in the metric of K_pred alone; with augmented tuning"""
    def run(job):
        t0 = time.time()
        if int(copies):
            sample = job.state.sample
            more = augment(sample, "rand", int(copies), 0.15, job.options.seed)
            j2 = prepared(job.model, replace(sample, examples=[*sample.examples, *more], labels=None), job.options, progress=False)
            j2.budget = job.budget; job.state = j2.state
        st = job.state
        old, el.RIDGE = el.RIDGE, float(ridge)
        _, EG = elimG(st, int(weighted), float(mixed), seed=job.options.seed)
        if probes == "2":
            _, E2 = elimG(st, int(weighted), float(mixed), seed=job.options.seed + 100)
            EG = [(a + b) / 2 for a, b in zip(EG, E2)]
        el.RIDGE = old
        fisher = Fisher(2.0, job.options.seed)
        for n, b in enumerate(st.batches):
            with torch.no_grad(): st.outputs.append(st.teacher.run(b, st.teacher_hidden[n], 0))
        m = kprune_plus(2.0, job.options.seed)
        go(job, replace(m, scores=lambda s, t: EG[t:]))
    return run

def H(copies="0", mix="1", power="0.5", re="", kind="rand", p="0.15", ridge="1e-4", only="0"):
    """K-FAC elimination; augmented copies; tokens weighted mix + (1-mix)·rel^power; measured anew at re"""
    def run(job):
        if int(copies):
            sample = job.state.sample
            more = augment(sample, kind, int(copies), float(p), job.options.seed)
            j2 = prepared(job.model, replace(sample, examples=[*sample.examples, *more], labels=None), job.options, progress=False)
            j2.budget = job.budget; job.state = j2.state
        st = job.state
        for n, b in enumerate(st.batches):
            with torch.no_grad(): st.outputs.append(st.teacher.run(b, st.teacher_hidden[n], 0))
        if float(mix) < 1:
            g, v = grads(st, seed=job.options.seed)
            CUR["w"] = [[float(mix) + (1 - float(mix)) * r for r in normed([x ** float(power) for x in k])] for k in g]
        old, el.RIDGE = el.RIDGE, float(ridge)
        class Scores:
            def __call__(self, s, t):
                _, EG = elimG_at(s, t, seed=job.options.seed)
                return EG
        m = kprune_plus(2.0, job.options.seed)
        ts = (0, *[int(x) for x in re.split(",") if x])
        try: go(job, replace(m, scores=Reused(Scores(), math.inf, always=ts)))
        finally: CUR["w"] = None; el.RIDGE = old
    return run

def elimG_at(state, t, gamma=2.0, seed=0):
    fisher = Fisher(gamma, seed)
    enc = state.student.copy(); subs = enc.sublayers[t:]
    A = [torch.zeros(s.output.in_features, s.output.in_features, dtype=torch.float64) for s in subs]
    G = [torch.zeros(s.output.out_features, s.output.out_features, dtype=torch.float64) for s in subs]
    for n, batch in enumerate(state.batches):
        with torch.enable_grad(), ExitStack() as stk:
            totals = []
            feats = stk.enter_context(tapped(subs))
            for sub in subs: stk.enter_context(sub.total(totals.append))
            z = enc.run(batch, state.student_hidden[n], t)
            loss = fisher.loss(state, 1)(n, z).sum()
            gs = torch.autograd.grad(loss, totals)
        r = torch.ones_like(gs[0][..., 0]).bool() if batch.mask is None else batch.mask
        for k, (g, P) in enumerate(zip(gs, feats)):
            g, P = g[r], P.detach()[r]
            G[k] += (g.T @ g).double(); A[k] += (P.T @ P).double()
    out = []; tokens = sum(b.tokens for b in state.batches)
    for k, sub in enumerate(state.student.sublayers[t:]):
        lam, V = torch.linalg.eigh(G[k]); root = V * lam.clamp(min=0).sqrt()
        out.append(el.eliminate(A[k], sub.output.weight.T.double() @ root, sub.unit_size) / tokens / (2 * len(state.sample.examples)))
    return None, out
