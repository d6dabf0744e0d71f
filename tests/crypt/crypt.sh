#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# crypt.sh CASE: encrypted qcow2 images of ours and of qemu-img's, each read and written
# by the other; keys that do not fit; LUKS headers that cannot be. Random requests have a
# new seed, which is printed where it fails: TEST_SEED=n repeats it.
. "$(dirname "$0")/../qcow2/lib.sh"
need qemu-img qemu-io
seed=${TEST_SEED:-$((RANDOM * 32768 + RANDOM))}
echo "seed $seed"
secret=(--object secret,id=s,file=key)
printf 'a secret passphrase' >key
printf 'another' >other
chmod 600 key other

theirs() { # IMAGE: as qemu's tools name it
	echo "driver=qcow2,file.filename=$1,encrypt.key-secret=s"
}

# sound IMAGE MODEL: lib.sh's writes() asks it after every run
sound() {
	must qemu-img compare -q "${secret[@]}" --image-opts "$(theirs "$1")" \
		driver=raw,file.filename="$2"
	must qemu-img check -q "${secret[@]}" --image-opts "$(theirs "$1")"
	must "$TAP_IMG" check -q "qcow2:$1"
}

ours() { # IMAGE SIZE OPTIONS
	rm -f "$1"
	must "$TAP_IMG" create -q -f qcow2 -o "encryption=luks,key-file=key,iter-time=0$3" "$1" "$2"
}

opens() { # SPEC
	"$TAP_IMG" convert -q --force "$1" raw:out
}

created() {
	for more in '' ,cluster_size=512 ,cluster_size=2M ,extended_l2=on \
		,preallocation=metadata ,extended_l2=on,preallocation=falloc; do
		ours a 5001K "$more"
		model 5001K
		sound a model
		options=,key-file=key writes a model seed="$seed"
	done
}

qemus() {
	for more in iter-time=1 \
		iter-time=1,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv,encrypt.ivgen-hash-alg=sha256; do
		image a 5M "${secret[@]}" \
			-o "encrypt.format=luks,encrypt.key-secret=s,encrypt.$more"
		model 5M
		must qemu-io "${secret[@]}" -c 'write -P 7 1000000 500000' --image-opts "$(theirs a)"
		must qemu-io -f raw -c 'write -P 7 1000000 500000' model
		options=,key-file=key writes a model seed="$seed"
	done
}

# Snapshots, another size, and images below: the places of data change.
overlay() {
	content
	for more in ,cluster_size=4K ,extended_l2=on; do
		rm -f a
		must "$TAP_IMG" create -q -f qcow2 -b raw -F raw \
			-o "encryption=luks,key-file=key,iter-time=0$more" a 11M
		cp raw model
		truncate -s 11M model
		options=,key-file=key writes a model seed="$seed"
		must "$TAP_IMG" snapshot -q -c one qcow2:a
		cp model one
		options=,key-file=key writes a model seed="$seed" align=4096 engine=libaio
		must "$TAP_IMG" compare -q qcow2:a,key-file=key,snapshot=one raw:one
		must "$TAP_IMG" resize -q qcow2:a,key-file=key 12M
		truncate -s 12M model
		must "$TAP_IMG" resize -q --shrink qcow2:a,key-file=key 9500K
		truncate -s 9500K model
		must "$TAP_IMG" resize -q qcow2:a,key-file=key 10M
		truncate -s 10M model
		sound a model
		options=,key-file=key writes a model seed="$seed"
	done
	# both are, under different keys
	must "$TAP_IMG" create -q -f qcow2 -b qcow2:a -o encryption=luks,key-file=other,iter-time=0 b 10M
	options=,key-file=key,key-file=other
	timeout 300 "$IMAGE_RANDOM" "qcow2:b$options" model seed="$seed" >out.txt 2>&1 ||
		fail "an encrypted image over another: $(cat out.txt)"
	must "$TAP_IMG" compare -q "qcow2:b$options" raw:model
	must "$TAP_IMG" commit -q "qcow2:b$options"
	sound a model
}

keys() {
	ours a 5M ''
	refuses 'a: is encrypted \(LUKS\): say key-file=' opens qcow2:a
	refuses 'its passphrase is another one' opens qcow2:a,key-file=other
	refuses 'none: No such file' opens qcow2:a,key-file=none
	: >none
	chmod 600 none
	refuses 'none: there is no key in it' opens qcow2:a,key-file=none
	refuses 'key-fd=77: Bad file' opens qcow2:a,key-fd=77
	refuses 'key-fd=1x: is no number' opens qcow2:a,key-fd=1x
	refuses 'cannot be encrypted' "$TAP_IMG" create -f vhd -o key-file=key b 5M
	refuses 'say encryption=luks' "$TAP_IMG" create -f qcow2 -o key-file=key b 5M
	refuses 'say key-file=' "$TAP_IMG" create -f qcow2 -o encryption=luks b 5M
	refuses 'can be luks, not rot13' "$TAP_IMG" create -f qcow2 -o encryption=rot13,key-file=key b 5M
	must "$TAP_IMG" compare -q qcow2:a,key-fd=7 qcow2:a,key-file=key 7< <(cat key)
	# a pipe is read once, whatever needs its key
	must "$TAP_IMG" compare -q qcow2:a,key-fd=7 qcow2:a,key-fd=7 7< <(cat key)
	must "$TAP_IMG" create -q -f qcow2 -b a -F qcow2 b
	must "$TAP_IMG" commit qcow2:b,key-fd=7 7< <(cat key)
	! grep -q 'key is given' out.txt || fail "$(cat out.txt)"
	must "$TAP_IMG" commit -q "qcow2:b,key-file="<(cat key)
	rm b
	must "$TAP_IMG" convert -q -O qcow2 -o encryption=luks,iter-time=0,key-fd=7 \
		qcow2:a,key-fd=7 b 7< <(cat key)
	must "$TAP_IMG" compare -q qcow2:a,key-file=key qcow2:b,key-file=key
	must "$TAP_IMG" measure -O raw qcow2:a
	refuses 'has its format already: leave -O out' "$TAP_IMG" convert -O qcow2 qcow2:a,key-file=key \
		"qcow2:c,encryption=luks,key-file=key"
	refuses 'with options, say qcow2:a,key-file=key' "$TAP_IMG" bench -f qcow2 a,key-file=key
	must "$TAP_IMG" check -q qcow2:a
	"$TAP_IMG" info qcow2:a >out.txt || fail "info without a key"
	grep -q '^cipher: aes-xts-plain64, 512 bits$' out.txt || fail "info: $(cat out.txt)"
	chmod 644 key
	"$TAP_IMG" compare qcow2:a,key-file=key qcow2:a,key-file=key >out.txt 2>&1 || fail "compare"
	grep -q 'key: this key can be read by others: its mode is 644' out.txt || fail "no warning"
	truncate -s 1M plain
	"$TAP_IMG" compare raw:plain,key-file=key raw:plain >out.txt 2>&1
	grep -q 'a key is given, and it is not encrypted' out.txt || fail "a key is taken in silence"
}

# Nothing of a key is in what is said, on the disk nor in survivor memory.
silent() {
	ours a 5M ''
	"$IMAGE_RANDOM" qcow2:a,key-file=key model seed="$seed" trace >out.txt 2>&1
	"$TAP_IMG" bench -c 10 qcow2:a,key-file=key >>out.txt 2>&1 || fail "bench: $(cat out.txt)"
	"$TAP_IMG" compare qcow2:a,key-file=other qcow2:a,key-file=key >>out.txt 2>&1
	! grep -qa 'secret passphrase' out.txt a || fail "the key was told"
}

aes() {
	image a 3M "${secret[@]}" -o encrypt.format=aes,encrypt.key-secret=s
	must qemu-io "${secret[@]}" -c 'write -P 5 12345 1000000' --image-opts "$(theirs a)"
	model 3M
	must qemu-io -f raw -c 'write -P 5 12345 1000000' model
	"$TAP_IMG" compare qcow2:a,key-file=key raw:model >out.txt 2>&1 || fail "AES: $(cat out.txt)"
	grep -q 'its encryption is weak' out.txt || fail "no warning"
	refuses 'old AES scheme, and can be read only' "$TAP_IMG" resize qcow2:a,key-file=key 4M
	refuses 'is encrypted \(AES\): say key-file=' opens qcow2:a
	refuses 'which of several keys' opens qcow2:a,key-file=key,key-file=other
}

# headers: OFFSET BYTES PATTERN, of the LUKS header
headers() {
	local at offset bytes pattern
	ours good 1M ''
	at=$("$TAP_IMG" info --json qcow2:good | sed -n 's/.*"luks-header": "\([0-9]*\)".*/\1/p')
	[ "$at" ] || fail "where is the header?"
	while read -r offset bytes pattern; do
		cp good a
		printf '%b' "$(sed 's/../\\x&/g' <<<"$bytes")" |
			dd of=a bs=1 seek=$((at + offset)) conv=notrunc status=none
		echo "LUKS header, $offset: $bytes"
		refuses "$pattern" opens qcow2:a,key-file=key
	done <<-'END'
	0 00 its LUKS header is none
	6 0002 LUKS header of version 2
	8 00 names no cipher
	8 74776f666973680000 is encrypted with twofish-xts-plain64 and a key of 512 bits
	40 7874732d7a65726f00 is encrypted with aes-xts-zero
	72 6d64003500 (libcryptsetup|LUKS header)
	104 00000001 (libcryptsetup|LUKS header)
	108 ffffffff its LUKS header says that keys have 4294967295 bytes
	108 00000020 (another one|LUKS header|libcryptsetup)
	112 0000000000000000 its passphrase is another one
	164 ffffffff would take too long
	164 00000000 LUKS header
	208 00000000 (another one|LUKS header)
	212 ffffffff would take too long
	248 ffffffff key material of slot 0 past its own end
	248 00000001 (key material|LUKS header)
	252 ffffffff key material of slot 0 past its own end
	252 00000001 LUKS header
	END
	cp good a
	truncate -s $((at + 1000)) a
	refuses 'its LUKS header, [0-9]* bytes at [0-9]*, cannot be' "$TAP_IMG" info qcow2:a
}

"$1"
