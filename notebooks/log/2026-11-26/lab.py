"""lab.py TASK RATES SEEDS variant ...: one JSON line per run into runs.jsonl"""
import json, sys, time, os, importlib
import torch
from dataclasses import replace
import kprune
from kprune.encoders import Encoder
from kprune.engine.sharing import sharing_weights
from kprune.data.batching import on_device
from kprune.options import Options
from kprune.pruning import prepared
from kprune.sublayerwise import sublayerwise, Method
from kprune.engine.as_found import plain_tensors
torch.set_num_threads(int(os.environ.get("LABT", "1")))
S = "../shared"
T = {
 "squad": dict(teacher=f"{S}/checkpoints/minilm-squad", data=f"{S}/data/squad", every=20),
 "stsb": dict(teacher=f"{S}/checkpoints/minilm-stsb", data=f"{S}/data/glue", every=1),
 "sst2": dict(teacher=f"{S}/checkpoints/minilm-sst2", data=f"{S}/data/glue", every=1),
 "mrpc": dict(teacher="outputs/teachers/mrpc-minilm", data=f"{S}/data/glue", every=1),
}
for n in ("sst2","stsb","mrpc"): T[n+"-mpnet"]=dict(task=n, model="mpnet", teacher=f"outputs/teachers/{n}-mpnet", data=f"{S}/data/glue", every=1)
def main():
    variants = importlib.import_module(os.environ.get("LAB", "after"))
    task, rates, seeds, names = sys.argv[1], sys.argv[2].split(","), sys.argv[3].split(","), sys.argv[4:]
    tokens = int(os.environ.get("TOKENS", "10000"))
    t = T[task]; shown, task = task, t.get("task", task)
    dense, tok, _ = kprune.teacher(task, t.get("model","minilm"), t["data"], t["teacher"])
    dense.requires_grad_(False)
    dev = kprune.dev_set(task, tok, t["data"], int(os.environ.get("EVERY", t["every"])))
    unseen = kprune.sample(task, tok, 30000, 77, t["data"])
    enc = Encoder(sharing_weights(dense))
    parts = on_device(unseen, dense.device)
    with torch.no_grad():
        aims = [enc.run(b) for b in parts]
    def kl(model):
        e = Encoder(sharing_weights(model))
        with torch.no_grad():
            return torch.cat([e.kind.distance(e.run(b), a, 2.0, b.mask) for b, a in zip(parts, aims)]).mean().item()
    for seed in seeds:
        sample = kprune.sample(task, tok, tokens, int(seed), t["data"])
        for rate in rates:
            for name in names:
                start = time.time()
                if name in ("kprune", "kprune+"):
                    model, rep = kprune.prune(dense, sample, float(rate), name, progress=False)
                    heads, neurons = rep.heads, rep.neurons
                else:
                    with plain_tensors():
                        job = prepared(dense, sample, Options(rate=float(rate), method="kprune+", seed=int(seed)), progress=False)
                        run = getattr(variants, name.split(":")[0])(*name.split(":")[1:])
                        run(job)
                    model = job.state.student.model
                    model.config._attn_implementation = dense.config._attn_implementation
                    heads, neurons = job.state.student.units("MHA"), job.state.student.units("FFN")
                took = time.time() - start
                score = kprune.evaluate(model, dev)
                klin = None
                if name not in ("kprune","kprune+"):
                    st = job.state; e = Encoder(sharing_weights(model)); orig = on_device(sample, dense.device)
                    with torch.no_grad():
                        klin = round(torch.cat([e.kind.distance(e.run(b), enc.run(b), 2.0, b.mask) for b in orig]).mean().item(), 4)
                out = dict(klin=klin, task=shown, rate=float(rate), seed=int(seed), tokens=tokens, name=name, kl=round(kl(model), 4),
                           score=round(100*score[dev.task.metric], 2), took=round(took, 1), heads=heads, neurons=neurons)
                with open("runs.jsonl", "a") as f: f.write(json.dumps(out) + "\n")
                print(out, flush=True)
main()
