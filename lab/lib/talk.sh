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

die_timeout() {
	echo "--- the end of $state/serial.log" >&2
	tail -n 15 "$state/serial.log" | tr -d '\r' >&2
	die "domain 0 does not answer (job $1)"
}

lab_shell() {
	require socat
	lab_alive || die "no lab runs in $state"
	say "Ctrl-] leaves; press Enter for a prompt"
	cd "$state" && socat -,raw,echo=0,escape=0x1d UNIX-CONNECT:serial.sock
}
