#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Keys that are typed at a terminal: a pty that this test holds the other end of.

`prompt.py TAP_IMG NAME`
"""
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time

from each import run_each

PATIENCE = 100
img = None
tests = {}


def test(function):
    tests[function.__name__.replace("_", "-")] = function
    return function


class Typist:
    """A program whose terminal we are."""

    def __init__(self, *words):
        self.pid, self.fd = pty.fork()
        if not self.pid:
            try:
                os.execv(img, [img, *words])
            finally:
                os._exit(127)
        self.seen = ""
        self.code = None

    def echoes(self):
        return bool(termios.tcgetattr(self.fd)[3] & termios.ECHO)

    def hear(self, seconds):
        """False: nothing more will be said."""
        if not select.select([self.fd], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self.fd, 4096)
        except OSError: # the terminal has no other end any more
            return False
        self.seen += data.decode(errors="replace")
        return bool(data)

    def asked(self, question):
        """Waits for these words; what was said before is forgotten."""
        end = time.monotonic() + PATIENCE
        while question not in self.seen:
            assert self.hear(0.2) and time.monotonic() < end, \
                "%r was never asked: %r" % (question, self.seen)
        assert not self.echoes(), "what is typed would be shown"
        self.seen = ""

    def type(self, text):
        os.write(self.fd, text.encode())

    def ended(self):
        """Its exit code, or minus the signal that ended it."""
        end = time.monotonic() + PATIENCE
        while self.code is None and time.monotonic() < end:
            self.hear(0.1)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            raise AssertionError("it does not end: %r" % self.seen)
        while select.select([self.fd], [], [], 0)[0] and self.hear(0):
            pass
        os.close(self.fd)
        return self.code


def tap_img(*words, code=0):
    done = subprocess.run([img, *words], stdin=subprocess.DEVNULL, text=True, timeout=PATIENCE,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == code, "%s: %d: %s" % (words, done.returncode, done.stdout)
    return done.stdout


def made(key="over the hills"):
    """An encrypted image with something in it, and the same without."""
    with open("key", "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        file.write(key)
    with open("plain", "wb") as file:
        file.write(os.urandom(1 << 20))
    tap_img("convert", "-q", "-f", "raw", "-O", "qcow2", "-o",
            "encryption=luks,iter-time=0,key-file=key", "plain", "image")


@test
def a_typed_key_opens_an_image_and_is_not_shown():
    made()
    typist = Typist("compare", "qcow2:image", "raw:plain")
    typist.asked("Passphrase of image: ")
    typist.type("over the hills\n")
    assert typist.ended() == 0, typist.seen
    assert "over the hills" not in typist.seen and "identical" in typist.seen, typist.seen


@test
def a_key_that_does_not_fit_is_told():
    made()
    typist = Typist("compare", "qcow2:image", "raw:plain")
    typist.asked("Passphrase of image: ")
    typist.type("far away\n")
    assert typist.ended() == 2, typist.seen
    assert "its passphrase is another one" in typist.seen and "far away" not in typist.seen
    typist = Typist("compare", "qcow2:image", "raw:plain")
    typist.asked("Passphrase of image: ")
    typist.type("\n") # none
    assert typist.ended() == 2 and "say key-file=" in typist.seen, typist.seen


@test
def an_image_is_asked_for_once():
    made()
    typist = Typist("compare", "qcow2:image", "qcow2:image")
    typist.asked("Passphrase of image: ")
    typist.type("over the hills\n")
    assert typist.ended() == 0 and "Passphrase" not in typist.seen, typist.seen


@test
def a_new_key_is_typed_twice():
    typist = Typist("create", "-f", "qcow2", "-o", "encryption=luks,iter-time=0", "new", "1M")
    typist.asked("New passphrase of new: ")
    typist.type("one\n")
    typist.asked("Again, the passphrase of new: ")
    typist.type("other\n")
    assert typist.ended() == 1, typist.seen
    assert "not the same passphrase" in typist.seen and not os.path.exists("new"), typist.seen
    typist = Typist("create", "-f", "qcow2", "-o", "encryption=luks,iter-time=0", "new", "1M")
    for question in "New passphrase of new: ", "Again, the passphrase of new: ":
        typist.asked(question)
        typist.type("one\n")
    assert typist.ended() == 0, typist.seen
    with open("key", "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        file.write("one")
    tap_img("compare", "-q", "qcow2:new,key-file=key", "qcow2:new,key-file=key")


@test
def who_gives_up_gets_the_echo_back():
    made()
    for signal_key in "\x03", "\x04": # ^C, and the end of what is typed
        typist = Typist("compare", "qcow2:image", "raw:plain")
        typist.asked("Passphrase of image: ")
        kept = os.dup(typist.fd)
        typist.type(signal_key)
        code = typist.ended()
        assert code != 0, "code %d: %r" % (code, typist.seen)
        assert termios.tcgetattr(kept)[3] & termios.ECHO, "the terminal stays silent"
        os.close(kept)


@test
def without_a_terminal_nobody_is_asked():
    made()
    done = subprocess.run([img, "compare", "qcow2:image", "raw:plain"], start_new_session=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
                          stderr=subprocess.STDOUT, timeout=PATIENCE)
    assert done.returncode == 2 and "say key-file=" in done.stdout, done.stdout


def main():
    global img
    img = os.path.abspath(sys.argv[1])
    run_each(tests, sys.argv[2:])


if __name__ == "__main__":
    main()
