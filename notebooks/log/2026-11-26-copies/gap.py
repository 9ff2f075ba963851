"""per-sublayer relative errors of hidden states on sample and unseen"""
import sys, torch, kprune
from kprune.encoders import Encoder
from kprune.options import Options
from kprune.pruning import prepared
from kprune.engine.as_found import plain_tensors
from kprune.engine.sharing import sharing_weights
from kprune.data.batching import on_device
from kprune.methods import composed
from kprune.sublayerwise import sublayerwise
torch.set_num_threads(1)
S="../shared"
task, rate, without = sys.argv[1], float(sys.argv[2]), sys.argv[3] if len(sys.argv)>3 else ""
T={"squad":(f"{S}/checkpoints/minilm-squad",f"{S}/data/squad"),"stsb":(f"{S}/checkpoints/minilm-stsb",f"{S}/data/glue")}
dense,tok,_=kprune.teacher(task,"minilm",T[task][1],T[task][0]); dense.requires_grad_(False)
sample=kprune.sample(task,tok,10000,0,T[task][1]); unseen=kprune.sample(task,tok,20000,77,T[task][1])
parts=on_device(unseen,dense.device)
with plain_tensors(), torch.no_grad():
    opt=Options(rate=rate,method="kprune+",without=without)
    job=prepared(dense,sample,opt,progress=False); st=job.state
    enc=Encoder(sharing_weights(dense))
    th=[enc.run(b,stop=0) for b in parts]; sh=[h.clone() for h in th]
    def err(a,b,parts):
        n=d=0
        for x,y,p in zip(a,b,parts):
            m=1 if p.mask is None else p.mask[:, :x.shape[1],None]
            mu=y.mean((0,1))
            n+=(((x.float()-y.float())*m)**2).sum().item(); d+=((y.float()*m)**2).sum().item()
        return n/d
    for step in sublayerwise(st,job.budget,composed(opt)):
        t=step.t
        for i,b in enumerate(parts):
            th[i]=enc.run(b,th[i],t,t+1); sh[i]=st.student.run(b,sh[i],t,t+1)
        n=len(st.batches)
        a=err([st.student_hidden[i] for i in range(n)],[st.teacher_hidden[i] for i in range(n)],st.batches)
        u=err(sh,th,parts)
        print(t,step.name,int(step.keep.sum()),f"sample {a:.4f} unseen {u:.4f} ratio {u/max(a,1e-9):.2f}", [f"{x.ridge:.0e}" for x in step.tuned if x], flush=True)
