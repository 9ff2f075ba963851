import sys, os, json, random, time, math
import torch; torch.set_num_threads(1)
import kprune
from kprune.encoders import Encoder
from kprune.engine.sharing import sharing_weights
from kprune.data.batching import on_device
from kprune.options import Options
from kprune.pruning import prepared
from kprune.engine.as_found import plain_tensors
import before as v
S = "../shared"
task, rate, evals, scores = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), sys.argv[4]  # shares or metric
T={"squad":(f"{S}/checkpoints/minilm-squad",f"{S}/data/squad"),"stsb":(f"{S}/checkpoints/minilm-stsb",f"{S}/data/glue")}[task]
dense,tok,_=kprune.teacher(task,"minilm",T[1],T[0]); dense.requires_grad_(False)
sample=kprune.sample(task,tok,10000,0,T[1]); unseen=kprune.sample(task,tok,30000,77,T[1])
enc=Encoder(sharing_weights(dense)); parts=on_device(unseen,dense.device)
with torch.no_grad(): aims=[enc.run(b) for b in parts]
def kl(model):
    e=Encoder(sharing_weights(model))
    with torch.no_grad(): return torch.cat([e.kind.distance(e.run(b),a,2.0,b.mask) for b,a in zip(parts,aims)]).mean().item()
opts=Options(rate=rate,method="kprune+")
with plain_tensors():
    job=prepared(dense,sample,opts,progress=False)
    outputs=[job.state.teacher.run(b, job.state.teacher_hidden[n], 0).detach() for n,b in enumerate(job.state.batches)]
    if scores=="metric": job.state.outputs=outputs  # the other fills them itself
    imp=v.elimG_at(job.state,0)[1] if scores=="metric" else v.kprune_plus(2.0,0).scores(job.state,0)
subs=enc.sublayers; price=[job.budget.price(s) for s in subs]
order=[i.argsort(descending=True) for i in imp]
limit=job.budget.left
masks,_=v.search(job.state,0,imp,job.budget)
counts=[int(m.sum()) for m in masks]
def run(counts):
    with plain_tensors():
        job=prepared(dense,sample,opts,progress=False)
        job.state.outputs=outputs
        ms=[]
        for o,c in zip(order,counts):
            m=torch.zeros(len(o),dtype=torch.bool); m[o[:c]]=True; ms.append(m)
        m=v.replace(v.kprune_plus(2.0,0),scores=lambda s,t:imp[t:],search=lambda s,t,i,b:(ms[t:],0.0))
        v.go(job,m)
    return kl(job.state.student.model)
best=run(counts); print("start",best,counts,flush=True)
rng=random.Random(1)
for n in range(evals):
    new=counts[:]
    a,b=rng.sample(range(12),2)
    amount=limit*rng.choice([0.02,0.04,0.08])
    give=max(1,round(amount/price[a])); take=give*price[a]
    if new[a]-give<0: continue
    new[a]-=give
    gain=int(take//price[b]); 
    if gain<1 or new[b]+gain>len(order[b]): continue
    new[b]+=gain
    got=run(new)
    if got<best: best,counts=got,new; print(n,"better",round(best,4),counts,(a,b),flush=True)
