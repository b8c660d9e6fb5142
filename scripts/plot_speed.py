#!/usr/bin/env python3
"""Draws docs/speed.svg from records of `chaski bench -o json`: tokens per second by type and by depth.

  plot_speed.py --types TYPES.json --depths DEPTHS.json -o docs/speed.svg

TYPES.json: one row a type and test, at depth 0; DEPTHS.json: rows of one model at several depths.
Needs nothing but Python's standard library.
"""
import argparse
import html
import json

WIDTH, HEIGHT, MARGIN, GAP = 760, 300, 56, 60
PANEL = (WIDTH - 2 * MARGIN - GAP) / 2
COLOURS = ["#1b6ca8", "#d1603d"]


def rows(path):
    with open(path, encoding="utf-8") as file:
        found = json.load(file)
    if not isinstance(found, list) or not found:
        raise SystemExit(f"{path}: expected the list of rows that `chaski bench -o json` prints")
    return found


def text(x, y, what, anchor="middle", size=12, weight="normal"):
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" '
        f'font-weight="{weight}">{html.escape(str(what))}</text>'
    )


def axis(left, top, bottom, most, title):
    """Grid lines at round numbers; gives the parts and the scale."""
    step = 10 ** (len(str(int(most))) - 1)
    step = next(s for s in (step / 5, step / 2, step, 2 * step) if most / s <= 6)
    parts = [text(left + PANEL / 2, top - 14, title, size=13, weight="bold")]
    n = int(most / step) + 1
    scale = (bottom - top) / (n * step)
    for i in range(n + 1):
        y = bottom - i * step * scale
        parts.append(f'<line x1="{left}" x2="{left + PANEL:.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(text(left - 6, y + 4, f"{i * step:g}", "end", 11))
    return parts, scale


def bars(found, left, top, bottom):
    """Decode by type, a bar for each number of threads."""
    tests = [r for r in found if r["n_gen"] > 0 and r["n_prompt"] == 0]
    types = list(dict.fromkeys(r["model_type"].split()[-1] for r in tests))
    threads = sorted({r["n_threads"] for r in tests})
    name = f"tg{tests[0]['n_gen']}, tokens/s, {' '.join(tests[0]['model_type'].split()[:-1])}"
    parts, scale = axis(left, top, bottom, max(r["avg_ts"] for r in tests), name)
    slot = PANEL / len(types)
    wide = slot * 0.8 / len(threads)
    for r in tests:
        i, t = types.index(r["model_type"].split()[-1]), threads.index(r["n_threads"])
        x, high = left + (i + 0.1) * slot + t * wide, r["avg_ts"] * scale
        parts.append(
            f'<rect x="{x:.1f}" y="{bottom - high:.1f}" width="{wide * 0.92:.1f}" height="{high:.1f}" '
            f'fill="{COLOURS[t % 2]}"/>'
        )
        parts.append(text(x + wide * 0.46, bottom - high - 4, f"{r['avg_ts']:.0f}", size=10))
    for i, kind in enumerate(types):
        parts.append(text(left + (i + 0.5) * slot, bottom + 16, kind))
    return parts + legend(left, bottom, [f"{t} thread{'s' * (t > 1)}" for t in threads])


def lines(found, left, top, bottom):
    """Decode and prefill by depth, each as a share of its speed at the smallest depth."""
    tests = list(dict.fromkeys((r["n_prompt"], r["n_gen"]) for r in found))
    deepest = max(r["n_depth"] for r in found) or 1
    title = f"speed by depth, % of that at none, {found[0]['n_threads']} threads"
    parts, scale = axis(left, top, bottom, 100, title)
    names = []
    for k, (p, n) in enumerate(tests):
        series = sorted((r["n_depth"], r["avg_ts"]) for r in found if (r["n_prompt"], r["n_gen"]) == (p, n))
        points = [(left + d / deepest * PANEL, bottom - 100 * v / series[0][1] * scale) for d, v in series]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[k % 2]}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{COLOURS[k % 2]}"/>' for x, y in points]
        names.append(f"{'pp' if p else 'tg'}{p or n}")
    for d in sorted({r["n_depth"] for r in found}):
        parts.append(text(left + d / deepest * PANEL, bottom + 16, d))
    return parts + legend(left, bottom, names)


def legend(left, bottom, names):
    parts = []
    for i, name in enumerate(names):
        x = left + i * 110
        parts.append(f'<rect x="{x}" y="{bottom + 28}" width="12" height="12" fill="{COLOURS[i % 2]}"/>')
        parts.append(text(x + 18, bottom + 38, name, "start"))
    return parts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--types", required=True)
    parser.add_argument("--depths", required=True)
    parser.add_argument("-o", "--out", required=True)
    args = parser.parse_args()
    top, bottom = 40, HEIGHT - 60
    parts = bars(rows(args.types), MARGIN, top, bottom)
    parts += lines(rows(args.depths), MARGIN + PANEL + GAP, top, bottom)
    body = "\n".join(parts)
    with open(args.out, "w", encoding="utf-8") as file:
        file.write(
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            f'font-family="sans-serif" fill="#222">\n<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>\n{body}\n</svg>\n'
        )


if __name__ == "__main__":
    main()
