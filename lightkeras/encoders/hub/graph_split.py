"""Splits the graph of a text module where strings have become numbers.

    texts ── to_numbers ──► tensors without strings ── from_numbers ──► output of the module

The first half holds everything that depends on the texts and on no variable: splitting, table look-up,
finding the distinct words. It takes about 70 % of the forward time, learns nothing, and can run in the input
pipeline, before the step. The second half runs on the module's own variables, and gradients, row-sparse
ones too, flow to them. A split is used only if output and gradients of the halves equal those of the module to the bit,
and if the shapes, dtypes and structure that a graph knows of the output before it runs are the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

CALLS = ("PartitionedCall", "StatefulPartitionedCall")
PURE = (
    *("Assert", "If", "While", "LookupTableFindV2", "LookupTableSizeV2", "Placeholder"),
    *("PartitionedCall", "StatefulPartitionedCall", "ReadVariableOp", "ResourceGather", "ResourceGatherNd"),
)
"""Operations that TensorFlow marks as stateful, but that change nothing when they run."""

SAMPLES = ("A good film.", "", "so BAD, so so bad", "good")

Half = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class GraphHalves:
    """A module in two halves, with tensors without strings between them.

    `from_numbers` returns the module's output in its structure and with its static shape.
    """

    to_numbers: Half
    from_numbers: Half


def split(module: Any, samples: Sequence[str] = SAMPLES) -> GraphHalves | None:
    """Splits a loaded module in two; `None` if that fails or the halves differ from the whole on the samples.

    Its `__call__` takes a string vector and returns one tensor.
    """
    import tensorflow as tf

    try:
        return _cut(module, samples)
    except (KeyError, IndexError, ValueError, TypeError, tf.errors.OpError):
        return None  # a graph of an unforeseen kind: unsplit, it is slower but correct


def _cut(module: Any, samples: Sequence[str]) -> GraphHalves | None:
    import tensorflow as tf

    texts = [f for f in module.__call__.concrete_functions if f.inputs[0].dtype == tf.string]
    if not texts or len({str(f.inputs[0].shape) for f in texts}) > 1:  # the halves have one shape of input
        return None
    whole = texts[0]
    # The first of `outputs`: after a gradient was taken, they include intermediate values.
    if len(tf.nest.flatten(whole.structured_outputs)) != 1:
        return None
    if changes_something(whole.graph.as_graph_def()):
        return None
    graph, end = without_calls(whole.graph.as_graph_def())
    output = end(whole.outputs[0].name)
    text, *placeholders = [tensor.name for tensor in whole.inputs]
    captures = dict(zip(placeholders, whole.captured_inputs, strict=True))
    handles = {id(variable.handle) for variable in whole.variables}
    variables = [node_name(name) for name, captured in captures.items() if id(captured) in handles]
    readers = _readers(graph)
    texty, learned = _reach([node_name(text)], readers.get), _reach(variables, readers.get)
    first = texty - learned
    inputs = {node.name: [i for i in node.input if not i.startswith("^")] for node in graph.node}
    outside = {node_name(text), *map(node_name, captures)}
    second = _reach([node_name(output)], lambda name: [node_name(i) for i in inputs[name] if node_name(i) not in first])
    cut = dict.fromkeys(_tensor(i) for name in sorted(second) for i in inputs[name] if node_name(i) in first)
    frontier = _tensors(graph, cut)
    if not frontier or any(spec.dtype in (tf.string, tf.resource, tf.variant) for spec in frontier.values()):
        return None
    every = {node.name: list(node.input) for node in graph.node}
    before = _reach(map(node_name, cut), lambda name: [node_name(i) for i in every[name]])
    text_spec = {text: tf.TensorSpec(whole.inputs[0].shape, tf.string)}
    to_numbers = _function_of(graph, before - outside, text_spec, captures, list(cut), ())
    from_numbers = _function_of(graph, second - outside, frontier, captures, [output], whole.variables)
    shape = whole.outputs[0].shape

    def joined(numbers: Sequence[Any]) -> Any:
        # The graph without calls knows less: a variable's or table's handle has lost the shape of its values.
        [value] = from_numbers(*numbers)
        return tf.nest.pack_sequence_as(whole.structured_outputs, [tf.ensure_shape(value, shape)])

    halves = GraphHalves(lambda texts: tuple(to_numbers(texts)), joined)
    return halves if _agree(module, halves, whole.trainable_variables, samples) else None


def computes(function: Any, tensors: Sequence[str]) -> Half:
    """A function of texts that computes some tensors of a module's graph, by their names in the graph without calls."""
    import tensorflow as tf

    graph, _ = without_calls(function.graph.as_graph_def())
    text, *placeholders = [tensor.name for tensor in function.inputs]
    captures = dict(zip(placeholders, function.captured_inputs, strict=True))
    inputs = {node.name: list(node.input) for node in graph.node}
    kept = _reach(map(node_name, tensors), lambda name: [node_name(i) for i in inputs[name]])
    kept -= {node_name(text), *map(node_name, captures)}
    return _function_of(graph, kept, {text: tf.TensorSpec([None], tf.string)}, captures, list(tensors), ())


def changes_something(graph: Any) -> bool:
    """Whether a graph has side effects, such as an assignment or a random draw, that a second run would repeat."""
    import tensorflow as tf

    definitions = tf.Graph()
    bodies = [graph.node, *(function.node_def for function in graph.library.function)]
    functions = {function.signature.name for function in graph.library.function}
    operations = {node.op for body in bodies for node in body} - functions - set(PURE)
    return any(definitions.op_def_for_type(operation).is_stateful for operation in operations)


def _agree(module: Any, halves: GraphHalves, variables: Sequence[Any], samples: Sequence[str]) -> bool:
    """Whether the halves give what the whole gives: to the bit, with gradients, and in a graph with the same specs."""
    import tensorflow as tf

    def both(texts: Any) -> Any:
        return halves.from_numbers(halves.to_numbers(texts))

    for length in (None, len(samples)):
        if _specs_of(module, length) != _specs_of(both, length):
            return False
    texts, found = tf.constant(list(samples)), []
    for call in (module, both):
        with tf.GradientTape() as tape:
            [value] = tf.nest.flatten(call(texts))
            target = tf.reduce_sum(tf.sin(value))
        gradients = tape.gradient(target, variables)
        found.append((value, [type(gradient) for gradient in gradients], gradients))
    (value, kinds, gradients), (other_value, other_kinds, other_gradients) = found
    if kinds != other_kinds:
        return False
    pairs = [(value, other_value), *zip(gradients, other_gradients, strict=True)]
    dense = [(tf.convert_to_tensor(a), tf.convert_to_tensor(b)) for a, b in pairs if a is not None]
    return all(bool(tf.reduce_all(a == b)) for a, b in dense)


def _specs_of(call: Callable[[Any], Any], length: int | None) -> Any:
    """Structure, shapes and dtypes of the output that a graph knows for this number of texts; `None` for any."""
    import tensorflow as tf

    traced = tf.function(call, autograph=False).get_concrete_function(tf.TensorSpec([length], tf.string))
    leaves = tf.nest.flatten(traced.structured_outputs)
    shapes = [(str(leaf.shape), leaf.dtype) for leaf in leaves]  # unknown shapes are not equal to each other
    return tf.nest.pack_sequence_as(traced.structured_outputs, shapes)


def _function_of(
    graph: Any,
    kept: set[str],
    feeds: Mapping[str, Any],
    captures: Mapping[str, Any],
    fetches: list[str],
    variables: Iterable[Any],
) -> Half:
    """A function of the tensors `feeds` that runs the nodes `kept` of a graph and returns `fetches`."""
    import tensorflow as tf

    part = tf.compat.v1.GraphDef(versions=graph.versions, library=graph.library)
    for node in graph.node:
        if node.name in kept:
            copy = part.node.add()
            copy.CopyFrom(node)
            # Control inputs from dropped nodes, such as checks of the other half, are dropped with them.
            del copy.input[:]
            copy.input.extend(i for i in node.input if not i.startswith("^") or node_name(i) in kept)
    used = {_tensor(i) for node in part.node for i in node.input}

    @tf.function(autograph=False, input_signature=[tf.TensorSpec(s.shape, s.dtype) for s in feeds.values()])  # type: ignore[untyped-decorator]
    def half(*tensors: Any) -> list[Any]:
        for variable in variables:
            # Shows a GradientTape outside that this function uses the variable. No row is read where it has rows:
            # once TensorFlow has written single rows of a variable, reading all of it copies it.
            variable.sparse_read(tf.zeros([0], tf.int32)) if variable.shape.rank else variable.read_value()
        known = dict(zip(feeds, tensors, strict=True))
        known |= {name: tf.identity(captured) for name, captured in captures.items() if name in used}
        inside = [name for name in fetches if name not in known]
        mapped = {name: tensor for name, tensor in known.items() if name in used}
        made = tf.graph_util.import_graph_def(part, mapped, return_elements=inside, name="")
        known |= dict(zip(inside, made, strict=True))
        return [known[name] for name in fetches]

    return half.get_concrete_function()  # type: ignore[no-any-return]


def without_calls(graph: Any) -> tuple[Any, Callable[[str], str]]:
    """The graph with every call of a function replaced by that function's nodes, and the new names of tensors."""
    import tensorflow as tf

    library = {function.signature.name: function for function in graph.library.function}
    definitions = tf.Graph()
    nodes: list[Any] = []
    renamed: dict[str, str] = {}  # output of a call -> the tensor inside that it is
    barriers: dict[str, list[str]] = {}  # call -> the nodes inside that end with it

    def expand(body: Iterable[Any], prefix: str, translate: Callable[[str], str]) -> None:
        for node in body:
            name, inputs = prefix + node.name, [translate(i) for i in node.input]
            if node.op not in CALLS:
                nodes.append(_copy(node, name, inputs))
                continue
            function = library[node.attr["f"].func.name]
            inner = _inside(function, name, inputs, definitions)
            expand(function.node_def, f"{name}/", inner)
            for number, output in enumerate(function.signature.output_arg):
                renamed[f"{name}:{number}"] = inner(function.ret[output.name])
            barriers[name] = ["^" + node_name(inner(f"^{last}")) for last in function.control_ret.values()]

    expand(graph.node, "", lambda name: name)

    def settle(name: str) -> list[str]:
        if name.startswith("^"):
            return [end for last in barriers[name[1:]] for end in settle(last)] if name[1:] in barriers else [name]
        while _tensor(name) in renamed:
            name = renamed[_tensor(name)]
        return [name]

    for node in nodes:
        inputs = [end for name in node.input for end in settle(name)]
        control = dict.fromkeys(name for name in inputs if name.startswith("^"))  # these come last, once each
        del node.input[:]
        node.input.extend([*(name for name in inputs if not name.startswith("^")), *control])
    flat = tf.compat.v1.GraphDef(node=nodes, versions=graph.versions, library=graph.library)
    return flat, lambda name: _tensor(settle(name)[0])


def _inside(function: Any, prefix: str, inputs: Sequence[str], definitions: Any) -> Callable[[str], str]:
    """Translates names inside a function's body (`node:output:0`) to those of a graph (`prefix/node:0`)."""
    arguments = dict(zip((argument.name for argument in function.signature.input_arg), inputs, strict=False))
    nodes = {node.name: node for node in function.node_def}

    def translate(name: str) -> str:
        first, *rest = name.lstrip("^").split(":")
        if first in arguments:
            return "^" + node_name(arguments[first]) if name.startswith("^") else arguments[first]
        if name.startswith("^"):
            return f"^{prefix}/{first}"
        output, number = rest
        return f"{prefix}/{first}:{_positions(nodes[first], definitions)[output] + int(number)}"

    return translate


def _positions(node: Any, definitions: Any) -> dict[str, int]:
    """Where each named output of a node begins among all of its outputs."""
    start, found = 0, {}
    for output in definitions.op_def_for_type(node.op).output_arg:
        found[output.name] = start
        if output.number_attr:
            start += node.attr[output.number_attr].i
        elif output.type_list_attr:
            start += len(node.attr[output.type_list_attr].list.type)
        else:
            start += 1
    return found


def _copy(node: Any, name: str, inputs: Sequence[str]) -> Any:
    twin = type(node)()
    twin.CopyFrom(node)
    twin.name = name
    del twin.input[:]
    twin.input.extend(inputs)
    twin.attr.pop("_class", None)  # names nodes that may be in the other half
    return twin


def _tensors(graph: Any, names: Iterable[str]) -> dict[str, Any]:
    """Specs of tensors by name."""
    import tensorflow as tf

    with tf.Graph().as_default() as imported:
        tf.graph_util.import_graph_def(graph, name="")
    found = {name: imported.get_tensor_by_name(name) for name in names}
    return {name: tf.TensorSpec(tensor.shape, tensor.dtype) for name, tensor in found.items()}


def _readers(graph: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for node in graph.node:
        for name in node.input:
            if not name.startswith("^"):
                found.setdefault(node_name(name), []).append(node.name)
    return found


def _reach(seeds: Iterable[str], neighbours: Callable[[str], Iterable[str] | None]) -> set[str]:
    """Every node that can be reached from the seeds, with the seeds."""
    found: set[str] = set()
    waiting = list(seeds)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(neighbours(name) or ())
    return found


def node_name(name: str) -> str:
    """The node of a tensor or of a control input."""
    return name.lstrip("^").split(":")[0]


def _tensor(name: str) -> str:
    return name if ":" in name else f"{name}:0"
