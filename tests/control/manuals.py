# SPDX-License-Identifier: LGPL-2.1-or-later
"""Manual pages and --help name the same options."""
import os
import re
import subprocess

import harness

MANUALS = os.path.join(os.path.dirname(__file__), "../../docs/man")


def options_of_help(program, *words):
    text = subprocess.run([program, *words, "--help"], capture_output=True, text=True,
                          check=True, timeout=harness.WAIT).stdout
    return set(re.findall(r"^  (?:-., |    )(--[a-z-]+)", text, re.M))


def options_of_manual(name):
    with open(f"{MANUALS}/{name}.8") as f:
        text = f.read().replace("\\-", "-")
    section = text.split(".SH OPTIONS")[1].split(".SH ")[0]
    heads = [lines.split("\n", 1)[0] for lines in section.split(".TP\n")[1:]]
    return {option for head in heads for option in re.findall(r"--[a-z-]+", head)}


def manual_of_tapdisk():
    assert options_of_help(harness.TAPDISK) == options_of_manual("tapdisk")


def manual_of_blktapctrl():
    assert options_of_help(harness.BLKTAPCTRL) == options_of_manual("blktapctrl")


def manual_of_tap_ctl():
    told = options_of_help(harness.TAP_CTL)
    for command in ("attach", "detach", "stop"):
        told |= options_of_help(harness.TAP_CTL, command)
    assert told == options_of_manual("tap-ctl"), told ^ options_of_manual("tap-ctl")


if __name__ == "__main__":
    harness.main({name.replace("_", "-"): f for name, f in globals().items()
                  if callable(f) and getattr(f, "__module__", "") == "__main__"})
