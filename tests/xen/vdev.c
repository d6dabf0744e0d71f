/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Names of devices and params nodes, right ones and wrong ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/num.h"
#include "control/daemon/vdev.h"

static void names_of_devices_have_xens_numbers(void **state)
{
	static const struct {
		const char *name;
		uint32_t number;
	} right[] = {
		{ "xvda", 51712 }, { "xvda1", 51713 }, { "xvdb", 51728 }, { "xvdp15", 51967 },
		{ "xvdq", 1 << 28 | 16 << 8 }, { "xvda16", 1 << 28 | 16 },
		{ "xvdz3", 1 << 28 | 25 << 8 | 3 }, { "xvdaa", 1 << 28 | 26 << 8 },
		{ "sda", 2048 }, { "sda1", 2049 }, { "sdp15", 2303 },
		{ "hda", 768 }, { "hdb1", 833 }, { "hdc", 5632 }, { "hdd63", 5759 },
		{ "d0", 51712 }, { "d0p1", 51713 }, { "d16", 1 << 28 | 16 << 8 },
		{ "/dev/xvdb", 51728 }, { "51712", 51712 }, { "0xca00", 51712 },
	};
	static const char *const wrong[] = {
		"", "xvd", "xvda256", "xvda0", "xvda01", "xvda1x", "sdq", "sda16", "hde",
		"hda64", "vda", "d", "dp1", "d1p", "XVDA", "-1", "99999999999", "12x",
		"xvdzzzzzzzzzz", "d99999999",
	};
	uint32_t number;

	for (unsigned i = 0; i < ARRAY_SIZE(right); i++) {
		assert_int_equal(vdev_number(right[i].name, &number), 0);
		assert_int_equal(number, right[i].number);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(wrong); i++)
		if (!vdev_number(wrong[i], &number))
			fail_msg("\"%s\" was taken for %u", wrong[i], number);
}

static void params_become_specs(void **state)
{
	static const struct {
		const char *params, *spec, *data;
	} right[] = {
		{ "aio:qcow:/img", "qcow:/img", "auto" },
		{ "qcow:/img", "qcow:/img", "auto" },
		{ "tap:qcow:/img", "qcow:/img", "auto" },
		{ "tap2:aio:/img", "aio:/img", "auto" },
		{ "aio:/img", "aio:/img", "auto" },
		{ "vhd:/img", "vhd:/img", "auto" },
		{ "aio:ram:disk,size=64M", "ram:disk,size=64M", "auto" },
		{ "qcow:/img,data=map", "qcow:/img", "map" },
		{ "qcow:/img,data=copy,discard=off", "qcow:/img,discard=off", "copy" },
		{ "qcow:/a\\,data=map,x=y", "qcow:/a\\,data=map,x=y", "auto" },
		{ "qcow:data=map", "qcow:data=map", "auto" },
	};
	static const char *const wrong[] = {
		"", "/img", "aio", ":/img", "QCOW:/img", "qcow:/img,data=", "qcow:/img,data=mapp",
		"qcow:/img,feature-barrier=2", "qcow:/img,feature-barrier=", "qcow:/img,poll=-1",
		"qcow:/img,feature-max-indirect-segments=257", "qcow:/img,max-ring-page-order=5",
		"qcow:/img,multi-queue-max-queues=0", "qcow:/img,multi-queue-max-queues=17",
		"qcow:/img,sector-size=1000", "qcow:/img,sector-size=8192", "qcow:/img,poll=1x",
		"qcow:/img,max-ring-page-order=99999999999999999999",
	};
	struct vdev_params params;
	struct td_why why;

	for (unsigned i = 0; i < ARRAY_SIZE(right); i++) {
		assert_int_equal(vdev_params_parse(right[i].params, &params, &why), 0);
		assert_string_equal(params.spec, right[i].spec);
		assert_string_equal(params.keys.data, right[i].data);
		free(params.spec);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(wrong); i++) {
		why.text[0] = '\0';
		assert_int_not_equal(vdev_params_parse(wrong[i], &params, &why), 0);
		assert_true(why.text[0]);
	}
}

static void keys_of_xens_are_taken_out(void **state)
{
	struct vdev_params params;
	struct td_why why;

	assert_int_equal(vdev_params_parse("qcow:/img", &params, &why), 0);
	assert_memory_equal(&params.keys, &vdev_default_keys, sizeof(params.keys));
	free(params.spec);
	assert_int_equal(vdev_params_parse("aio:qcow:/img,feature-barrier=off,a=b,"
		"feature-flush-cache=0,feature-discard=off,feature-persistent=on,poll=50,"
		"feature-max-indirect-segments=0,max-ring-page-order=2,c=d,sector-size=4096,"
		"multi-queue-max-queues=8,physical-sector-size=65536,data=map", &params, &why), 0);
	assert_string_equal(params.spec, "qcow:/img,a=b,c=d");
	assert_string_equal(params.keys.data, "map");
	assert_int_equal(params.keys.barrier + params.keys.flush + params.keys.discard, 0);
	assert_int_equal(params.keys.persistent, 1);
	assert_int_equal(params.keys.segments, 0);
	assert_int_equal(params.keys.ring_order, 2);
	assert_int_equal(params.keys.rings, 8);
	assert_int_equal(params.keys.sector, 4096);
	assert_int_equal(params.keys.physical, 65536);
	assert_int_equal(params.keys.poll_us, 50);
	free(params.spec);
}

static void disks_of_the_command_line_are_taken_apart(void **state)
{
	static const char *const wrong[] = {
		"", ",", "tap:qcow:/img", "tap:qcow:/img,w", "tap:qcow:/img,nonsense,w", ",xvda,w",
	};
	struct vdev_disk disk;
	struct td_why why;

	assert_int_equal(vdev_disk_parse("tap:qcow:/img,xvdb,w", &disk, &why), 0);
	assert_string_equal(disk.params, "tap:qcow:/img");
	assert_string_equal(disk.vdev, "xvdb");
	assert_false(disk.read_only);
	vdev_disk_free(&disk);
	assert_int_equal(vdev_disk_parse("ram:a,size=1M,sda1,r", &disk, &why), 0);
	assert_string_equal(disk.params, "ram:a,size=1M");
	assert_true(disk.read_only);
	vdev_disk_free(&disk);
	assert_int_equal(vdev_disk_parse("aio:/img,hda", &disk, &why), 0);
	assert_string_equal(disk.vdev, "hda");
	assert_false(disk.read_only);
	vdev_disk_free(&disk);
	for (unsigned i = 0; i < ARRAY_SIZE(wrong); i++)
		assert_int_not_equal(vdev_disk_parse(wrong[i], &disk, &why), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_of_devices_have_xens_numbers),
		cmocka_unit_test(params_become_specs),
		cmocka_unit_test(keys_of_xens_are_taken_out),
		cmocka_unit_test(disks_of_the_command_line_are_taken_apart),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
