"""What swaps after elimination gain: the error in K_pred's metric at a fifth of each FFN's neurons, on the sample and on other texts."""
import sys, torch, kprune
from kprune.plus.curvature import Curvature
from kprune.plus.elimination import eliminate, RIDGE
from kprune.state import State
torch.set_num_threads(1)
S="../shared"
T={"stsb":("minilm-stsb","glue"),"squad":("minilm-squad","squad")}
task=sys.argv[1]; t,d=T[task]
dense,tok,_=kprune.teacher(task,"minilm",f"{S}/data/{d}",f"{S}/checkpoints/{t}"); dense.requires_grad_(False)
def sums(tokens,seed):
    s=kprune.sample(task,tok,tokens,seed,f"{S}/data/{d}"); e=kprune.Encoder(dense)
    with torch.no_grad(): return Curvature(State(e,e.copy(),s),2.0,0), e
seen,e=sums(10000,0); other,_=sums(20000,77)
def error(A,W,keep,Wk):  # of weights Wk on kept ones
    D=W.clone(); D[keep]-=Wk
    return (D*(A@D)).sum().item()
def refit(A,W,keep):
    K=A[keep][:,keep]; K=K+RIDGE*K.diagonal().diag()
    return torch.linalg.solve(K,A[keep]@W)
for sub,A,G,B in zip(e.sublayers,seen.grams,seen.slopes,other.grams):
    if sub.unit_size>1: continue
    A,G,B=A.double(),G.double(),B.double()
    v,U=torch.linalg.eigh(G); W=sub.output.weight.detach().T.double()@(U*v.clamp(min=0).sqrt())
    scores=eliminate(A,W,1); n=len(scores)
    keep=torch.zeros(n,dtype=torch.bool); keep[scores.topk(n//5).indices]=True
    start=(error(A,W,keep,refit(A,W,keep)),error(B,W,keep,refit(A,W,keep)))
    scale=A.diagonal()
    R=A+RIDGE*scale.diag(); swaps=0
    for _ in range(150):
        K=keep.nonzero().flatten(); N=(~keep).nonzero().flatten()
        M=torch.linalg.inv(R[K][:,K]); AW=R@W
        Wk=M@AW[K]; X=R[N][:,K]
        cross=AW[N]-X@Wk; schur=R[N,N]-((X@M)*X).sum(1)
        gain=cross.square().sum(1)/schur
        i=N[gain.argmax()]; keep[i]=True
        K=keep.nonzero().flatten(); M=torch.linalg.inv(R[K][:,K]); Wk=M@AW[K]
        growth=Wk.square().sum(1)/M.diagonal()
        j=K[growth.argmin()]; keep[j]=False
        if i==j: break
        swaps+=1
    end=(error(A,W,keep,refit(A,W,keep)),error(B,W,keep,refit(A,W,keep)))
    print(task,sub.name,n//5,"kept; swaps",swaps,f"sample {end[0]/start[0]:.3f} others {end[1]/start[1]:.3f} (of the error before)",flush=True)
