#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# mutants.sh FORMAT: its fuzz entry, with images of ours of which a few bytes are changed.
. "$(dirname "$0")/../qcow/lib.sh"
export BLKTAP_SURVIVOR_DIR=$work/memory
for n in 1 2; do
	must "$QCOW_CREATE" -q -f "$1" -c $((4 << 4 * n))K 2M seed$n
	truncate -s 2M model
	timeout 60 "$QCOW_RANDOM" "$1:seed$n" model seed=$n ops=30 max=8192 >out.txt 2>&1 ||
		fail "$(cat out.txt)"
	rm model
done
seed=${RANDOM_SEED:-$((RANDOM * 32768 + RANDOM))}
echo "seed=$seed"
must timeout 200 "$MUTANTS" 150 "$seed" seed1 seed2
