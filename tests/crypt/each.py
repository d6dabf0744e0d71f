# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs tests, each in an empty folder of its own, with survivor memory in there."""
import os
import tempfile


def run_each(tests, names):
    for name in names or tests:
        with tempfile.TemporaryDirectory(prefix="crypt-") as folder:
            os.chdir(folder)
            os.mkdir("memory", 0o700)
            os.environ["BLKTAP_SURVIVOR_DIR"] = folder + "/memory"
            tests[name]()
            os.chdir("/")
        print("ok", name)
