import sys, time, torch, kprune
from kprune.limits.latency import pass_seconds
S="../shared"
for task,t,d in (("sst2","minilm-sst2","glue"),("squad","minilm-squad","squad")):
    dense,tok,_=kprune.teacher(task,"minilm",f"{S}/data/{d}",f"{S}/checkpoints/{t}")
    s=kprune.sample(task,tok,100000,0,f"{S}/data/{d}")
    F=[pass_seconds(dense,s)]
    for m in ("kprune","kprune+"):
        a=time.time(); _,r=kprune.prune(dense,s,0.8,m,progress=False); took=time.time()-a
        F.append(pass_seconds(dense,s))
        f=sum(F)/len(F)
        print(task,m,f"{took:.1f} s, F {f:.1f}, {took/f:.2f} F", {k:round(v/f,2) for k,v in r.seconds.items()}, flush=True)
