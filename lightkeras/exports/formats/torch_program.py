"""A program of torch.export."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, ClassVar, final

from lightkeras.exports.errors import ExportError
from lightkeras.exports.formats.base import Format, Program

EXAMPLES = 2
"""Batch size of the trace: torch takes 1 for a constant."""
OPEN = 6
"""Size of another open axis of the trace: torch would take equal sizes for one."""


@final
class TorchProgram(Format):
    """One file for `torch.export.load`; takes the inputs in their order and returns a dict of the outputs."""

    name: ClassVar[str] = "torch"
    backend: ClassVar[str | None] = "torch"
    runtime: ClassVar[str] = "torch"
    tools: ClassVar[tuple[str, ...]] = ("torch",)
    extra: ClassVar[str | None] = "torch"
    file: ClassVar[str] = "model.pt2"

    def write(self, program: Program, folder: Path) -> None:
        import torch

        from lightkeras.encoders.hub.bag_embedding import INPUTS as BAGS  # loads Keras

        class Served(torch.nn.Module):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()
                self.model = program.model

            def forward(self, *tensors: Any) -> dict[str, Any]:
                return program.call(dict(zip(program.inputs.names, tensors, strict=True)))

        batch, entries = torch.export.Dim("batch", min=1), torch.export.Dim("entries", min=0)
        of_bags = set(program.inputs.names) == set(BAGS)
        sizes = tuple(
            {0: entries if of_bags and port.name != "counts" else batch}
            | {axis: torch.export.Dim.AUTO for axis, size in enumerate(port.shape) if axis and size is None}
            for port in program.inputs.each
        )
        examples = tuple(
            torch.zeros([EXAMPLES, *(size or OPEN for size in port.shape[1:])], dtype=getattr(torch, port.dtype))
            for port in program.inputs.each
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of variables that are no submodules
            try:
                made = torch.export.export(Served().eval(), examples, dynamic_shapes=(sizes,), strict=False)
            except Exception as error:
                reason = " ".join(str(error).split())[:600]
                raise ExportError(f"torch.export cannot trace the model with an open batch size: {reason}") from error
        if of_bags:
            _allow_empty_bags(made)
        torch.export.save(made, folder / self.file)


def _allow_empty_bags(made: Any) -> None:
    """Removes the assertions that torch derives from its rule that an open axis has two entries or more."""
    import torch

    for node in list(made.graph.nodes):
        if node.target is torch.ops.aten._assert_scalar.default:
            made.graph.erase_node(node)
    made.graph.eliminate_dead_code()
    made.graph_module.recompile()
