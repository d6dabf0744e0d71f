# SPDX-License-Identifier: LGPL-2.1-or-later
# Shared by the qcow tests. The environment names the programs under test:
# QCOW_CREATE, IMG2QCOW, QCOW2RAW, QCOW_RANDOM, QCOW_CHECK.
set -u
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/qcow-test.XXXXXX")
cleanup() { :; }
trap 'cleanup; rm -rf "$work"' EXIT
cd "$work" || exit 99

fail() {
	echo "FAILED: $*" >&2
	exit 1
}

skip() {
	echo "skipped: $*" >&2
	exit 77
}

need() {
	local program
	for program; do
		command -v "$program" >/dev/null || skip "$program is not installed"
	done
}

# must COMMAND...: it succeeds; its output is shown if not
must() {
	local code=0
	"$@" >out.txt 2>&1 || code=$?
	((code == 0)) || {
		cat out.txt >&2
		fail "$* (exit $code)"
	}
}

# refuses PATTERN COMMAND...: it fails with 1 and one line that matches
refuses() {
	local pattern=$1 code
	shift
	"$@" >out.txt 2>err.txt </dev/null
	code=$?
	[ $code = 1 ] || fail "$*: exit $code, not 1: $(cat err.txt)"
	[ "$(wc -l <err.txt)" = 1 ] || fail "$*: not one line: $(cat err.txt)"
	grep -Eq -- "$pattern" err.txt || fail "$*: says '$(cat err.txt)', not '$pattern'"
}

# same IMAGE RAW: qemu-img sees in the qcow image what the raw file holds
same() {
	must qemu-img compare -q -f qcow -F raw "$1" "$2"
}
