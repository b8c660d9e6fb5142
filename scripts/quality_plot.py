#!/usr/bin/env python3
"""Draws mean KL divergence against bytes, of both engines.

  quality_plot.py docs/quality.csv MODEL OUT.svg

The table has a line for each file that was measured:

  model,engine,type,calibrated,chunks,file_bytes,tokenizer_bytes,kld,kld_error,same_top

Bytes are the file's less its tokenizer's. Both axes are logarithmic. Files of one engine and kind are
joined in the order of their bytes; those that `--size` made have no names. The floor, if the table has one (type `floor`), is a line.
"""
import csv
import math
import sys

WIDTH, HEIGHT = 760, 480
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 40, 56
STYLES = {
    ("chaski", "no"): ("#0b6e4f", "chaski"),
    ("chaski", "yes"): ("#08415c", "chaski, calibrated"),
    ("llama.cpp", "no"): ("#cc5a2b", "llama.cpp"),
    ("llama.cpp", "yes"): ("#8f2d56", "llama.cpp, imatrix"),
}


def read(path, model):
    """The lines of a model: (engine, calibrated, type, bytes, kld), and the floor."""
    rows, floor = [], None
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["model"] != model:
                continue
            kld = float(row["kld"])
            if row["type"] == "floor":
                floor = kld
                continue
            # Of recipes that were replaced; they stay in the table.
            if row["type"].endswith(" version 1"):
                continue
            size = int(row["file_bytes"]) - int(row["tokenizer_bytes"])
            # The bytes asked for are where the point is.
            name = "" if row["type"].startswith("--size") else row["type"]
            rows.append((row["engine"], row["calibrated"], name, size, kld))
    if not rows:
        sys.exit(f"{path}: no line of {model}")
    return rows, floor


def decades(low, high, steps):
    """Round numbers from low to high: steps of each power of ten."""
    power = math.floor(math.log10(low))
    found = []
    while 10**power <= high:
        found += [s * 10**power for s in steps if low <= s * 10**power <= high]
        power += 1
    return found


def label(value):
    return f"{value:g}"


def draw(rows, floor, model):
    sizes, klds = [r[3] for r in rows], [r[4] for r in rows] + ([floor] if floor else [])
    x0, x1 = min(sizes) * 0.96, max(sizes) * 1.06
    y0, y1 = min(klds) * 0.75, max(klds) * 1.3

    def x(size):
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log(size / x0) / math.log(x1 / x0)

    def y(kld):
        return TOP + (HEIGHT - TOP - BOTTOM) * math.log(y1 / kld) / math.log(y1 / y0)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="22" font-size="15">{model}: mean KL divergence from the f16 source</text>',
    ]
    base, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for kld in decades(y0, y1, [1, 2, 5]):
        out.append(f'<path d="M{LEFT} {y(kld):.1f}H{right}" stroke="#ddd"/>')
        out.append(f'<text x="{LEFT - 6}" y="{y(kld) + 4:.1f}" text-anchor="end">{label(kld)}</text>')
    step = 20e6 if x1 < 300e6 else 100e6
    size = math.ceil(x0 / step) * step
    while size <= x1:
        out.append(f'<path d="M{x(size):.1f} {TOP}V{base}" stroke="#ddd"/>')
        out.append(f'<text x="{x(size):.1f}" y="{base + 16}" text-anchor="middle">{size / 1e6:.0f}</text>')
        size += step
    out.append(f'<path d="M{LEFT} {TOP}V{base}H{right}" stroke="black" fill="none"/>')
    middle = (LEFT + right) / 2
    out.append(
        f'<text x="{middle}" y="{HEIGHT - 14}" text-anchor="middle">megabytes of the file without its '
        "tokenizer</text>"
    )
    if floor:
        out.append(
            f'<path d="M{LEFT} {y(floor):.1f}H{right}" stroke="#666" stroke-dasharray="5 4"/>'
            f'<text x="{LEFT + 6}" y="{y(floor) - 5:.1f}" fill="#444">8-bit activations alone</text>'
        )
    legend = TOP + 14
    for (engine, calibrated), (colour, name) in STYLES.items():
        points = sorted((s, k, t) for e, c, t, s, k in rows if (e, c) == (engine, calibrated))
        if not points:
            continue
        line = " ".join(f"{x(s):.1f},{y(k):.1f}" for s, k, _ in points)
        out.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-opacity="0.4"/>')
        for s, k, t in points:
            out.append(f'<circle cx="{x(s):.1f}" cy="{y(k):.1f}" r="3.5" fill="{colour}"/>')
            out.append(f'<text x="{x(s) + 6:.1f}" y="{y(k) - 5:.1f}" fill="{colour}" font-size="10">{t}</text>')
        out.append(f'<circle cx="{right - 150}" cy="{legend - 4}" r="3.5" fill="{colour}"/>')
        out.append(f'<text x="{right - 140}" y="{legend}" fill="{colour}">{name}</text>')
        legend += 17
    out.append("</svg>")
    return "\n".join(out) + "\n"


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    path, model, target = sys.argv[1:]
    rows, floor = read(path, model)
    with open(target, "w", encoding="utf-8") as file:
        file.write(draw(rows, floor, model))


if __name__ == "__main__":
    main()
