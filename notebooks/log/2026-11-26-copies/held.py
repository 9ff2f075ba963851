from variants import *
import inspect
from kprune import weight_tuning as wt
from kprune.plus import refits
src = inspect.getsource(wt.gather)
src = src.replace("""            some = slice(-before[number] % every, None, every)
""", """            n = state.originals
            origin = batch.index % n
            some = (origin % every == 0).nonzero().flatten()
""")
assert "state.originals" in src
exec(src, wt.__dict__)
refits.gather = wt.gather
from kprune.state import State
State.originals = 10**9
def heldaug(copies="1", p="0.15", grid="0"):
    def run(job):
        State.originals = len(job.state.sample.examples)
        aug(copies, p)(job)
        State.originals = 10**9
    return run
