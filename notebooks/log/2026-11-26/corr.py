"""how well cheap proxies foretell the KL of a whole sweep, over allocations"""
import sys, random, time
import torch; torch.set_num_threads(1)
import kprune
from contextlib import ExitStack
from kprune.encoders import Encoder, tapped
from kprune.engine.sharing import sharing_weights
from kprune.data.batching import on_device
from kprune.options import Options
from kprune.pruning import prepared
from kprune.engine.as_found import plain_tensors
from kprune.surgery import keep_units, set_weight, feature_mask
import before as v
from scipy.stats import spearmanr
S = "../shared"
task, rate, count = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
T={"squad":(f"{S}/checkpoints/minilm-squad",f"{S}/data/squad"),"stsb":(f"{S}/checkpoints/minilm-stsb",f"{S}/data/glue")}[task]
dense,tok,_=kprune.teacher(task,"minilm",T[1],T[0]); dense.requires_grad_(False)
sample=kprune.sample(task,tok,10000,0,T[1]); unseen=kprune.sample(task,tok,30000,77,T[1])
enc=Encoder(sharing_weights(dense)); parts=on_device(unseen,dense.device)
with torch.no_grad(): aims=[enc.run(b) for b in parts]
def kl(model, some=None):
    e=Encoder(sharing_weights(model))
    with torch.no_grad(): return torch.cat([e.kind.distance(e.run(b),a,2.0,b.mask) for b,a in list(zip(parts,aims))[some or slice(None)]]).mean().item()
opts=Options(rate=rate,method="kprune+")
with plain_tensors():
    job=prepared(dense,sample,opts,progress=False); st=job.state
    imp=v.kprune_plus(2.0,0).scores(st,0); outputs=st.outputs
    twin=st.student.copy(); A=[torch.zeros(s.output.in_features+1,s.output.in_features+1,dtype=torch.float64) for s in twin.sublayers]
    with torch.no_grad():
        for n,b in enumerate(st.batches):
            with tapped(twin.sublayers) as f: twin.run(b, st.student_hidden[n])
            real=torch.ones_like(f[0][...,0],dtype=torch.bool) if b.mask is None else b.mask
            for a,P in zip(A,f):
                P=torch.nn.functional.pad(P[real],(0,1),value=1.0); a+=(P.T@P).double()
subs=enc.sublayers; price=[job.budget.price(s) for s in subs]
order=[i.argsort(descending=True) for i in imp]; limit=job.budget.left
masks,_=v.search(st,0,imp,job.budget); counts=[int(m.sum()) for m in masks]
def masks_of(counts):
    ms=[]
    for o,c in zip(order,counts):
        m=torch.zeros(len(o),dtype=torch.bool); m[o[:c]]=True; ms.append(m)
    return ms
def sweep(counts):
    with plain_tensors():
        job=prepared(dense,sample,opts,progress=False); job.state.outputs=outputs; ms=masks_of(counts)
        v.go(job,v.replace(v.kprune_plus(2.0,0),scores=lambda s,t:imp[t:],search=lambda s,t,i,b:(ms[t:],0.0)))
    return kl(job.state.student.model)
@torch.no_grad()
def candidate(counts, tuned=True):
    import copy
    e=Encoder(copy.deepcopy(dense))
    for k,(s,m) in enumerate(zip(e.sublayers,masks_of(counts))):
        W=torch.cat([s.output.weight.T.double(), s.output.bias[None].double()])
        f=m.repeat_interleave(s.unit_size); f1=torch.cat([f,torch.ones(1,dtype=torch.bool)])
        inner=A[k][f1][:,f1]; scale=inner.diagonal()
        new=torch.linalg.solve(inner+(1e-4*scale).diag(), A[k][f1]@W)
        keep_units(s,m)
        if tuned: set_weight(s.output, new[:-1].T.float(), new[-1].float())
    return e.model
rng=random.Random(5)
def move(counts):
    while True:
        new=counts[:]; a,b=rng.sample(range(12),2)
        give=max(1,round(limit*rng.choice([.02,.04,.08])/price[a])); 
        if new[a]<give: continue
        gain=int(give*price[a]//price[b])
        if gain<1 or new[b]+gain>len(order[b]): continue
        new[a]-=give; new[b]+=gain; return new
rows=[]
for n in range(count):
    c=counts[:]
    for _ in range(rng.choice([0,1,2,3])): c=move(c)
    t0=time.time(); true=sweep(c); t1=time.time(); m=candidate(c); t2=time.time(); p=kl(m); t3=time.time(); p2=kl(m,slice(0,len(parts),10)); 
    lost=sum(i[~mm].sum().item() for i,mm in zip(imp,masks_of(c)))
    rows.append((true,p,p2,lost)); print(n,[round(x,4) for x in rows[-1]],c,f"{t1-t0:.1f} {t2-t1:.1f} {t3-t2:.1f}",flush=True)
    if n>3: print("  rank corr with true:",[round(spearmanr([r[0] for r in rows],[r[k] for r in rows]).statistic,2) for k in (1,2,3)],flush=True)
