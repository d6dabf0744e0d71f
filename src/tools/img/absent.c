/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What qemu-img has and we have not: who types it is told why, and what to do instead.
 * docs/tap-img.md has the same in a table.
 */
#include <string.h>

#include "base/num.h"
#include "tools/img/img.h"

#define NAMES "an image is named as FORMAT:PATH[,key=value...], with the driver's keys"
#define SHARE "only info looks at an image that somebody writes: data read meanwhile would be of " \
	      "no one moment, and what a tapdisk keeps in memory would be missing"
#define OBJECTS "keys come from key-file=PATH or key-fd=N in the image's specification"
#define BITMAPS "bitmaps stay with the image; qemu-img bitmap --merge copies one"
#define LIES "a copy has all of the content; make an overlay with create -b, or rebase it"

static const struct {
	const char *command, *option, *why; /* command NULL: any; option NULL: the command */
} absent[] = {
	{ "amend", NULL, "version and options of an image stay: convert makes another" },
	{ "bitmap", NULL, "bitmaps are kept true, and not made here: qemu-img bitmap" },
	{ NULL, "--image-opts", NAMES },
	{ NULL, "--target-image-opts", NAMES },
	{ NULL, "--object", OBJECTS },
	{ NULL, "-U", SHARE },
	{ NULL, "--force-share", SHARE },
	{ NULL, "--trace", "requests are traced by tapdisk --trace" },
	{ "convert", "--bitmaps", BITMAPS },
	{ "convert", "--skip-broken-bitmaps", BITMAPS },
	{ "convert", "-B", LIES },
	{ "convert", "-b", LIES },
	{ "convert", "-r", "a copy goes as fast as it can: ionice and cgroups set limits" },
	{ "convert", "--rate-limit", "a copy goes as fast as it can: ionice and cgroups set limits" },
	{ "convert", "-C", "all data pass this process, which looks for zeroes in them" },
	{ "commit", "-r", "a copy goes as fast as it can: ionice and cgroups set limits" },
	{ "measure", "-l", "a snapshot is named as FORMAT:PATH,snapshot=NAME" },
	{ "measure", "--snapshot", "a snapshot is named as FORMAT:PATH,snapshot=NAME" },
	{ "info", "--limits", "a disk's block size is told without it" },
	{ "rebase", "-c", "what is written by rebase is not compressed" },
	{ "rebase", "--compress", "what is written by rebase is not compressed" },
};

const char *img_absent(const char *command, const char *option)
{
	size_t len = option ? strcspn(option, "=") : 0;

	for (unsigned i = 0; i < ARRAY_SIZE(absent); i++) {
		if (!absent[i].option != !option ||
		    (absent[i].command && strcmp(absent[i].command, command)))
			continue;
		if (!option || (strlen(absent[i].option) == len &&
				!strncmp(absent[i].option, option, len)))
			return absent[i].why;
	}
	return NULL;
}
