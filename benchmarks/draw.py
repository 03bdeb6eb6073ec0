"""Draws `results.png` from the JSON files that the benchmarks write to `results/`.

python benchmarks/draw.py
"""

import json
import statistics
from pathlib import Path

import matplotlib
import PIL.Image

matplotlib.use("agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
DRAWN = ("growth", "imdb", "mnist", "networks", "tuner")
OURS_BEGIN = ("ours", "fused", "lazy", "two workers", "best")
OURS, OTHER = "#0072b2", "#b0b0b0"


def main() -> None:
    paths = [path for path in sorted((HERE / "results").glob("*.json")) if path.stem.startswith(DRAWN)]
    records = {path.stem: json.loads(path.read_text()) for path in paths}
    records = {name: record for name, record in records.items() if len(record["figures"]) > 1}  # the rest: numbers
    heights = [len(record["figures"]) for record in records.values()]
    size = (8, 0.28 * sum(heights) + 0.9 * len(heights))
    figure, axes = plt.subplots(len(records), figsize=size, height_ratios=heights, squeeze=False, layout="constrained")
    for axis, (name, record) in zip(axes[:, 0], records.items(), strict=True):
        figures = record["figures"]
        medians = [statistics.median(values) for values in figures.values()]
        spread = [[m - min(v) for m, v in zip(medians, figures.values(), strict=True)]]
        spread += [[max(v) - m for m, v in zip(medians, figures.values(), strict=True)]]
        colors = [
            OURS if side.startswith(("ours", "fused", "lazy", "two workers", "best")) else OTHER for side in figures
        ]
        axis.barh(list(figures), medians, color=colors, xerr=spread, ecolor="#404040", capsize=2)
        axis.invert_yaxis()
        axis.set_title(f"{name} ({record['date']}, {record['machine']})", fontsize=8, loc="left")
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        unit = "seconds" if name.startswith(("imdb", "growth", "tuner", "scale")) else "microseconds a step"
        unit = "validation accuracy" if name == "tuner_best" else unit
        axis.set_xlabel(f"{unit}, median; lines from the least to the most", fontsize=8)
    figure.savefig(HERE / "results.png", dpi=75)
    with PIL.Image.open(HERE / "results.png") as picture:  # a fifth of the bytes
        picture.convert("RGB").quantize(32).save(HERE / "results.png", optimize=True)


if __name__ == "__main__":
    main()
