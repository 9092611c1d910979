"""What users have no need of, taken out of an ONNX graph: notes of PyTorch's exporter, but for the module of each node, and outputs."""

from __future__ import annotations

import ast
import re

import onnx

MODULE = "module"  # the note that stays on a node: the path of the module whose forward it is of
_SCOPES = "pkg.torch.onnx.name_scopes"


def strip(proto: onnx.ModelProto) -> None:
    """Remove the notes in place, local source paths among them; call the open dimension "batch"."""
    graph = proto.graph
    del proto.metadata_props[:], graph.metadata_props[:]
    for node in graph.node:
        path = _module(node)
        del node.metadata_props[:]
        if path:
            node.metadata_props.add(key=MODULE, value=path)
        node.ClearField("doc_string")
    parts = (graph.input, graph.output, graph.value_info, graph.initializer)
    for item in (item for part in parts for item in part):
        del item.metadata_props[:]
        item.ClearField("doc_string")
    for function in proto.functions:
        del function.metadata_props[:]
        for node in function.node:
            del node.metadata_props[:]
    _name_batch(graph)


def keep_outputs(proto: onnx.ModelProto, count: int) -> None:
    """The first `count` outputs stay, and of the nodes what they are made from."""
    graph = proto.graph
    del graph.output[count:]
    needed = {value.name for value in graph.output}
    for node in reversed(list(graph.node)):
        if needed.isdisjoint(node.output):
            graph.node.remove(node)
        else:
            needed |= _reads(node)
    unused = [x for x in graph.initializer if x.name not in needed]
    for initializer in unused:
        graph.initializer.remove(initializer)


def _reads(node: onnx.NodeProto) -> set[str]:
    """What a node reads, by its inputs and inside its branches and loops."""
    inner = [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
    inner += [graph for a in node.attribute for graph in a.graphs]
    reads = set(node.input)
    for graph in inner:
        reads.update(value.name for value in graph.output)
        for part in graph.node:
            reads |= _reads(part)
    return reads


def _module(node: onnx.NodeProto) -> str:
    """'blocks.0.attn' of "['', 'blocks', 'blocks.0', 'blocks.0.attn', 'view_1']"; '' where nothing is told."""
    told = next((x.value for x in node.metadata_props if x.key == _SCOPES), "[]")
    try:
        scopes = ast.literal_eval(told)
    except (SyntaxError, ValueError):
        return ""
    return str(scopes[-2]) if isinstance(scopes, list) and len(scopes) > 1 else ""


def _name_batch(graph: onnx.GraphProto) -> None:
    """Call the open dimension "batch" where torch has a symbol like s77."""
    dims = [d for x in graph.input for d in x.type.tensor_type.shape.dim[:1] if d.dim_param]
    symbols = {dim.dim_param for dim in dims}
    if len(symbols) != 1:
        return
    symbol = re.compile(rf"\b{re.escape(symbols.pop())}\b")
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = symbol.sub("batch", dim.dim_param)
