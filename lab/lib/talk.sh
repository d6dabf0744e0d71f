# shellcheck shell=bash disable=SC2034,SC2154
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Talking to domain 0. A job is a file in host/jobs: NAME.job, a bash script
# whose first line says how long it may take. Domain 0's init runs it, lets
# its output grow in NAME.out and leaves its exit code in NAME.end.

# usage: lab_run FILE   ("-": standard input)
lab_run() {
	lab_alive || die "no lab runs in $state"
	local name="$$-$RANDOM" jobs=$state/host/jobs end=$((SECONDS + timeout + 15)) code
	local size=0 now quiet_until=$((SECONDS + stall))
	{
		echo "# timeout $timeout"
		cat "$1"
	} >"$jobs/$name.new" || die "cannot read $1"
	: >"$jobs/$name.out"
	mv "$jobs/$name.new" "$jobs/$name.job"

	exec 8<"$jobs/$name.out"
	until [[ -e $jobs/$name.end ]]; do
		sleep 0.1
		cat <&8
		now=$(stat -c %s "$jobs/$name.out")
		((now == size)) || quiet_until=$((SECONDS + stall)) size=$now
		if ((stall && SECONDS >= quiet_until)); then
			echo "lab: nothing heard for $stall s"
			lab_state
			return 124
		fi
		((SECONDS < end)) || die_timeout "$name"
		lab_alive || die "the host is gone; see: lab/lab log"
	done
	cat <&8
	exec 8<&-
	code=$(cat "$jobs/$name.end")
	rm -f "$jobs/$name".*
	((code != 124 || SECONDS < end - 15)) || echo "lab: timed out after $timeout s" >&2
	return "$code"
}

# usage: lab_guest WORD...   (domain 0's command `guest`; see dom0/guest)
lab_guest() {
	timeout=900
	{
		printf 'guest'
		printf ' %q' "$@"
		case ${1-} in
		exec | run) printf ' < <(base64 -d <<END\n%s\nEND\n)' "$(base64)" ;;
		esac
	} | lab_run -
}

# What a host does that says nothing: which of QEMU's threads are busy, and what
# Xen says of the processors (its keys d and 0: the registers of all, and of
# domain 0's; three times Ctrl-a gives the keyboard to Xen, and back).
lab_state() {
	local pid before
	pid=$(cat "$state/qemu.pid")
	threads() {
		awk '{ print $1, $2, $3, $14 + $15 }' "/proc/$pid"/task/*/stat
	}
	before=$(threads)
	sleep 2
	echo "--- QEMU's threads: id, name, state, hundredths of processor seconds in two"
	paste -d ' ' <(threads) <(echo "$before") | awk '{ print $1, $2, $3, $4 - $8 }'
	echo "--- Xen's and domain 0's registers"
	before=$(stat -c %s "$state/serial.log")
	(cd "$state" && python3 - serial.sock) <<-'END' || true
		import socket, sys, time
		line = socket.socket(socket.AF_UNIX)
		line.settimeout(10)
		line.connect(sys.argv[1])
		for key in b"\x01\x01\x01d0\x01\x01\x01":
		    line.sendall(bytes([key]))
		    time.sleep(0.5)
		line.settimeout(3)
		try:
		    while line.recv(4096):
		        pass
		except TimeoutError:
		    pass
	END
	tail -c "+$before" "$state/serial.log" | tr -d '\r'
}

die_timeout() {
	{
		echo "--- the end of $state/serial.log"
		tail -n 15 "$state/serial.log" | tr -d '\r'
		lab_state
	} >&2
	die "domain 0 does not answer (job $1)"
}

lab_shell() {
	require socat
	lab_alive || die "no lab runs in $state"
	say "Ctrl-] leaves; press Enter for a prompt"
	cd "$state" && socat -,raw,echo=0,escape=0x1d UNIX-CONNECT:serial.sock
}
