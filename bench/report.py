# SPDX-License-Identifier: LGPL-2.1-or-later
"""The results as a markdown table and as a drawing, and whether they reach what
the project promises."""
from html import escape

COLOURS = {
    "tapdisk": "#1b6ca8", "direct io_uring": "#9a9a9a", "nbdkit file": "#6a9f58",
    "qemu-nbd native": "#d1615d", "qemu-nbd io_uring": "#e49444",
    "qemu-nbd threads": "#e7ca60",
}


def figure(cell, result):
    """IOPS of small requests, MiB/s of large ones."""
    if cell["work"]["bs"] >= 1 << 20:
        return result["bytes_per_s"] / (1 << 20), "MiB/s"
    return result["iops"], "IOPS"


def number(value):
    return "{:,.0f}".format(value).replace(",", " ")


def groups(cells):
    """Cells by what was measured, in order: {title: [cell ...]}."""
    found = {}
    for cell in cells:
        found.setdefault(cell["title"], []).append(cell)
    return found


# ---- what must be reached ------------------------------------------------------

class Bars:
    def __init__(self, cells, rest, barriers):
        self.value = {(c["title"], c["subject"]): figure(c, c["median"])[0]
                      for c in cells if c.get("median")}
        self.rest, self.barriers = rest, barriers
        self.rows = []

    def best(self, title, prefix):
        found = [v for (t, s), v in self.value.items()
                 if t == title and s.startswith(prefix)]
        return max(found) if found else None

    def ratio(self, text, ours, theirs, wanted):
        if ours is None or theirs is None:
            self.rows.append((text, None, "not measured"))
            return
        self.rows.append((text, ours >= wanted * theirs, "%s against %s: %.2fx, wanted %.2fx"
                          % (number(ours), number(theirs), ours / theirs, wanted)))

    def limit(self, text, value, most, unit):
        if value is None:
            self.rows.append((text, None, "not measured"))
        else:
            self.rows.append((text, value <= most, "%.2f %s, at most %g" % (value, unit, most)))

    def judge(self):
        for side in ("read", "write"):
            title = "tmpfs raw, 4 KiB random %s, depth 32" % side
            ours = self.value.get((title, "tapdisk"))
            self.ratio(title + ": 1.5x qemu-nbd", ours, self.best(title, "qemu"), 1.5)
            self.ratio(title + ": nbdkit", ours, self.best(title, "nbdkit"), 1)
        for side in ("read", "write"):
            for depth in (1, 32):
                title = "disk raw, 4 KiB random %s, depth %d" % (side, depth)
                self.ratio(title + ": 0.85 of direct", self.value.get((title, "tapdisk")),
                           self.best(title, "direct"), 0.85)
        for depth in (1, 32):
            title = "disk qcow standalone, first writes, depth %d" % depth
            self.ratio(title + ": qemu-nbd", self.value.get((title, "tapdisk")),
                       self.best(title, "qemu"), 1)
        for place in ("tmpfs", "disk"):
            qcow = "%s qcow allocated, 4 KiB random write, depth 32" % place
            raw = "%s raw, 4 KiB random write, depth 32" % place
            self.ratio(qcow + ": 0.9 of raw", self.value.get((qcow, "tapdisk")),
                       self.value.get((raw, "tapdisk")), 0.9)
        for kind in ("standalone", "overlay"):
            title = "tmpfs qcow %s, first writes, depth 32" % kind
            self.ratio(title + ": 3x qemu-nbd", self.value.get((title, "tapdisk")),
                       self.best(title, "qemu"), 3)
        self.limit("at rest: resident", self.rest.get("resident_mib"), 8, "MiB")
        self.limit("at rest: CPU", self.rest.get("cpu_ms"), 0,
                   "ms in %g s" % self.rest.get("watched_s", 0))
        self.limit("exec to ready", self.rest.get("ready_ms"), 30, "ms")
        return self.rows


def verdict(ok):
    return {True: "pass", False: "SHORT", None: "-"}[ok]


# ---- markdown ------------------------------------------------------------------

def markdown(data):
    out = ["# Measurements", ""]
    for key, value in data["machine"].items():
        out.append("- %s: %s" % (key, value))
    out += ["- each figure: median of %d runs of %g s, interleaved" % (
        data["rounds"], data["seconds"]), ""]
    for title, cells in groups(data["cells"]).items():
        unit = next((figure(c, c["median"])[1] for c in cells if c.get("median")), "")
        out += ["## " + title, "",
                "| | " + unit + " | least to most | mean µs | 99 % µs | server CPU µs/request |",
                "|---|---:|---:|---:|---:|---:|"]
        for cell in cells:
            median = cell.get("median")
            if not median:
                out.append("| %s | %s | | | | |" % (cell["subject"], cell["why"]))
                continue
            every = sorted(figure(cell, run)[0] for run in cell["runs"])
            cpu = median.get("server_cpu_us")
            out.append("| %s | %s | %s to %s | %.0f | %.0f | %s |" % (
                cell["subject"], number(figure(cell, median)[0]), number(every[0]),
                number(every[-1]), median["mean_us"], median["p99_us"],
                "%.1f" % cpu if cpu is not None else ""))
        out.append("")
    if data["barriers"]:
        out += ["## Barriers of qcow first writes on the disk", "",
                "As strace sees them; those sent through io_uring it does not see.", "",
                "| | requests | barriers | requests per barrier |", "|---|---:|---:|---:|"]
        for row in data["barriers"]:
            per = row.get("requests_per_barrier")
            out.append("| %s | %s | %s | %s |" % (
                row["title"], number(row["requests"]), number(row["barriers"]),
                "%.1f" % per if per else "none seen"))
        out.append("")
    out += ["## What must be reached", "", "| | | |", "|---|---|---|"]
    for text, ok, words in data["bars"]:
        out.append("| %s | %s | %s |" % (text, verdict(ok), words))
    return "\n".join(out) + "\n"


# ---- drawing -------------------------------------------------------------------

ROW, GAP, LEFT, WIDTH, RIGHT = 20, 44, 150, 420, 110


def panel(title, cells, x, y):
    """One small bar chart; returns its lines and height."""
    drawn = [c for c in cells if c.get("median")]
    top = max((figure(c, c["median"])[0] for c in drawn), default=1) or 1
    unit = figure(drawn[0], drawn[0]["median"])[1] if drawn else ""
    out = ['<text x="%d" y="%d" class="title">%s (%s)</text>' % (
        x, y, escape(title), unit)]
    y += 10
    for cell in drawn:
        value = figure(cell, cell["median"])[0]
        every = [figure(cell, run)[0] for run in cell["runs"]]
        length = WIDTH * value / top
        middle = y + ROW / 2
        out.append('<text x="%d" y="%.1f" class="name">%s</text>' % (
            x + LEFT - 8, middle + 4, escape(cell["subject"])))
        out.append('<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>' % (
            x + LEFT, y + 2, length, ROW - 4, COLOURS.get(cell["subject"], "#888")))
        low, high = (x + LEFT + WIDTH * min(v, top) / top for v in (min(every), max(every)))
        out.append('<path d="M%.1f %.1fH%.1f" class="range"/>' % (low, middle, high))
        out.append('<text x="%.1f" y="%.1f">%s</text>' % (
            max(x + LEFT + length, high) + 6, middle + 4, number(value)))
        y += ROW
    return out, 10 + ROW * len(drawn)


def svg(data):
    columns = [[], []]
    heights = [60, 60]
    panel_width = LEFT + WIDTH + RIGHT
    for title, cells in groups(data["cells"]).items():
        side = 0 if heights[0] <= heights[1] else 1
        lines, height = panel(title, cells, 20 + side * panel_width, heights[side])
        columns[side] += lines
        heights[side] += height + GAP
    machine = data["machine"]
    head = ['<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" '
            'font-family="sans-serif" font-size="12">' % (20 + 2 * panel_width, max(heights)),
            "<style>.title{font-weight:bold}.name{text-anchor:end}"
            ".range{stroke:#222;stroke-width:1}</style>",
            '<rect width="100%" height="100%" fill="white"/>',
            '<text x="20" y="26" font-size="15">%s, %s CPUs, Linux %s; medians of %d runs of '
            '%g s, thin lines from least to most</text>' % (
                escape(machine["processor"]), machine["CPUs"], escape(machine["kernel"]),
                data["rounds"], data["seconds"])]
    return "\n".join(head + columns[0] + columns[1] + ["</svg>"]) + "\n"
