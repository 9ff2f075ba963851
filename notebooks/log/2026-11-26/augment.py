import random
from kprune.pruning import prepared
def augment(sample, kind, copies, p=0.15, seed=0):
    rng = random.Random(seed)
    tok = sample.tokenizer
    cls, sep, pad = tok.cls_token_id, tok.sep_token_id, tok.pad_token_id
    special = {cls, sep, pad}
    ex = sample.examples
    pool = [i for e in ex for i in e["input_ids"] if i not in special]
    out = []
    def parts(e):
        ids = e["input_ids"]; cut = [n for n, i in enumerate(ids) if i == sep]
        segs, lo = [], 1
        for c in cut: segs.append(ids[lo:c]); lo = c + 1
        return segs
    def build(segs):
        ids, types = [cls], [0]
        for n, s in enumerate(segs):
            ids += [*s, sep]; types += [min(n, 1)] * (len(s) + 1)
        return {"input_ids": ids, "token_type_ids": types}
    for c in range(copies):
        order = list(range(len(ex))); rng.shuffle(order)
        for n, e in enumerate(ex):
            segs = parts(e)
            if kind == "rand":
                segs = [[rng.choice(pool) if rng.random() < p else i for i in s] for s in segs]
            elif kind == "swap":
                other = parts(ex[order[n]])
                segs = [segs[0], other[1]] if len(segs) > 1 else [segs[0][: len(segs[0]) // 2] + other[0][len(other[0]) // 2:]]
            elif kind == "both":
                other = parts(ex[order[n]])
                segs = [segs[0], other[1]] if len(segs) > 1 else [segs[0][: len(segs[0]) // 2] + other[0][len(other[0]) // 2:]]
                segs = [[rng.choice(pool) if rng.random() < p else i for i in s] for s in segs]
            new = build(segs)
            out.append({k: new[k] for k in e if k in new})
    return out

