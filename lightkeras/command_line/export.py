"""The command `export`: writes the model of a run in another format, loads it there, and compares."""

from __future__ import annotations

from typing import Any, Literal

import jsonargparse

from lightkeras.exports.export import ExportResult, export
from lightkeras.exports.formats import FORMATS
from lightkeras.system.console import Console
from lightkeras.system.messages import printable


def parser() -> jsonargparse.ArgumentParser:
    """The parser of the command."""
    found = jsonargparse.ArgumentParser(
        description="Exports the model of a run, loads it with the format's own runtime in a new process, and compares "
        "its outputs with Keras's. What does not compute the same is not kept."
    )
    found.add_argument("run", type=str, help="Run directory, or that of a search, whose best trial is taken.")
    found.add_argument("--format", type=Literal[tuple(FORMATS)], required=True, help="Format to write.")
    found.add_argument("--out", type=str | None, default=None, help="Folder to create. Null: RUN/export/FORMAT.")
    found.add_argument(
        "--part",
        type=Literal["whole", "numbers"],
        default="whole",
        help="numbers: the part of a text model after its vocabulary, with that and a reader of it.",
    )
    found.add_argument(
        "--outputs",
        type=Literal["model", "predict"],
        default="model",
        help="predict: the outputs of the task's predict_step, by their names.",
    )
    found.add_argument(
        "--quantize",
        type=str | None,
        default=None,
        help="int8 and others that Keras has; of onnx dynamic_int8; of litert float16 and dynamic_range; of openvino "
        "float16.",
    )
    found.add_argument(
        "--task",
        type=str | None,
        default=None,
        help="FILE.py:ClassName. The file is imported, which runs it. Needed for classes of its own and for --outputs "
        "predict; the examples are then those of the test split.",
    )
    found.add_argument("--trust_run", action="store_true", help="Run code that only the run names: TF Hub modules.")
    found.add_argument("--unchecked", action="store_true", help="Neither load nor compare the artifact.")
    return found


def run(given: Any) -> int:
    """Exports, and prints what was found; returns the exit status."""
    result = export(
        given.run,
        given.format,
        given.out,
        part=given.part,
        quantize=given.quantize,
        outputs=given.outputs,
        task=given.task,
        trust_run=given.trust_run,
        unchecked=given.unchecked,
    )
    show(result)
    return 0


def show(result: ExportResult) -> None:
    """Prints an export."""
    record = result.record
    lines = {"written": str(result.file), "inputs": _ports(record["inputs"]), "outputs": _ports(record["outputs"])}
    if not result.checked:
        lines["checked"] = "no: it was neither loaded nor compared (--unchecked)"
    else:
        difference, tolerance = record["largest_difference"], record["tolerance"]
        lines["checked"] = (
            f"differs by at most {difference:.2g} on 32 examples ({record['examples']}, tolerance {tolerance:g})"
        )
    for size in (1, 32) if record["latency"] else ():
        own, predict = (record["latency"][name][f"batch_{size}"] for name in ("artifact_s", "predict_s"))
        lines[f"batch of {size}"] = f"{1e3 * own:.3g} ms, Keras predict {1e3 * predict:.3g} ms ({predict / own:.1f}x)"
    if sizes := record["sizes"]:
        lines["size"] = f"{sizes['after']:,} bytes, {sizes['after'] / sizes['before']:.0%} of {sizes['before']:,}"
    for name, before in record["metrics"].get("before", {}).items():
        lines[name] = f"{record['metrics']['after'][name]:.4f}, {before:.4f} before ({record['quantize']})"
    console = Console(soft_wrap=True, highlight=False, markup=False)
    for name, text in lines.items():
        console.print(f"{name:>11}  {printable(text)}")


def _ports(ports: Any) -> str:
    def shape(port: Any) -> str:
        return ", ".join("*" if size is None else str(size) for size in port["shape"])

    return "; ".join(f"{port['name']} {port['dtype']} [{shape(port)}]" for port in ports["each"])
