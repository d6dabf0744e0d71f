# SPDX-License-Identifier: LGPL-2.1-or-later
# The front door. Meson does the work, in build/.
PREFIX ?= /usr/local
DESTDIR ?=
BUILD ?= build

.PHONY: all check install demo bench bench-xen bench-ocfs2 lab-more powercut fuzz differential format clean

all: $(BUILD)/build.ninja
	ninja -C $(BUILD)

$(BUILD)/build.ninja:
	scripts/install-packages build
	meson setup $(BUILD) --prefix=$(PREFIX)

check:
	scripts/check

install: all
	@meson configure $(BUILD) -Dprefix=$(PREFIX) >/dev/null
	DESTDIR=$(DESTDIR) meson install -C $(BUILD)

demo:
	scripts/demo

bench: all
	scripts/install-packages bench
	bench/run $(BENCH_ARGS)
	bench/convert --build $(BUILD)

# A guest's disk on the lab's Xen host, beside other back ends: two hours.
bench-xen: all
	scripts/install-packages demo bench-xen
	bench/xen/run --build $(BUILD) $(BENCH_ARGS)

# OCFS2 on a RAM disk of two guests, and NFS between the two, in the lab
bench-ocfs2: all
	scripts/install-packages demo
	MESON_BUILD_ROOT=$(abspath $(BUILD)) tests/xen/lab.sh 4.20 6.12 ocfs2_beside_nfs

# What the lab shows in minutes, each in a boot of its own: tests/xen/lab-more.sh
LAB_MORE_CASES = a_guest_is_served_by_another an_image_on_nfs_leaves_no_flood_of_dirty_pages \
	every_option_of_the_front_end_is_served
lab-more: all
	scripts/install-packages demo
	set -e; for case in $(LAB_MORE_CASES); do echo "$$case"; LAB_KERNELS="6.1 6.12 sid" \
		LAB_TIME=3600 LAB_STALL=1000 MESON_BUILD_ROOT=$(abspath $(BUILD)) \
		tests/xen/lab.sh 4.20 6.12 $$case; done

# As long as one wants: SECONDS=3600 make powercut
powercut: all
	tests/powercut/run $(SECONDS)

# Likewise: SECONDS=3600 TARGET=qcow2 make fuzz
fuzz:
	scripts/install-packages build test
	tests/fuzz/run $(SECONDS) $(TARGET)

# Our tools and QEMU's on one image, in turns: SECONDS=3600 TARGET=qcow2 make differential
differential: all
	scripts/install-packages test
	TAP_IMG=$(abspath $(BUILD))/src/tools/tap-img \
	IMAGE_RANDOM=$(abspath $(BUILD))/tests/images/image-random \
	tests/differential/differential.py seconds=$(or $(SECONDS),60) $(TARGET)

# The lines changed since FROM; tables aligned by hand elsewhere stay as they are.
FROM ?= HEAD
format:
	scripts/install-packages format
	git clang-format --force --extensions c,h $(FROM) || [ $$? = 1 ]

clean:
	rm -rf $(BUILD) build-*
