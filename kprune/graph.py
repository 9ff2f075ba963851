"""ONNX: a model as a graph that onnxruntime runs without PyTorch, compared before it counts."""

import copy
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from kprune.card import card
from kprune.checks import check_model
from kprune.data.reach import local
from kprune.encoders import Encoder
from kprune.engine.files import CARD, GRAPH, check_target, sign, written_whole
from kprune.families import family_of, report_of
from kprune.inputs import check_match, longest, made_up
from kprune.outputs import pooled
from kprune.sampling import find_tokenizer
from kprune.sentences import Inside, opened

OPSET = 18
WITHIN = 1e-5  # of PyTorch's outputs, and of their size where that is above 1
SHAPES = ((2, 9), (1, 4), (3, 12))  # sequences × tokens: traced, and compared


def export(
    model: Any,
    folder: str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    quantize: str = "",
) -> Path:
    """Write a model as ONNX with its tokenizer, for batches and lengths of any size.

    The folder appears whole or not at all, once onnxruntime has given what PyTorch gives. A
    sublayer without units is no part of the graph. Weights are float32, whatever the model's are.
    The card in the folder, README.md, shows how to run it without PyTorch. Needs the extra `onnx`.

    Args:
        model: a pruned model, or a dense one of a family that is known, or a SentenceTransformer
            or CrossEncoder with one inside. Without a head the graph gives `sentence_embedding`,
            too, pooled as that object says, else the normalised mean over real tokens.
        folder: where to; it is given back. What this package has written there is replaced.
        tokenizer: by default the model's own.
        quantize: "int8" keeps the weights of products and embeddings in 8 bits, with a scale for
            each output: a quarter of the size. Its outputs are no longer those of PyTorch.

    ValueError for what cannot be exported, or gives other outputs there.
    """
    if quantize not in ("", "int8"):
        raise ValueError(f'quantize is "" or "int8"; got {quantize!r}.')
    check_installed()
    if inside := opened(model, {}):
        model, tokenizer = inside.model, tokenizer or inside.tokenizer
    check_model(model, empty=True)
    check_target(folder, teachers=False, whole=GRAPH)
    check_match(model, tokenizer := tokenizer or find_tokenizer(model), whole=True)
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(f"A {type(tokenizer).__name__} has no tokenizer.json, which ONNX needs.")
    graph = Graph(model, **(inside.options if inside else pooled(model)))
    report = report_of(model)
    pairs = graph.encoder.kind.name == "span" or report.get("columns") == 2
    pairs |= bool(inside and inside.pairs)
    with written_whole(folder, teachers=False, whole=GRAPH) as part:
        graph.write(part / GRAPH)
        _compare(part / GRAPH, graph)
        if quantize:
            _in_8_bits(part / GRAPH)
            _compare(part / GRAPH, graph, exact=False)
        tokenizer.save_pretrained(part)
        _plain_config(model).save_pretrained(part)
        told = _card(model, graph, tokenizer, quantize, pairs, inside)
        (part / CARD).write_text(told, encoding="utf-8")
        sign(part, report=report)
    return local(folder)


def check_installed() -> None:
    """Raise ValueError where what writes and runs graphs is not installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise ValueError("export needs the optional extra: pip install 'kprune[onnx]'.") from error


class Graph(nn.Module):
    """A copy of a model on the CPU, in float32, from its inputs in their order to named outputs."""

    def __init__(self, model: PreTrainedModel, **pooled: Any):
        super().__init__()
        twin = copy.deepcopy(model).to("cpu", torch.float32)
        if twin.config._attn_implementation not in ("eager", "sdpa"):
            twin.set_attn_implementation("eager")
        self.encoder = Encoder(twin, **pooled)
        self.model = self.encoder.model
        self.inputs = ["input_ids", "attention_mask"]
        self.inputs += ["token_type_ids"] * self.encoder.takes_token_types
        span = self.encoder.kind.name == "span"
        self.outputs = ["start_logits", "end_logits"] if span else ["logits"]
        if self.encoder.kind.name == "embedding":
            self.outputs = ["last_hidden_state", "sentence_embedding"]
        self.eval().requires_grad_(False)

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        inputs = dict(zip(self.inputs, given, strict=True))
        found = self.model(**inputs, return_dict=True)
        if self.encoder.kind.name != "embedding":
            return tuple(found[name] for name in self.outputs)
        pooled = self.encoder.kind.read(found, inputs["attention_mask"].bool())
        return found.last_hidden_state, pooled

    def example(self, shape: tuple[int, int]) -> tuple[Tensor, ...]:
        """Inputs of so many sequences and tokens."""
        batch = made_up(self.model, *shape)
        found = batch.inputs | {"attention_mask": batch.attention_mask}
        return tuple(found[name] for name in self.inputs)

    def write(self, path: Path) -> None:
        """Trace it; the first two axes of the inputs and the first of the outputs are free."""
        import onnx

        one, both = {0: "batch"}, {0: "batch", 1: "length"}
        by_token = ["last_hidden_state"]
        by_token += self.outputs if self.encoder.kind.name in ("span", "tokens") else []
        axes = dict.fromkeys(self.inputs, both)
        axes |= {name: both if name in by_token else one for name in self.outputs}
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what tracing does not follow; outputs are compared
            torch.onnx.export(
                self,
                self.example(SHAPES[0]),
                str(path),
                input_names=self.inputs,
                output_names=self.outputs,
                dynamic_axes=axes,
                opset_version=OPSET,
                dynamo=False,
            )
        written = onnx.load(path)
        # Where no attention is left, nothing asks for the mask; it may be given all the same.
        if missing := {*self.inputs} - {known.name for known in written.graph.input}:
            whole, shape = onnx.TensorProto.INT64, [*both.values()]
            added = [onnx.helper.make_tensor_value_info(name, whole, shape) for name in missing]
            written.graph.input.extend(added)
            onnx.save(written, path)


def _in_8_bits(path: Path) -> None:
    """Quantize a graph's weights in place; activations are quantized as they come."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    whole = path.with_suffix(".float.onnx")
    path.rename(whole)
    # One scale for a whole matrix is lost to a single large weight, which tuning leaves here and
    # there; one for each output is not.
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # its advice is about images
    try:
        quantize_dynamic(whole, path, per_channel=True, weight_type=QuantType.QInt8)
    finally:
        logging.disable(before)
    whole.unlink()


@torch.no_grad()
def _compare(path: Path, graph: Graph, exact: bool = True) -> None:
    """Raise ValueError where a written graph does not give what the model gives; where it need not
    be `exact`, outputs of its shapes that are finite will do.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for shape in SHAPES:
        given = graph.example(shape)
        wanted = [one.numpy() for one in graph(*given)]
        found = session.run(None, {n: t.numpy() for n, t in zip(graph.inputs, given, strict=True)})
        for name, ours, theirs in zip(graph.outputs, found, wanted, strict=True):
            most = WITHIN * max(1.0, np.abs(theirs).max())
            off = np.abs(ours - theirs).max() if ours.shape == theirs.shape else np.nan
            if not np.isfinite(off) or (exact and off > most):
                raise ValueError(
                    f"The graph gives other {name} than the model for {shape[0]} sequences of "
                    f"{shape[1]} tokens, off by {off:.1e}; it was not written."
                )


def _plain_config(model: PreTrainedModel) -> Any:
    """The configuration of the dense family: what opens a graph asks it for names of labels."""
    values = model.config.to_dict()
    own = {key: v for key, v in values.items() if key not in ("kprune", "model_type", "dtype")}
    return CONFIG_MAPPING[family_of(model.config)](**own)


RUN = """## Run it

With onnxruntime and tokenizers alone:

```python
import numpy as np
import onnxruntime
from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file("tokenizer.json")
tokenizer.enable_padding(pad_id={pad_id}, pad_token={pad_token})
tokenizer.enable_truncation({longest})
session = onnxruntime.InferenceSession("model.onnx")
encoded = tokenizer.encode_batch([{texts}])
arrays = {{
{arrays}}}
[{outputs}] = session.run({names}, arrays)
```
"""
NAMED = ("classification", "multilabel", "tokens")  # kinds whose outputs have names
ATTRIBUTES = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}


def _card(
    model: PreTrainedModel,
    graph: Graph,
    tokenizer: PreTrainedTokenizerBase,
    quantize: str,
    pairs: bool,
    inside: Inside | None,
) -> str:
    prompt = inside.prompt if inside else ""
    arrays = "".join(
        f'    "{name}": np.array([one.{ATTRIBUTES[name]} for one in encoded]),\n'
        for name in graph.inputs
    )
    names = graph.outputs[-1:] if graph.encoder.kind.name == "embedding" else graph.outputs
    most = min(tokenizer.model_max_length, longest(model) or 512)
    single = (json.dumps(prompt + one, ensure_ascii=False) for one in ("a text", "another one"))
    run = RUN.format(
        pad_id=tokenizer.pad_token_id,
        pad_token=json.dumps(tokenizer.pad_token),
        longest=most,
        texts='("a question", "its passage")' if pairs else ", ".join(single),
        arrays=arrays,
        outputs=", ".join(names),
        names=json.dumps(names),
    )
    if prompt:
        run += f"\nPut `{prompt}` before each text, as the model's object does by default.\n"
    kept = "int8, activations as they come" if quantize else "float32"
    how = f"`model.onnx` is its graph, weights in {kept}.\n\n{run}"
    labels = [str(name) for _, name in sorted(model.config.id2label.items())]
    if graph.encoder.kind.name in NAMED and labels != [f"LABEL_{n}" for n in range(len(labels))]:
        how += f"\nThe logits stand for the labels {', '.join(labels)}, in this order.\n"
    if inside and inside.pairs:
        last = type(getattr(inside.whole, "activation_fn", None)).__name__
        how += f"\nThe CrossEncoder's `predict` puts its activation ({last}) behind these logits.\n"
    return card(model, report_of(model), how, library="onnx")
