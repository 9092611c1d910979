"""Program surgery: the exported program with smaller tensors, and every size in it rewritten.

Where a `forward` holds sizes or positions as literals, its own code cannot run on the cut tensors;
the program can, because there the literals are arguments.
"""

from __future__ import annotations

import copy
import operator
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn

from surgeon.couple import Coupling, couple
from surgeon.cut.fits import Misfit, misfit, narrowed_to_one
from surgeon.cut.resize import resize
from surgeon.cut.sizes import Call, Numbers, Positions, Scaled, Sizes
from surgeon.errors import BadInput, SurgeonError
from surgeon.graph import Value
from surgeon.plan import Plan
from surgeon.planning import removed_by
from surgeon.slices import sliced
from surgeon.trace.inputs import Inputs
from surgeon.trace.observe import Observed, observe
from surgeon.trace.program import Program, to_program
from surgeon.trace.tensors import named_loose


class NoProgram(BadInput):
    """The network has no program that could be cut, whatever goes."""


def cut_program(model: nn.Module, inputs: Inputs, plan: Plan) -> tuple[Program, bool]:
    """A smaller program that computes what the plan leaves of `model`, in eval mode, and whether that
    is certain without comparing numbers.

    Raises NoProgram where the model cannot be exported, BadInput where the plan does not fit its program, SurgeonError
    where a size in the program cannot be rewritten.
    """
    try:
        program = copy.deepcopy(model) if isinstance(model, Program) else to_program(model, inputs)
    except BadInput as error:
        raise NoProgram(error.message, error.hint) from error
    try:
        seen = observe(program, inputs)
    except NotImplementedError as error:  # an op that has no shape without numbers
        raise NoProgram(
            "its sizes depend on the data",
            "write sizes as x.shape[...] in forward, so that its own code follows the cut",
        ) from error
    except (RuntimeError, IndexError, TypeError, AssertionError) as error:
        raise NoProgram(
            f"the exported program does not run: {str(error).splitlines()[0]}",
            "run torch.export.export(...).module() on the same inputs: it fails the same way",
        ) from error
    coupling = couple(seen.graph)
    read = plan if isinstance(model, Program) else _read_of(plan, model, coupling)
    sizes = Sizes(coupling, removed_by(coupling, read))
    for node in list(program.graph.nodes):
        if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
            _rewrite(program, node, seen, sizes)
    tensors, ties = program.tensors(), program.ties()  # a tied name follows its first one
    own = [n for n in plan.keep if n in tensors and n not in ties]
    program.replace_state({n: sliced(tensors[n], plan.keep[n]) for n in own})
    program.recompile()
    found = _fits(program, inputs, seen, sizes)
    if found is not None and found.certain:
        raise SurgeonError(
            f"program surgery cannot write this network: {found.why}",
            "report it: surgeon env, and the network's code",
        )
    return program.eval(), found is None


def _read_of(plan: Plan, model: nn.Module, coupling: Coupling) -> Plan:
    """The plan without what a program does not have: what only the module's training forward reads, and the other names
    of one plain attribute."""
    state, loose = coupling.graph.state, named_loose(model)
    lost = {n for n in plan.keep if n not in state and n in loose}
    lost |= {n for n in plan.keep if n in state and state[n] not in coupling.dims}
    return replace(plan, keep={n: k for n, k in plan.keep.items() if n not in lost})


def _fits(program: Program, inputs: Inputs, seen: Observed, sizes: Sizes) -> Misfit | None:
    try:
        after = observe(program, inputs, seen.graph)
    except (RuntimeError, IndexError, TypeError, AssertionError) as error:
        return Misfit(str(error).split("\n")[0])
    found = misfit(seen.graph, after.graph, sizes)
    if found and found.at in _parts(seen) and narrowed_to_one(sizes):
        return replace(found, certain=False)
    return found


def _parts(seen: Observed) -> set[int]:
    """Recorded ops that one call of the program is made of (einsum): torch makes it of others where a
    dimension is one."""
    return {n.index for ran in seen.ran.values() if len(ran.nodes) > 1 for n in ran.nodes}


def _rewrite(program: Program, node: fx.Node, seen: Observed, sizes: Sizes) -> None:
    ran = seen.ran.get(node.name)
    if ran is None or not ran.outputs:
        return
    call = Call(
        str(node.target),
        tuple(node.args),
        dict(node.kwargs),
        _first(node, seen),
        ran.outputs,
        ran.nodes,
    )
    new = resize(call, sizes)
    if new is call:
        return
    node.target = _op(new.op)
    with program.graph.inserting_before(node):
        node.args = tuple(_placed(program, a) for a in new.args)
    node.kwargs = new.kwargs


def _first(node: fx.Node, seen: Observed) -> Value | None:
    """The value of the node's first tensor argument."""
    for arg in node.all_input_nodes:
        ran = seen.ran.get(arg.name)
        if ran is not None and ran.outputs:
            return ran.outputs[0]
    return None


def _placed(program: Program, arg: Any) -> Any:
    """An argument for the graph: positions become a constant that the program holds."""
    if isinstance(arg, Positions):
        name = program.add_constant(torch.tensor(arg.index, dtype=torch.int64))
        return program.graph.get_attr(name)
    if isinstance(arg, Numbers):
        return program.graph.get_attr(program.add_constant(arg.tensor))
    if isinstance(arg, Scaled):
        whole = program.graph.call_function(operator.mul, (arg.size, arg.new))
        return program.graph.call_function(operator.floordiv, (whole, arg.old))
    if isinstance(arg, (list, tuple)):
        return type(arg)(_placed(program, a) for a in arg)
    return arg


def _op(name: str) -> Any:
    namespace, packet, overload = name.split(".")
    return getattr(getattr(getattr(torch.ops, namespace), packet), overload)
