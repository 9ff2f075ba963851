from after import *
from functools import partial
from kprune import weight_tuning as wt
def asym(a, copies="0"):
    a = float(a)
    def gather_output(state, t, bias=False, hold_out=False, first_only=False, move=False):
        output = state.student.sublayers[t].output
        ahead = {}
        def done(n):
            if move: state.teacher_hidden[n] = ahead.pop(n)
        def rows(teacher, student, number):
            on = partial(ahead.__setitem__, number)
            batch = state.batches[number]
            _, wanted = teacher.passing(batch, state.teacher_hidden[number], t, on)
            _, own = teacher.passing(batch, state.student_hidden[number].to(wanted.dtype), t)
            student.sublayers[t].silence()
            P, total = student.passing(batch, state.student_hidden[number], t)
            Y = a * wanted + (1 - a) * own - total
            if bias: P, Y = wt.padded(P, True), Y + output.bias
            return P, Y
        sizes = output.in_features + bias, output.out_features
        found = wt.gather(state, rows, *sizes, hold_out, done, t)
        state.teacher_moved = move
        return found
    def run(job):
        old, wt.gather_output = wt.gather_output, gather_output
        try:
            if int(copies): aug(copies)(job)
            else: go(job)
        finally: wt.gather_output = old
    return run
def fill(tokens, p="0.15"):
    def run(job):
        import math
        n = max(0, math.ceil(int(tokens) / job.state.sample.tokens) - 1)
        aug(n, p)(job)
    return run
import torch
def klhead(ridge="0.1", base="go", *rest):
    ridge = float(ridge)
    def run(job):
        (go if base == "go" else globals()[base](*rest))(job)
        st = job.state; s = st.student; top = len(s.sublayers); last = s.last
        feats, aims = [], []
        with torch.no_grad():
            for n, b in enumerate(st.batches):
                P = s.reaching(last, b, st.student_hidden[n], top)
                feats.append(P); aims.append(st.teacher.run(b, st.teacher_hidden[n], top))
        W0 = torch.cat([last.weight, last.bias[:, None]], 1).detach().double()
        X = torch.cat([f.flatten(0, -2) for f in feats]).double()
        D = torch.cat([(X**2).mean(0), torch.ones(1).double()])
        d = torch.zeros_like(W0, requires_grad=True)
        opt = torch.optim.LBFGS([d], max_iter=60, history_size=20, line_search_fn="strong_wolfe")
        N = sum(len(b.index) for b in st.batches)
        def loss():
            W = (W0 + d)
            tot = 0
            for b, P, a in zip(st.batches, feats, aims):
                z = (P.double() @ W[:, :-1].T + W[:, -1])
                tot = tot + s.kind.distance(z, a.double(), 2.0, b.mask).sum()
            return tot / N + ridge * (D * d**2).sum()
        def closure():
            opt.zero_grad(); l = loss(); l.backward(); return l
        with torch.enable_grad():
            l0 = loss().item(); opt.step(closure); l1 = loss().item()
        print("head", l0, l1)
        with torch.no_grad():
            W = (W0 + d).detach().float(); last.weight.copy_(W[:, :-1]); last.bias.copy_(W[:, -1])
    return run
def fillo(tokens, p="0.15", a="1", keep="1"):
    """copies only tuned on: curvature of originals only; asym a"""
    def run(job):
        import math
        from augment import augment
        from kprune.plus import curvature as cv
        s = job.state.sample
        n = max(0, math.ceil(int(tokens) / s.tokens) - 1)
        more = augment(s, "rand", n, float(p), job.options.seed)
        j2 = prepared(job.model, replace(s, examples=[*s.examples, *more], labels=None), job.options, progress=False); j2.budget = job.budget
        old = cv.Curvature.__init__
        def init(self, state, gamma, seed):
            st = state.sample; state.sample = s
            old(self, state, gamma, seed)
            state.sample = st
            self.row = torch.full((len(st.examples),), self.samples); 
            self.row[:len(s.examples)] = torch.arange(len(s.examples))
        cv.Curvature.__init__ = init
        try: (asym(a) if float(a) < 1 else go)(j2)
        finally: cv.Curvature.__init__ = old
        job.state = j2.state
    return run
