# SPDX-License-Identifier: LGPL-2.1-or-later
"""What blktapctrl, tapdisk and tap-ctl promise together, one function each."""
import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

import harness
from harness import Nbd, Skip, alive, listens, wait_for


def attach_serves_over_nbd():
    if not shutil.which("qemu-io"):
        raise Skip("qemu-io is not installed")
    with harness.daemon() as d:
        d.image("img", 8 << 20)
        disk = d.attach("aio:img")  # relative to where tap-ctl runs
        assert disk["spec"] == "aio:" + d.folder + "/img", disk
        assert disk["state"] == "serving" and disk["size"] == 8 << 20
        url = "nbd+unix:///?socket=" + disk["path"]
        subprocess.run(["qemu-io", "-f", "raw", "-c", "write -P 90 64k 128k", "-c", "flush",
                        "-c", "read -P 90 64k 128k", "-c", "read -P 0 0 64k", url],
                       check=True, timeout=harness.WAIT, stdout=subprocess.DEVNULL)
        stats = d.ctl("stats", disk["name"], "--json").json()
        assert stats["write"] == {"requests": 1, "bytes": 131072, "errors": 0}, stats
        assert stats["read"]["bytes"] == 196608, stats
        info = d.ctl("info", disk["name"], "--json").json()
        assert info["pid"] == disk["pid"] and info["chain"][0]["type"] == "aio", info
        assert [n["address"] for n in info["nbd"]] == ["unix:" + disk["path"]], info
        assert disk["name"] in d.ctl("list").out
        d.detach(disk)
        assert not d.disks() and not alive(disk["pid"]) and not os.path.exists(disk["path"])
        with open(os.path.join(d.folder, "img"), "rb") as f:
            assert f.read()[65536:65536 + 131072] == bytes([90]) * 131072


def nbd_listens_later_too():
    with harness.daemon() as d:
        d.image("img", fill=5)
        disk = d.attach("aio:img")
        path = os.path.join(d.folder, "nbd-late")
        assert d.ctl("nbd-listen", disk["name"], "unix:" + path).status == 0
        late = Nbd(path)
        assert late.read(4096, 4096) == b"\5" * 4096
        assert len(d.disk(disk["name"])["nbd"]) == 2
        late.close()
        assert d.ctl("nbd-close", disk["name"], "unix:" + path).status == 0
        assert not os.path.exists(path)
        assert len(d.disk(disk["name"])["nbd"]) == 1
        again = d.ctl("nbd-close", disk["name"], "unix:" + path)
        assert again.status == 1 and path in again.err, again.err
        Nbd(disk["path"]).close()


def killed_tapdisk_leaves_neighbours():
    with harness.daemon() as d:
        one = d.attach("aio:" + d.image("one"))
        two = d.attach("aio:" + d.image("two"))
        client = Nbd(two["path"])
        client.write(0, b"a" * 4096)
        os.kill(one["pid"], signal.SIGKILL)
        dead = wait_for("the dead disk", lambda: (r := d.disk(one["name"]))["state"] == "dead" and r)
        assert dead["cause"] == "killed by signal 9 (Killed)" and dead["pid"] is None, dead
        assert [line for line in d.log().splitlines() if one["name"] + ":" in line and
                "killed by signal 9" in line], d.log()
        client.write(4096, b"b" * 4096)
        assert client.read(0, 8192) == b"a" * 4096 + b"b" * 4096
        client.close()
        asked = d.ctl("stats", one["name"])
        assert asked.status == 1 and "dead" in asked.err, asked.err
        # its image is not given away before it is detached
        again = d.ctl("attach", "aio:" + d.folder + "/one")
        assert again.status == 1 and "is dead: detach it first" in again.err, again.err
        os.unlink(one["path"])  # nobody was left to do so
        d.detach(one)
        d.detach(d.attach("aio:" + d.folder + "/one"), two)


def daemon_killed_and_restarted_adopts():
    with harness.daemon() as d:
        disk = d.attach("aio:" + d.image("img"), "--name", "system")
        client = Nbd(disk["path"])
        client.write(0, b"1" * 4096)
        d.kill()
        client.write(4096, b"2" * 4096)
        assert d.ctl("list").status == 3
        d.start()
        client.write(8192, b"3" * 4096)
        row = d.disk("system")
        assert row["pid"] == disk["pid"] and row["state"] == "serving", row
        assert row["spec"] == disk["spec"] and row["size"] == disk["size"], row
        assert row["nbd"][0]["address"] == "unix:" + disk["path"], row
        assert d.ctl("stats", "system", "--json").json()["write"]["requests"] == 3
        second = d.ctl("attach", "aio:" + d.folder + "/img")
        assert second.status == 1 and f"in use by disk system, tapdisk {disk['pid']}" in second.err
        # an adopted one is watched like any other
        other = d.attach("aio:" + d.image("other"))
        d.kill()
        d.start()
        os.kill(other["pid"], signal.SIGKILL)
        wait_for("its death", lambda: d.disk(other["name"])["state"] == "dead")
        os.unlink(other["path"])
        client.flush()
        client.close()
        d.detach(row, other)


def daemon_ended_by_signal_adopts():
    with harness.daemon() as d:
        disk = d.attach("aio:" + d.image("img"))
        client = Nbd(disk["path"])
        for number in (signal.SIGTERM, signal.SIGINT):
            d.process.send_signal(number)
            assert d.process.wait(harness.WAIT) == 0
            assert not os.path.exists(os.path.join(d.run_dir, "blktapctrl.pid"))
            client.write(0, b"x" * 512)
            d.start()
            assert d.disk(disk["name"])["pid"] == disk["pid"]
        client.close()


def dead_socket_is_swept_at_start():
    with harness.daemon() as d:
        disk = d.attach("aio:" + d.image("img"))
        d.kill()
        os.kill(disk["pid"], signal.SIGKILL)
        wait_for("its end", lambda: not alive(disk["pid"]))
        d.start()
        assert not d.disks() and "died while no daemon was there" in d.log()
        os.unlink(disk["path"])
        d.detach(d.attach("aio:" + d.folder + "/img"))


def second_daemon_is_refused():
    with harness.daemon() as d:
        run = subprocess.run([harness.BLKTAPCTRL, "--foreground", "--run-dir", d.run_dir,
                              "--cgroup", "none", "--no-xen"],
                             capture_output=True, text=True, timeout=harness.WAIT)
        assert run.returncode == 3, run
        assert run.stderr.count("\n") == 1 and str(d.process.pid) in run.stderr, run.stderr
        assert d.answers()


def background_daemon_is_ready_when_it_says_so():
    with harness.daemon() as d:
        disk = d.attach("aio:" + d.image("img"))
        assert d.ctl("stop").status == 0
        d.process.wait(harness.WAIT)
        line = [harness.BLKTAPCTRL, "--run-dir", "run", "--tapdisk", harness.TAPDISK, "--cgroup",
                "none", "--no-xen", "--log", "background.log"]
        with open(d.folder + "/terminal", "w+") as terminal:  # a pipe would stay open
            run = subprocess.run(line, timeout=harness.WAIT, cwd=d.folder, stdout=terminal,
                                 stderr=subprocess.STDOUT)
            assert run.returncode == 0
            terminal.seek(0)
            assert terminal.read() == ""
        with open(os.path.join(d.run_dir, "blktapctrl.pid")) as f:
            pid = int(f.read())
        assert d.answers() and alive(pid)
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        with open(d.folder + "/background.log") as f:
            assert f"{disk['name']}: adopted" in f.read()
        again = subprocess.run(line, timeout=harness.WAIT, cwd=d.folder, capture_output=True, text=True)
        assert again.returncode == 3 and str(pid) in again.stderr, again
        d.detach(disk)
        assert d.ctl("stop").status == 0
        wait_for("its end", lambda: not alive(pid))
        # what goes wrong in the background is said in the foreground
        line[2:3] = ["run2"]
        os.mkdir(d.folder + "/run2")
        open(d.folder + "/run2/tapdisk", "w").close()
        os.symlink("/nowhere/at/all", d.folder + "/run2/control")
        failed = subprocess.run(line, timeout=harness.WAIT, cwd=d.folder, capture_output=True, text=True)
        assert failed.returncode == 1 and "run2/control" in failed.stderr, failed


def programs_started_without_descriptors_open_them():
    def close_all():
        for fd in range(3):
            os.close(fd)

    with harness.daemon() as d:
        d.stop()
        image, ready = d.image("img"), d.folder + "/by-hand"
        for line, path in (([harness.BLKTAPCTRL, "--foreground", "--run-dir", d.run_dir,
                             "--cgroup", "none", "--no-xen"], d.socket),
                           ([harness.TAPDISK, "--disk", "aio:" + image, "--control", ready],
                            ready)):
            program = subprocess.Popen(line, preexec_fn=close_all)
            try:
                wait_for("its socket", lambda: listens(path))
                for fd in range(3):
                    assert os.readlink(f"/proc/{program.pid}/fd/{fd}") == "/dev/null", line
            finally:
                program.terminate()
                program.wait(harness.WAIT)


def second_writer_is_refused_and_told_who():
    with harness.daemon() as d:
        image = d.image("img")
        os.symlink(image, d.folder + "/symlink")
        os.link(image, d.folder + "/hardlink")
        first = d.attach("aio:" + image)
        holder = f"in use by disk {first['name']}, tapdisk {first['pid']}"
        for path in ("img", "symlink", "hardlink"):
            for option in ((), ("--read-only",)):
                run = d.ctl("attach", f"aio:{d.folder}/{path}", *option)
                assert run.status == 1 and holder in run.err and path in run.err, run.err
                assert run.err.count("\n") == 0, run.err
        d.detach(first)
        one = d.attach("aio:" + image, "--read-only")
        two = d.attach("aio:" + image, "--read-only")
        assert d.ctl("attach", "aio:" + image).status == 1
        d.detach(one, two)
        one = d.attach(f"aio:{image},shared=on")
        two = d.attach(f"aio:{image},shared=Yes")
        assert d.ctl("attach", "aio:" + image).status == 1
        assert len(d.disks()) == 2


def parent_of_an_overlay_is_held_too():
    with harness.daemon() as d:
        d.image("base")
        for n in (1, 2):
            subprocess.run([harness.QCOW_CREATE, "8", f"over{n}", "base"], cwd=d.folder,
                           check=True, timeout=harness.WAIT, stdout=subprocess.DEVNULL)
        one, two = d.attach("qcow:over1"), d.attach("qcow:over2")  # both read it
        run = d.ctl("attach", "aio:base")
        assert run.status == 1 and "in use by disk d1, tapdisk" in run.err, run.err
        d.kill()
        d.start()
        run = d.ctl("attach", "aio:base")
        assert run.status == 1 and "in use by disk d1, tapdisk" in run.err, run.err
        d.detach(one, two)
        base = d.attach("aio:base")
        run = d.ctl("attach", "qcow:over1")
        assert run.status == 1 and "\n" not in run.err, run.err
        assert d.folder + "/base: " in run.err, run.err
        assert f"(disk {base['name']}, tapdisk {base['pid']})" in run.err, run.err
        assert len(d.disks()) == 1


def writer_outside_the_daemon_is_refused():
    with harness.daemon() as d:
        image = d.image("img")
        path = d.folder + "/hand"
        hand = subprocess.Popen([harness.TAPDISK, "--disk", "aio:" + image, "--nbd",
                                 "unix:" + path], stderr=subprocess.DEVNULL)
        try:
            wait_for("tapdisk", lambda: listens(path))
            run = d.ctl("attach", "aio:" + image)
            assert run.status == 1 and image in run.err and run.err.count("\n") == 0, run.err
            assert not d.disks()
        finally:
            hand.terminate()
            hand.wait(harness.WAIT)


def wrong_input_gets_one_clear_line():
    with harness.daemon() as d:
        image = d.image("img")
        d.image("odd", 1000)
        d.image("empty", 0)
        base = os.fsencode(d.folder) + b"/base\xff"  # no UTF-8, and soon not there
        os.rename(d.image("base"), base)
        subprocess.run([harness.QCOW_CREATE, "8", d.folder + "/over", base], check=True,
                       timeout=harness.WAIT, stdout=subprocess.DEVNULL)
        os.unlink(base)
        cases = [
            (1, "/base?: No such file", "attach", f"qcow:{d.folder}/over"),
            (1, "/no/such/file", "attach", "aio:/no/such/file"),
            (1, d.folder, "attach", "aio:" + d.folder),
            (1, "odd", "attach", f"aio:{d.folder}/odd"),
            (1, "empty", "attach", f"aio:{d.folder}/empty"),
            (1, "nosuchkey", "attach", f"aio:{image},nosuchkey=1"),
            (1, "nosuchtype", "attach", "nosuchtype:" + image),
            (1, "", "attach", image),
            (1, "", "attach", ""),
            (1, "a/b", "attach", "aio:" + image, "--name", "a/b"),
            (1, "smoke:signals", "attach", "aio:" + image, "--nbd", "smoke:signals"),
            (1, "nosuchengine", "attach", "aio:" + image, "--engine", "nosuchengine"),
            (4, "nobody", "detach", "nobody"),
            (4, "nobody", "info", "nobody"),
            (4, "nobody", "stats", "nobody"),
            (2, "--nonsense", "list", "--nonsense"),
            (2, "--name", "attach", "aio:" + image, "--name"),
            (1, "--no-xen", "xen-attach", "0", f"tap:aio:{image},xvdb,w"),
            (1, "--no-xen", "xen-detach", "0", "xvdb"),
            (2, "frobnicate", "frobnicate"),
            (2, "no command bogus", "bogus", "info"),
            (2, "info NAME", "--timeout", "5", "info", "list", "list"),
            (2, "attach", "attach"),
            (2, "detach", "detach", "a", "b"),
        ]
        for status, words, *line in cases:
            run = (d.ctl(*line) if line[-1] != "--name" else
                   harness.Ctl(subprocess.run([harness.TAP_CTL, *line], capture_output=True,
                                              text=True, timeout=harness.WAIT)))
            assert run.status == status, (line, run.status, run.err)
            assert words in run.err, (line, run.err)
            assert run.err and run.err.count("\n") == 0 and not run.out, (line, run.err)
        assert not d.disks()
        assert not os.listdir(os.path.join(d.run_dir, "tapdisk"))


def tapdisk_that_cannot_run_is_told():
    with harness.daemon() as d:
        image = d.image("img")
        d.kill()
        d.tapdisk = "/bin/false"
        d.start()
        run = d.ctl("attach", "aio:" + image)
        assert run.status == 1 and "exited with status 1 before it was ready" in run.err, run.err
        assert not d.disks()


def garbage_on_the_control_socket_is_harmless():
    chance = random.Random(int(os.environ.get("TEST_SEED", "1")))
    request = b'{"jsonrpc":"2.0","id":1,"method":"list"}'

    def code(answers):
        return [a["error"]["code"] if "error" in a else 0 for a in answers]

    with harness.daemon() as d:
        d.attach("aio:" + d.image("img"))
        assert code(d.ask(b"nonsense")) == [-32700]
        assert code(d.ask(b'{"jsonrpc":"2.0"', request)) == [-32700, 0]
        assert code(d.ask(b"[]", b"{}", b'{"jsonrpc":"1.0","method":"list","id":1}')) == [-32600] * 3
        assert code(d.ask(b'{"jsonrpc":"2.0","id":1,"method":7}')) == [-32600]
        assert code(d.ask(b'{"jsonrpc":"2.0","id":[],"method":"list"}')) == [-32600]
        assert code(d.ask(b'{"jsonrpc":"2.0","id":1,"method":"nope"}')) == [-32601]
        assert code(d.ask(b'{"jsonrpc":"2.0","id":1,"method":"list","params":[1]}')) == [-32600]
        assert code(d.ask(b'{"jsonrpc":"2.0","id":1,"method":"info","params":{}}')) == [-32602]
        assert code(d.ask(b'{"jsonrpc":"2.0","id":1,"method":"info","params":{"name":7}}')) == [-32602]
        assert code(d.ask(b'{"jsonrpc":"2.0","id":1,"method":"list","params":{"x":1}}')) == [-32602]
        assert d.ask(b'{"jsonrpc":"2.0","method":"list"}') == []  # wants no answer
        assert code(d.ask(b"[" * 60000)) == [-32700]
        # too long a line, however well formed, and the client is hung up on
        assert code(d.ask(request[:-1] + b" " * 200000 + b"}", request)) == [-32700]
        for _ in range(200):
            line = bytes(chance.randrange(256) for _ in range(chance.randrange(200)))
            d.ask(line, request, wait=chance.random() < 0.5)
        for cut in range(0, len(request), 7):
            d.ask(request[:cut], wait=False)
        assert code(d.ask(*[request] * 3000)) == [0] * 3000
        # more answers than the socket holds, read long after all has been asked
        assert code(d.ask(*[request] * 500, pause=0.3)) == [0] * 500
        assert len(d.disks()) == 1


def memory_of(pid):
    with open(f"/proc/{pid}/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmRSS"))


def refused(sock):
    try:
        return sock.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def other_users_are_not_let_in():
    if os.geteuid():
        raise Skip("needs root")
    with harness.daemon() as d:
        # even where the folders and the socket would let them
        for path, mode in ((d.folder, 0o755), (d.run_dir, 0o755), (d.socket, 0o666)):
            os.chmod(path, mode)
        child = os.fork()
        if not child:
            os.setuid(65534)
            answers = d.ask(b'{"jsonrpc":"2.0","id":1,"method":"list"}')
            os._exit(len(answers))
        assert os.waitpid(child, 0)[1] == 0
        assert d.answers()


def client_that_never_reads_cannot_grow_the_daemon():
    request = b'{"jsonrpc":"2.0","id":1,"method":"list"}\n'
    with harness.daemon() as d:
        for n in range(3):
            d.attach("aio:" + d.image(f"img{n}"))
        before = memory_of(d.process.pid)
        clients = []
        for _ in range(100):  # more than it lets in
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(d.socket)
            sock.setblocking(False)
            clients.append(sock)
        wait_for("some to be refused", lambda: sum(map(refused, clients)) >= 36)
        for sock in clients:
            try:
                while sock.send(request * 100):
                    pass
            except (BlockingIOError, BrokenPipeError, ConnectionResetError):
                pass
        time.sleep(0.5)
        hung_up = sum(map(refused, clients))
        assert hung_up < 50, hung_up
        for sock in clients[10:]:
            sock.close()
        wait_for("an answer to somebody else", d.answers)
        grown = memory_of(d.process.pid) - before
        print(f"grown by {grown} KiB")
        if "address" not in os.environ.get("TEST_SANITIZED", ""):
            assert grown < 16 << 10, grown
        for sock in clients[:10]:
            sock.close()


def detach_drains_a_busy_disk():
    with harness.daemon() as d:
        disk = d.attach("aio:" + d.image("img", 64 << 20))
        written = [0] * 4

        def write(n):
            client = Nbd(disk["path"])
            try:
                while True:
                    at = (n + 4 * (written[n] % 1000)) * 16384
                    client.write(at, bytes([1 + written[n] % 250]) * 16384)
                    written[n] += 1
            except (ConnectionError, OSError):
                pass

        threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        wait_for("some writes", lambda: min(written) > 20)
        d.detach(disk)
        for thread in threads:
            thread.join(harness.WAIT)
        with open(os.path.join(d.folder, "img"), "rb") as f:
            for n, count in enumerate(written):
                last = count - 1  # the last one that was acknowledged
                f.seek((n + 4 * (last % 1000)) * 16384)
                assert f.read(16384) == bytes([1 + last % 250]) * 16384, (n, count)


def many_disks_at_once():
    with harness.daemon() as d:
        images = [d.image(f"img{n}", 1 << 20) for n in range(24)]
        runs = [subprocess.Popen([harness.TAP_CTL, "attach", "aio:" + image, "--socket", d.socket],
                                 stdout=subprocess.PIPE, text=True) for image in images]
        names = {run.communicate(timeout=harness.WAIT)[0].strip() for run in runs}
        assert len(names) == 24, names
        d.pids |= {disk["pid"] for disk in d.disks()}
        assert len(d.pids) == 24


def hung_tapdisk_does_not_hang_the_daemon():
    with harness.daemon() as d:
        hung, other = d.attach("aio:" + d.image("hung")), d.attach("aio:" + d.image("other"))
        os.kill(hung["pid"], signal.SIGSTOP)
        asked = subprocess.Popen([harness.TAP_CTL, "stats", hung["name"], "--socket", d.socket],
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            start = time.monotonic()
            assert d.ctl("stats", other["name"]).status == 0 and len(d.disks()) == 2
            assert time.monotonic() - start < 25  # it is asked for 30
            d.kill()
            asked.wait(harness.WAIT)
            d.start(adopts=False)  # waits for it for a while, then goes on
            assert d.disk(hung["name"])["state"] == "starting"
            wait_for("the other", lambda: d.disk(other["name"])["state"] == "serving")
            os.kill(hung["pid"], signal.SIGCONT)
            wait_for("its adoption", lambda: d.disk(hung["name"])["state"] == "serving")
            assert d.disk(hung["name"])["spec"] == hung["spec"]
        finally:
            asked.kill()
            asked.wait()


def a_daemon_that_does_not_answer_is_not_waited_for_ever():
    with harness.daemon() as d:
        os.kill(d.process.pid, signal.SIGSTOP)
        try:
            asked = d.ctl("list", "--timeout", "1")
            assert asked.status == 3 and "no answer in time" in asked.err, asked.err
        finally:
            os.kill(d.process.pid, signal.SIGCONT)
        assert d.ctl("list").status == 0
        for wrong in ("0", "-1", "x", "1x", "99999999"):
            refused = d.ctl("list", "--timeout", wrong)
            assert refused.status == 2 and "--timeout" in refused.err, (wrong, refused.err)


def stop_leaves_disks_and_stop_all_does_not():
    with harness.daemon() as d:
        disk = d.attach("aio:" + d.image("img"))
        assert d.ctl("stop").status == 0
        assert d.process.wait(harness.WAIT) == 0
        assert alive(disk["pid"])
        Nbd(disk["path"]).close()
        d.start()
        assert d.ctl("stop", "--all").status == 0
        assert d.process.wait(harness.WAIT) == 0
        assert not alive(disk["pid"])


def help_names_every_command():
    run = subprocess.run([harness.TAP_CTL, "--help"], capture_output=True, text=True, timeout=harness.WAIT)
    assert run.returncode == 0
    for command in ("list", "info", "stats", "attach", "detach", "nbd-listen", "nbd-close",
                    "xen-attach", "xen-detach", "stop"):
        assert f"\n  {command}" in run.stdout, command
        one = subprocess.run([harness.TAP_CTL, command, "--help"], capture_output=True,
                             text=True, timeout=harness.WAIT)
        assert one.returncode == 0 and "--json" in one.stdout, command
    for program in (harness.BLKTAPCTRL, harness.TAPDISK):
        run = subprocess.run([program, "--help"], capture_output=True, text=True, timeout=harness.WAIT)
        assert run.returncode == 0 and "Usage" in run.stdout, program
        run = subprocess.run([program, "--nonsense"], capture_output=True, text=True, timeout=harness.WAIT)
        assert run.returncode == 2 and "--nonsense" in run.stderr, (program, run)


def a_tapdisk_whose_starter_is_gone_ends():
    with harness.daemon() as d:
        image, control = d.image("img"), d.folder + "/late.sock"
        reader, writer = os.pipe()
        os.close(reader)
        run = subprocess.run([harness.TAPDISK, "--disk", "aio:" + image, "--control", control,
                              "--ready-fd", str(writer)], pass_fds=[writer], timeout=harness.WAIT,
                             capture_output=True, text=True)
        os.close(writer)
        assert run.returncode == 1 and "whoever started it is gone" in run.stderr, run
        assert not os.path.exists(control)


def processor_time(pid):
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def a_daemon_out_of_descriptors_waits_for_one():
    with harness.daemon() as d:
        soft, hard = resource.prlimit(d.process.pid, resource.RLIMIT_NOFILE)
        assert soft == hard, (soft, hard)
        used = max(map(int, os.listdir(f"/proc/{d.process.pid}/fd"))) + 1
        resource.prlimit(d.process.pid, resource.RLIMIT_NOFILE, (used + 4, hard))
        clients = []
        for _ in range(20):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(d.socket)
            clients.append(sock)
        wait_for("its complaint", lambda: "no room for a client" in d.log())
        before = processor_time(d.process.pid)
        time.sleep(1)
        assert processor_time(d.process.pid) - before < 0.3
        assert d.log().count("no room for a client") <= 10
        for sock in clients:
            sock.close()
        wait_for("an answer", d.answers)


def asked_by_tap_ctl(words, result, cwd="/"):
    """What a daemon hears of a tap-ctl, and what that makes of the answer."""
    asked = []
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as server:
        server.bind(folder + "/a-daemon")
        server.listen()
        server.settimeout(harness.WAIT)

        def answer():
            with server.accept()[0] as sock:
                asked.append(json.loads(sock.makefile().readline()))
                sock.sendall(json.dumps({"jsonrpc": "2.0", "id": asked[0]["id"],
                                         "result": result}).encode() + b"\n")

        thread = threading.Thread(target=answer)
        thread.start()
        run = subprocess.run([harness.TAP_CTL, *words, "--socket", folder + "/a-daemon"],
                             capture_output=True, text=True, timeout=harness.WAIT, cwd=cwd)
        thread.join()
    return run, asked[0]["params"]


def a_disk_not_connected_yet_is_told():
    for connected in (True, False):
        run, _ = asked_by_tap_ctl(["xen-attach", "7", "aio:/x,xvda,w"],
                                  {"name": "vbd-7-51712", "connected": connected})
        assert run.returncode == 0 and run.stdout == "vbd-7-51712\n", run
        assert ("not connected yet" in run.stderr) == (not connected), run


def relative_names_are_told_with_their_folder():
    with tempfile.TemporaryDirectory() as outer:
        here = outer + "/a,b"
        os.mkdir(here)
        for name in ("f1", "x,y", "k", "on"):
            open(f"{here}/{name}", "w").close()
        at = outer + "/a\\,b"  # escaped
        for told, heard in (
                ("qcow:f1", f"qcow:{at}/f1"),
                ("qcow:x\\,y,cache=1M", f"qcow:{at}/x\\,y,cache=1M"),
                ("qcow:x,y", "qcow:x,y"),  # no such file
                ("qcow:f1,key-file=k,size-from=k", f"qcow:{at}/f1,key-file={at}/k,size-from=k"),
                ("qcow:/f1,key-file=/k", "qcow:/f1,key-file=/k"),
                ("ram:f1,size=1M,image=f1", f"ram:f1,size=1M,image={at}/f1"),
                ("nbd:f1", "nbd:f1"),
                ("f1", "f1")):
            _, params = asked_by_tap_ctl(["attach", told], {"name": "d1"}, here)
            assert params["spec"] == heard, (told, params)
        _, params = asked_by_tap_ctl(["xen-attach", "7", "tap:aio:f1,xvda,w"], {}, here)
        assert params["disk"] == f"aio:{at}/f1,xvda,w", params
        _, params = asked_by_tap_ctl(["attach", "aio:f1"], {}, "/")
        assert params["spec"] == "aio:f1", params


if __name__ == "__main__":
    harness.main({name.replace("_", "-"): f for name, f in globals().items()
                  if callable(f) and getattr(f, "__module__", "") == "__main__"})
