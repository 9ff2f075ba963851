from variants import *
from dataclasses import replace as rep
from kprune.state import State
from kprune.surgery import keep_units
from kprune.mask_search import search
from kprune.plus import refits
from kprune.plus.refits import TuneInputs, TuneHead
from kprune.plus.elimination import Elimination
from kprune.weight_tuning import TuneOutput, kpwt, set_weight, NormalEquations
from kprune.engine import least_squares as ls
import math
def add(eqs, ho=True):
    f = NormalEquations(sum(e.gram for e in eqs), sum(e.moment for e in eqs), sum(e.target for e in eqs), sum(e.tokens for e in eqs))
    return f
def put(linears, biases, weight):
    for lin, part in zip(linears, weight.chunk(len(linears), 1)):
        w, b = (part[:-1], part[-1]) if biases else (part, lin.bias)
        set_weight(lin, w.T, b)
def cross(K="5", mode="ho", a="1", grid="1"):
    K = int(K); a = float(a); grid = float(grid)
    def run(job):
        main = job.state; s = main.sample; dense = job.model
        ho = mode == "ho"
        states = []
        for k in range(K):
            ex = s.examples[k::K]
            j = prepared(dense, rep(s, examples=ex, labels=None), job.options, progress=False)
            states.append(j.state)
        score = Elimination(2.0, job.options.seed)
        final = main.student
        from kprune import weight_tuning as wt
        def solved(captured):
            # captured: list over folds of (linears, eq, biases)
            eqs = [c[1] for c in captured]
            total = add(eqs)
            biases = captured[0][2]
            parts = [[lin.weight.T, *([lin.bias[None]] if biases else [])] for lin in captured[0][0]]
            return eqs, total, biases, parts
        def ridge_for(eqs, weights):
            # cross-validated: sum of errors of fold k with fit on others
            cands = [10.0 ** -k * x for k in range(0, 6) for x in ((1,3) if grid>1 else (1,))] + [10.0]
            best, br = math.inf, None
            outs = {}
            for r in cands:
                tot = 0; ws = []
                for k, e in enumerate(eqs):
                    oth = add([x for i, x in enumerate(eqs) if i != k])
                    w = ls.solve(oth, weights[k].double(), r)
                    tot += (e.target + (w * (e.gram @ w - 2 * e.moment)).sum()).item(); ws.append(w)
                if tot < best: best, br, bw = tot, r, ws
            keepw = sum((e.target + (w.double() * (e.gram @ w.double() - 2 * e.moment)).sum()).item() for e, w in zip(eqs, weights))
            if keepw < best: return math.inf, [w.double() for w in weights]
            return br, bw
        def tune(fn_lin, fn_cap):
            caps = []
            for st in states:
                got = []
                orig = wt.refit, refits.refit
                def cap(linears, eq, biases): got.append((linears, eq, biases))
                wt.refit = refits.refit = cap
                try: fn_cap(st)
                finally: wt.refit, refits.refit = orig
                if not got: return
                caps.append(got[0])
            eqs = [c[1] for c in caps]; biases = caps[0][2]
            def joined(linears): return torch.cat([torch.cat([l.weight.T, *([l.bias[None]] if biases else [])]) for l in linears], 1)
            weights = [joined(c[0]) for c in caps]
            fl = fn_lin(final); wf = joined(fl)
            r, ws = ridge_for(eqs, weights)
            if r < math.inf:
                put(fl, biases, ls.solve(add(eqs), wf.double(), r).float())
            for c, w in zip(caps, ws): put(c[0], biases, w.float()) if mode!='cv' else put(c[0], biases, joined(fl))
        with torch.no_grad():
            for t, target in enumerate(final.sublayers):
                imp = score(main, t)
                if t == 0:
                    lens = [main.batches]
                    full = score_w = main.weights
                    for k, st in enumerate(states):
                        def w(place, batch, k=k):
                            return full(place, rep(batch, index=batch.index * K + k))
                        st.weights = w
                (keep, *_), thr = search(main, t, imp, job.budget)
                keep_units(target, keep); job.budget.spend(target)
                for st in states: keep_units(st.student.sublayers[t], keep)
                ti = TuneInputs(hold_out=False); to = TuneOutput(bias=True, hold_out=False)
                tune(lambda e: e.sublayers[t].inputs, lambda st: ti(st, t, keep))
                tune(lambda e: [e.sublayers[t].output], lambda st: to(st, t, keep))
                for st in states: st.advance(t)
                main.place = t + 1
            tune(lambda e: [e.last], lambda st: TuneHead(hold_out=False)(st))
    return run
