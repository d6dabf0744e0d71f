#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# killed.sh KIND: writes that have ended survive SIGKILL. KIND: alone, overlay.
. "$(dirname "$0")/lib.sh"
case $1 in
alone) must "$QCOW_CREATE" -q 32 alone.qcow ;;
overlay)
	head -c 32M /dev/zero >base
	must "$QCOW_CREATE" -q 0 overlay.qcow base ;;
esac
timeout 150 "$QCOW_KILLED" "qcow:$1.qcow" "${ROUNDS:-15}" ${RANDOM_SEED:-} >out.txt 2>&1 ||
	fail "$(cat out.txt)"
cat out.txt
