import sys,os,warnings,time

warnings.simplefilter("ignore")
import torch; torch.set_num_threads(1)
import kprune
from kprune.plus import curvature
from kprune.plus.curvature import Curvature
from kprune.engine.least_squares import ROWS
tokens=int(sys.argv[1]); rates=[float(x) for x in sys.argv[2].split(",")]
D="../shared/data/glue"
task=os.environ["TASK"]; D="../shared/data/"+("squad" if task=="squad" else "glue")
if task in ("sst2","stsb","squad"): dense,tok=kprune.load_teacher("../shared/checkpoints/minilm-"+task,task)
else: dense,tok,_=kprune.teacher(task,"minilm",D)
sample=kprune.sample(task,tok,tokens,int(os.environ.get("SEED","0")),D)
dev=kprune.dev_set(task,tok,D,every=40 if task=="squad" else 10 if task=="mnli" else 1)
from kprune.data.hub import load_split
other=load_split("mrpc","validation",D); texts=[t for c in ("sentence1","sentence2") for t in other[c][:]]
@torch.no_grad()
def emb(m):
    out=[]
    for i in range(0,len(texts),64):
        b=tok(texts[i:i+64],padding=True,truncation=True,max_length=128,return_tensors="pt")
        h=m(**b).last_hidden_state; k=b["attention_mask"][...,None]
        out.append(torch.nn.functional.normalize((h*k).sum(1)/k.sum(1),dim=1))
    return torch.cat(out)
own_init,own_add=Curvature.__init__,Curvature.add
def make(mode):
    def add(self,batch,parts):
        ids=batch.inputs["input_ids"]
        real=torch.ones_like(ids,dtype=torch.bool) if batch.mask is None else batch.mask
        features=[P for part in reversed(parts) for P in part.features]
        slopes=[g for part in reversed(parts) for g in part.slopes]
        for i,(gram,outer,norms,P,g) in enumerate(zip(self.grams,self.slopes,self.norms,features,slopes)):
            P,g=(x*real[:,:x.shape[1],None] for x in (P.to(gram.dtype),g.to(gram.dtype)))
            norms[batch.index,:g.shape[1]]=g.norm(dim=-1)
            if mode in("both","half"):
                n=min(P.shape[1],g.shape[1]); Q,h=P[:,:n],g[:,:n]
                KP=(h@h.mT)@Q; KG=(Q@Q.mT)@h
                self.grams2[i]+=Q.flatten(0,1).T@KP.flatten(0,1)
                self.slopes2[i]+=h.flatten(0,1).T@KG.flatten(0,1)
            if mode=="scale":
                n=min(P.shape[1],g.shape[1]); Q,h=P[:,:n],g[:,:n]
                self.total[i]+=((Q@Q.mT)*(h@h.mT)).sum()
            if mode=="slopes":
                s=g.sum(1); self.slopes2[i]+=s.T@s
            if mode=="reduce":
                n=real[:,:P.shape[1]].sum(1).clamp(min=1)[:,None].sqrt()
                p=P.sum(1)/n; s=g.sum(1); self.grams2[i]+=p.T@p; self.slopes2[i]+=s.T@s
            gram.addmm_(P.flatten(0,1).T,P.flatten(0,1)); outer.addmm_(g.flatten(0,1).T,g.flatten(0,1))
        return parts[0].outputs.isfinite().all()
    def init(self,state,gamma,seed):
        self.grams2=[torch.zeros(s.output.in_features,s.output.in_features) for s in state.student.sublayers]
        self.slopes2=[torch.zeros(s.output.out_features,s.output.out_features) for s in state.student.sublayers]
        self.total=[torch.zeros(()) for _ in state.student.sublayers]
        own_init(self,state,gamma,seed)
        for i in range(len(self.grams)):
            A,G,A2,G2=self.grams[i],self.slopes[i],self.grams2[i],self.slopes2[i]
            if mode in("both","half"):
                N=A2.diagonal().sum()
                new=A2*(self.tokens/N)
                self.ratio=getattr(self,"ratio",[])+[round((N*self.tokens/(A.diagonal().sum()*G.diagonal().sum())).item(),2)]
                if mode=="half":  # A: expand's gram at the trace of the new one
                    new=A*(new.diagonal().sum()/A.diagonal().sum())
                self.grams[i]=new; self.slopes[i]=G2
            if mode=="scale":
                rho=self.total[i]*self.tokens/(A.diagonal().sum()*G.diagonal().sum()); self.grams[i]=A*rho
                self.ratio=getattr(self,"ratio",[])+[round(rho.item(),2)]
            if mode=="slopes": self.slopes[i]=G2
            if mode=="reduce": self.grams[i]=A2*(self.tokens/self.samples)/ (self.tokens/self.samples); self.slopes[i]=G2
        print("   coherence",getattr(self,"ratio",""),flush=True)
    return init,add
for mode in sys.argv[3:]:
    method="kprune+"
    Curvature.__init__,Curvature.add=own_init,own_add
    if mode=="kprune": method="kprune"
    elif mode!="plain": Curvature.__init__,Curvature.add=make(mode)
    t=time.time()
    res=kprune.prune(dense,sample,rates,method,progress=False)
    for (p,r),rate in zip(res,rates):
        s=kprune.evaluate(p,dev)[dev.task.metric]; k=0
        print(f"{mode:8s} {rate} {task} {100*s:.2f} mrpc-K {k:.4f} heads {r.heads} neurons {r.neurons} {time.time()-t:.0f}s",flush=True)
