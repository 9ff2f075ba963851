"""What a family of four rates costs, in runs of one."""
import time, torch, kprune
torch.set_num_threads(1)
S="../shared"
for task,t,d in (("stsb","minilm-stsb","glue"),("squad","minilm-squad","squad")):
    dense,tok,_=kprune.teacher(task,"minilm",f"{S}/data/{d}",f"{S}/checkpoints/{t}")
    for tokens in (10000,):
        s=kprune.sample(task,tok,tokens,0,f"{S}/data/{d}")
        a=time.time(); _,r=kprune.prune(dense,s,0.8,"kprune+",progress=False); one=time.time()-a
        a=time.time(); kprune.prune(dense,s,[0.4,0.6,0.8,0.9],"kprune+",progress=False); four=time.time()-a
        a=time.time(); kprune.prune(dense,s,0.8,"kprune",progress=False); k=time.time()-a
        print(task,tokens,f"one {one:.1f} s, four {four:.1f} s = {four/one:.2f}; K-prune {k:.1f} s, K-prune+ {one/k:.2f} of it", r.seconds, flush=True)
