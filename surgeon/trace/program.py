"""A network as an ATen graph with its own state: what `torch.export` gives, made trainable."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.fx.node import map_aggregate
from torch.utils import _pytree as pytree

from surgeon.errors import BadInput
from surgeon.quiet import mute
from surgeon.trace.caches import caches_off
from surgeon.trace.captured import Shape, refuse_other_sizes, said
from surgeon.trace.copied import copied
from surgeon.trace.inputs import Inputs
from surgeon.trace.lift import lift, plain
from surgeon.trace.mode import exporting, plain_attention
from surgeon.trace.rebound import held_by_functions
from surgeon.trace.shell import twin_of
from surgeon.trace.steps import Observer, Steps, bind, compile_steps
from surgeon.trace.tensors import named_loose, named_state

FIXED = "the batch size is fixed at"


@dataclass(frozen=True, eq=False)
class Held:
    """One name of the state: a parameter where `tensor` is one, else a buffer.

    Two names with the same tensor object are tied.
    """

    name: str
    tensor: Tensor
    persistent: bool = True


class Program(nn.Module):
    """A network as a `torch.fx` graph of ATen ops over its own parameters and buffers.

    State has the original model's names, so `state_dict()` has its keys; tied names hold one
    tensor; tensors that were plain attributes are non-persistent buffers under their names, and
    constants of the forward under `_constants.`. The graph is
    plain (`placeholder`, `get_attr`, `call_function`, `output`, the output's structure in the
    output node) and always shows eval mode: where an op's `training`, `train` or
    `use_input_stats` argument is the literal False, the module's own mode takes its place when
    the program runs. Ops that have it True stay True in both modes.

    What Python decided in eval mode stays decided: stochastic depth, or the dropout of an
    attention written `p if self.training else 0`, is not in the graph and does not come back.

    `inputs` is the structure of (args, kwargs) with a `Slot` per tensor; anything else in it is a
    constant the program was made for. `sizes` is the shape of each of those tensors, None where any
    size will do, and () where nothing is known of them. After changing `graph`, call `recompile()`.
    """

    def __init__(
        self,
        graph: fx.Graph,
        state: Iterable[Held],
        inputs: tuple[tuple[Any, ...], dict[str, Any]],
        notes: Iterable[str] = (),
        dynamic_batch: bool = False,
        sizes: Iterable[Shape] = (),
    ) -> None:
        super().__init__()
        self.graph = graph
        self.inputs = inputs
        self.sizes = tuple(sizes)
        self.notes = tuple(dict.fromkeys([*notes, *said(self.sizes, inputs)]))
        self.dynamic_batch = dynamic_batch
        self._steps: dict[bool, Steps] = {}
        for held in state:
            _hold(self, held)
        self.recompile()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the original returns, tuples, lists and dicts in place of classes of its own.

        Raises as `run` does.
        """
        return self.run(args, kwargs)

    def run(
        self,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any] | None = None,
        observe: Observer | None = None,
    ) -> Any:
        """Forward; `observe(node, value)` is called after each node that was computed.

        Raises TypeError if the arguments have not the structure the program was made for, BadInput if a
        tensor has another size than the program was captured with.
        """
        flat = bind(self.inputs, (tuple(args), dict(kwargs or {})))
        if self.sizes:
            refuse_other_sizes(self.sizes, flat, self.inputs)
        if self.training not in self._steps:
            places = {held.name: _place(self, held.name) for held in self.held()}
            self._steps[self.training] = compile_steps(self.graph, places, self.training)
        return self._steps[self.training].run(flat, observe)

    def takes(self, inputs: Inputs) -> bool:
        """Whether these inputs have the structure and the sizes that the program was captured with."""
        try:
            flat = bind(self.inputs, (inputs.args, dict(inputs.kwargs)))
            refuse_other_sizes(self.sizes, flat if self.sizes else [], self.inputs)
        except (TypeError, BadInput):
            return False
        return True

    def held(self) -> list[Held]:
        """Every name of the state, tied ones and non-persistent buffers too, in `state_dict` order."""
        found: list[Held] = []
        for path, module in self.named_modules(remove_duplicate=False):
            dot = f"{path}." if path else ""
            for name, tensor in (*module._parameters.items(), *module._buffers.items()):
                if tensor is not None:
                    persistent = name not in module._non_persistent_buffers_set
                    found.append(Held(dot + name, tensor, persistent))
        return found

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state by name; what `decode` takes back."""
        return {held.name: held.tensor for held in self.held()}

    def ties(self) -> dict[str, str]:
        """Each name that shares its tensor with an earlier one -> that first name."""
        first: dict[int, str] = {}
        owners = ((h.name, first.setdefault(id(h.tensor), h.name)) for h in self.held())
        return {name: owner for name, owner in owners if name != owner}

    def replace_state(self, new: Mapping[str, Tensor]) -> None:
        """Put tensors (any shape) in place of those named; all of their tied names follow.

        A parameter stays a parameter and keeps `requires_grad`. Raises BadInput, with nothing
        changed, for an unknown name or two tensors for names that are tied.
        """
        old, ties = self.tensors(), self.ties()
        chosen: dict[str, Tensor] = {}
        for name, tensor in new.items():
            if name not in old:
                raise BadInput(f"the program has no state named {name}")
            owner = ties.get(name, name)
            if chosen.setdefault(owner, tensor) is not tensor:
                raise BadInput(f"{name} is tied to {owner}, and was given another tensor")
        fresh = {name: _as_kind(tensor, old[name]) for name, tensor in chosen.items()}
        for name in old:
            owner = ties.get(name, name)
            if owner in fresh:
                _put(self, name, fresh[owner])

    def add_constant(self, tensor: Tensor) -> str:
        """Hold a tensor that the graph may read by a `get_attr` of the name returned."""
        taken = self.tensors()
        name = next(n for i in count() if (n := f"_constants.c{i}") not in taken)
        _hold(self, Held(name, tensor, persistent=False))
        return name

    def recompile(self) -> None:
        """Check the graph and run it as it is now. Raises BadInput if it names unknown state."""
        self.graph.lint()
        known = self.tensors()
        for node in self.graph.nodes:
            if node.op == "get_attr" and node.target not in known:
                raise BadInput(f"the graph reads {node.target}, which the state does not hold")
        self._steps.clear()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Program":
        """Move the state, and the dtypes and devices written in the graph with it."""
        ties = self.ties()
        super()._apply(fn, recurse)
        for name, owner in ties.items():
            _put(self, name, _get(self, owner))

        def moved(literal: Any) -> Any:
            if isinstance(literal, torch.dtype):
                return fn(torch.empty(0, dtype=literal)).dtype
            if isinstance(literal, torch.device):
                return fn(torch.empty(0, device=literal)).device
            return literal

        self.change_literals(moved)
        return self

    def change_literals(self, changed: Callable[[Any], Any]) -> None:
        """Put `changed(literal)` in place of every literal argument of the graph."""
        for node in self.graph.nodes:
            if node.op == "call_function":
                node.args = map_aggregate(node.args, changed)
                node.kwargs = map_aggregate(node.kwargs, changed)
        self._steps.clear()

    def __getstate__(self) -> dict[str, Any]:
        # Compiled steps point at this program's tensors; a copy compiles its own.
        return {**super().__getstate__(), "_steps": {}}


def to_program(model: nn.Module, inputs: Any, kwargs: Mapping[str, Any] | None = None) -> Program:
    """Export the eval-mode `model` as a Program that owns a copy of its state.

    inputs: as `Inputs.of` takes them; `kwargs` come on top.
    Tensors whose first dimension equals the first tensor's share the batch; it stays dynamic
    where torch allows it (a batch of 1 is traced as 2), else it is fixed and `notes` say why. The
    model is not changed, and its mode is restored. Raises BadInput with the cause where
    torch.export or the graph refuses.
    """
    notes: list[str] = []
    call = Inputs.of(inputs)
    with torch.inference_mode(False):
        model = _usual_model(model)
    with _evaluating(model):
        given = _usual((call.args, {**call.kwargs, **(kwargs or {})}))
        exported, refusal = _export(_Plainly(model, notes), given)
        lifted = lift(exported, "model.", named_loose(model), _aliases(exported, model))
        state = [*_copies(model), *_constants(exported, lifted.constants)]
    if refusal is not None:
        notes.append(f"{FIXED} {_batch(given)}: {refusal}")
    notes = list(dict.fromkeys([*notes, *lifted.notes]))
    dynamic = refusal is None
    return Program(lifted.graph, state, lifted.inputs[0], notes, dynamic, lifted.sizes).eval()


def from_exported(exported: ExportedProgram) -> Program:
    """A Program from an exported program (a `.pt2` file), which keeps the tensors of `exported`."""
    lifted = lift(exported)
    signature = exported.graph_signature
    state = [
        *(Held(name, tensor) for name, tensor in exported.state_dict.items()),
        *_constants(exported, {name: name for name in signature.non_persistent_buffers}),
        *_constants(exported, lifted.constants),
    ]
    dynamic = any(shape[:1] == (None,) for shape in lifted.sizes)
    return Program(lifted.graph, state, lifted.inputs, lifted.notes, dynamic, lifted.sizes).eval()


class _Plainly(nn.Module):
    """The model with its outputs as tuples, lists and dicts, which torch.export can always take."""

    def __init__(self, model: nn.Module, notes: list[str]) -> None:
        super().__init__()
        self.model = model
        self._notes = notes

    def forward(self, args: Any, kwargs: Any) -> Any:
        return plain(self.model(*args, **kwargs), self._notes)


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode, gradients on, and no fused encoder layers: what leaves the most to train later. Attention is laid out as its plain
    ops lay it out: `contiguous()` behind one that needs it on some kernels would be left out else."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            caches_off(model),
            plain_attention(),
        ):
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def _usual_model(model: nn.Module) -> nn.Module:
    """A copy that holds the same tensors, or copies where they were made in inference mode and refuse
    autograd. What a forward leaves in attributes (a detector's anchors) is left in the copy."""
    state = (*model.parameters(), *model.buffers())
    return copied(model, {}) if any(t.is_inference() for t in state) else twin_of(model)


def _usual(inputs: Any) -> Any:
    """The inputs without gradients or traces of inference mode."""
    return pytree.tree_map_only(Tensor, lambda t: t.detach().clone(), inputs)


@exporting()
def _export(model: nn.Module, inputs: Any) -> tuple[ExportedProgram, str | None]:
    """The first attempt that torch takes, and why the batch is not dynamic in it."""
    refusal = "" if _batch(inputs) else "no input has one"
    for given, shapes in _attempts(inputs):
        try:
            with mute():  # a refusal prints whole graphs
                return torch.export.export(model, given, dynamic_shapes=shapes, strict=False), None
        except Exception as error:  # noqa: BLE001 - torch raises whatever forward does
            refusal = refusal or _first_line(error)
    try:
        with mute():
            return torch.export.export(model, inputs, strict=False), refusal
    except Exception as error:
        raise BadInput(
            f"torch.export cannot trace the model: {type(error).__name__}: {_first_line(error)}",
            "see that forward runs on these inputs, and does not branch on their values",
        ) from error


def _attempts(inputs: Any) -> Iterator[tuple[Any, Any]]:
    """Inputs and dynamic shapes to try: every tensor that may share the batch, then the first alone."""
    size = _batch(inputs)
    leaves, spec = pytree.tree_flatten(inputs)
    shared = [i for i, leaf in enumerate(leaves) if size and _has_batch(leaf, size)]
    batch = Dim("batch", min=1)
    for chosen in (shared, shared[:1])[: len(shared)]:
        given, shapes = list(leaves), [None] * len(leaves)
        for i in chosen:
            # A batch of 1 would be taken for a constant.
            given[i] = torch.cat([leaves[i], leaves[i]]) if size == 1 else leaves[i]
            shapes[i] = {0: batch}  # type: ignore[call-overload]
        yield pytree.tree_unflatten(given, spec), pytree.tree_unflatten(shapes, spec)


def _batch(inputs: Any) -> int:
    """The first dimension of the first tensor that has one; 0 if none has."""
    leaves = pytree.tree_leaves(inputs)
    return next((t.shape[0] for t in leaves if isinstance(t, Tensor) and t.dim()), 0)


def _has_batch(leaf: Any, size: int) -> bool:
    return isinstance(leaf, Tensor) and leaf.dim() > 0 and leaf.shape[0] == size


def _first_line(error: Exception) -> str:
    """The first sentence that says something; torch goes on for pages."""
    lines = [line.strip(" -") for line in str(error).splitlines() if line.strip()]
    said = (line for line in lines if not line.startswith("Constraints violated"))
    return next(said, "no message").split(". ")[0][:300]


def _copies(model: nn.Module) -> Iterator[Held]:
    """The model's state, each tensor copied once however many names it has."""
    made: dict[int, Tensor] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        dot = f"{path}." if path else ""
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is None:
                continue
            if id(tensor) not in made:
                made[id(tensor)] = _as_kind(tensor.detach().clone(), tensor)
            persistent = name not in module._non_persistent_buffers_set
            yield Held(dot + name, made[id(tensor)], persistent)


def _constants(exported: ExportedProgram, names: dict[str, str]) -> Iterator[Held]:
    for name, origin in names.items():
        tensor = exported.constants[origin]
        if not isinstance(tensor, Tensor):
            raise BadInput(f"forward uses {origin}, a {type(tensor).__name__} and no tensor")
        yield Held(name, tensor.detach().clone(), persistent=False)


def _aliases(exported: ExportedProgram, model: nn.Module) -> dict[str, str]:
    """Constants of the exported program that are state which a function of the model holds, and the state's names:
    torch.export looks for weights in modules alone, and gives the same memory as a constant."""
    held = held_by_functions(model)
    names: dict[Any, str] = {}
    for name, tensor in named_state(model).items():
        if id(tensor) in held:
            names.setdefault(_memory(tensor), name)
    tensors = {n: t for n, t in exported.constants.items() if isinstance(t, Tensor)}
    found = {n: names.get(_memory(t)) for n, t in tensors.items() if t.data_ptr()}
    return {constant: name for constant, name in found.items() if name is not None}


def _memory(tensor: Tensor) -> Any:
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype


def _as_kind(tensor: Tensor, like: Tensor) -> Tensor:
    if isinstance(like, nn.Parameter):
        return nn.Parameter(tensor.detach(), requires_grad=like.requires_grad)
    return tensor.detach()


def _hold(program: nn.Module, held: Held) -> None:
    """Register one tensor, making the modules on its path.

    Not by `add_module` and `register_buffer`: a model may well have a child named `graph`.
    """
    *path, leaf = held.name.split(".")
    owner: Any = program
    for part in path:
        owner = owner._modules.setdefault(part, nn.Module())
    if isinstance(held.tensor, nn.Parameter):
        owner._parameters[leaf] = held.tensor
        return
    owner._buffers[leaf] = held.tensor
    if not held.persistent:
        owner._non_persistent_buffers_set.add(leaf)


def _place(program: nn.Module, name: str) -> tuple[dict[str, Any], str]:
    """The dict that holds this name, and the key in it."""
    *path, leaf = name.split(".")
    owner: Any = program
    for part in path:
        owner = owner._modules[part]
    return (owner._parameters if leaf in owner._parameters else owner._buffers), leaf


def _get(program: nn.Module, name: str) -> Tensor:
    table, leaf = _place(program, name)
    return table[leaf]


def _put(program: nn.Module, name: str, tensor: Tensor) -> None:
    table, leaf = _place(program, name)
    table[leaf] = tensor
