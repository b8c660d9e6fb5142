#!/usr/bin/env python3
"""What a card can do, and what came out on it: `gpu_report.py peaks` or `gpu_report.py table FOLDER`.

`peaks` asks the driver what the card is and measures the link to it: one JSON object. Needs the driver and Python, nothing
else. `table` sets the results of `chaski bench -o json` that scripts/gpu-check.sh left in FOLDER beside these.
"""
import ctypes
import glob
import json
import os
import sys
import time

# Multiply-adds of signed bytes a clock and multiprocessor by `mma`, dense, from NVIDIA's tables of peaks; others are not told.
INT8_MACS = {(8, 0): 2048, (8, 6): 1024, (8, 7): 2048, (8, 9): 1024, (9, 0): 4096, (12, 0): 1024}
# Of f32, `fma`.
F32_FMAS = {(8, 0): 64, (8, 6): 128, (8, 7): 128, (8, 9): 128, (9, 0): 128, (10, 0): 128, (12, 0): 128}

ATTRIBUTES = {
    "clock_khz": 13,
    "multiprocessors": 16,
    "memory_clock_khz": 36,
    "bus_bits": 37,
    "l2_bytes": 38,
    "major": 75,
    "minor": 76,
}


class Driver:
    """The driver's library, and a context on the first card."""

    def __init__(self):
        self.library = ctypes.CDLL("libcuda.so.1")
        self.call("cuInit", 0)
        self.device = ctypes.c_int()
        self.call("cuDeviceGet", ctypes.byref(self.device), 0)
        context = ctypes.c_void_p()
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self.device)
        self.call("cuCtxSetCurrent", context)

    def call(self, name, *args):
        code = getattr(self.library, name)(*args)
        if code != 0:
            sys.exit(f"gpu_report: {name} returns {code}")

    def name(self):
        text = ctypes.create_string_buffer(256)
        self.call("cuDeviceGetName", text, 256, self.device)
        return text.value.decode()

    def attribute(self, number):
        value = ctypes.c_int()
        self.call("cuDeviceGetAttribute", ctypes.byref(value), number, self.device)
        return value.value

    def link(self, size=256 << 20, rounds=8):
        """10^9 bytes a second from page-locked memory to the card and back: the best rounds."""
        host, card = ctypes.c_void_p(), ctypes.c_uint64()
        self.call("cuMemAllocHost_v2", ctypes.byref(host), ctypes.c_size_t(size))
        self.call("cuMemAlloc_v2", ctypes.byref(card), ctypes.c_size_t(size))
        ctypes.memset(host, 1, size)
        best = {}
        for name, args in (("cuMemcpyHtoD_v2", (card, host)), ("cuMemcpyDtoH_v2", (host, card))):
            for _ in range(rounds):
                begin = time.perf_counter()
                self.call(name, *args, ctypes.c_size_t(size))
                rate = size / (time.perf_counter() - begin) / 1e9
                best[name] = max(best.get(name, 0.0), rate)
        self.call("cuMemFree_v2", card)
        self.call("cuMemFreeHost", host)
        return best["cuMemcpyHtoD_v2"], best["cuMemcpyDtoH_v2"]


def peaks():
    driver = Driver()
    card = {"name": driver.name()} | {k: driver.attribute(n) for k, n in ATTRIBUTES.items()}
    capability = (card["major"], card["minor"])
    clocks = card["multiprocessors"] * card["clock_khz"] * 1e3
    # Two transfers a clock.
    card["memory_gb_per_s"] = 2 * card["memory_clock_khz"] * 1e3 * card["bus_bits"] / 8 / 1e9
    card["int8_tops"] = 2 * INT8_MACS.get(capability, 0) * clocks / 1e12
    card["f32_tflops"] = 2 * F32_FMAS.get(capability, 0) * clocks / 1e12
    card["to_card_gb_per_s"], card["from_card_gb_per_s"] = driver.link()
    print(json.dumps(card, indent=1))


def percent(value, of):
    return f"{100 * value / of:.0f} %" if of else "-"


def table(folder):
    with open(os.path.join(folder, "card.json")) as file:
        card = json.load(file)
    print(f"{card['name']}, compute capability {card['major']}.{card['minor']}, {card['multiprocessors']} multiprocessors")
    print(f"memory {card['memory_gb_per_s']:.0f} GB/s by its clock; int8 {card['int8_tops']:.0f} TOP/s and f32 "
          f"{card['f32_tflops']:.0f} TFLOP/s at {card['clock_khz'] / 1e6:.2f} GHz (0: not known); link "
          f"{card['to_card_gb_per_s']:.1f} GB/s to the card, {card['from_card_gb_per_s']:.1f} back\n")
    head = ["model", "ngl", "KV", "rows", "test", "t/s", "+-", "weights GB/s", "with KV", "of the probe", "of the memory", "TOP/s",
            "of int8", "copied GB/s", "of the link"]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for path in sorted(glob.glob(os.path.join(folder, "*.bench.json"))):
        with open(path) as file:
            rows = json.load(file)
        try:
            with open(path.replace(".bench.json", ".plan.json")) as file:
                plan = json.load(file)
        except FileNotFoundError:
            plan = {}
        gpu = plan.get("gpu", {})
        # Bytes of keys and values of a position, all layers.
        of_position = (plan.get("kv_cache", 0) + gpu.get("kv_cache", 0)) / plan.get("context_len", 1)
        for row in rows:
            test = f"pp{row['n_prompt']}" if row["n_prompt"] else f"tg{row['n_gen']}"
            test += f" @ d{row['n_depth']}" if row["n_depth"] else ""
            kv = 0.0
            if row["n_gen"]:
                kv = row["avg_ts"] * of_position * (row["n_depth"] + row["n_gen"] / 2) / 1e9
            reading, tops = row["weight_gb_per_s"], 2 * row["int_gmac_per_s"] / 1e3
            on_gpu = row["backends"] == "CUDA"
            cells = [
                os.path.basename(row["model_filename"]), str(row["n_gpu_layers"]), row["type_k"], str(row["n_ubatch"]), test,
                f"{row['avg_ts']:.1f}",
                f"{row['stddev_ts']:.1f}",
                f"{reading:.1f}" if reading else "", f"{reading + kv:.1f}" if reading else "",
                percent(reading + kv, row["read_gb_per_s"]) if reading else "",
                percent(reading + kv, card["memory_gb_per_s"]) if reading and on_gpu else "",
                f"{tops:.1f}" if tops else "", percent(tops, card["int8_tops"]) if tops and on_gpu else "",
                f"{row['gpu_copy_gb_per_s']:.1f}" if row["n_gpu_layers"] else "",
                percent(row["gpu_copy_gb_per_s"], card["to_card_gb_per_s"]) if row["n_gpu_layers"] else "",
            ]
            print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    if sys.argv[1:] == ["peaks"]:
        peaks()
    elif len(sys.argv) == 3 and sys.argv[1] == "table":
        table(sys.argv[2])
    else:
        sys.exit(__doc__)
