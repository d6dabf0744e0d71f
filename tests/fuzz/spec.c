/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Specifications of disks, the options of every driver, and sizes. What was read is
 * put together again, and must be read the same.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/num.h"
#include "core/spec.h"
#include "drivers/builtin.h"
#include "targets.h"

static char *escaped(char *out, const char *text)
{
	for (; *text; text++) {
		if (*text == ',' || *text == '\\')
			*out++ = '\\';
		*out++ = *text;
	}
	*out = '\0';
	return out;
}

static void look_at_why(const struct td_why *why)
{
	demand(*why->text);
}

static void again(const struct td_spec *spec, size_t size)
{
	char *text = malloc(2 * size + 16), *to = text;
	struct td_spec other;
	struct td_why why;

	demand(text);
	to += sprintf(to, "%s:", spec->type);
	to = escaped(to, spec->target);
	for (unsigned i = 0; i < spec->pair_count; i++) {
		*to++ = ',';
		to = escaped(to, spec->pairs[i].key);
		*to++ = '=';
		to = escaped(to, spec->pairs[i].value);
	}
	demand(!td_spec_parse(text, &other, &why));
	demand(!strcmp(other.type, spec->type) && !strcmp(other.target, spec->target));
	demand(other.pair_count == spec->pair_count);
	for (unsigned i = 0; i < spec->pair_count; i++)
		demand(!strcmp(other.pairs[i].key, spec->pairs[i].key) &&
		       !strcmp(other.pairs[i].value, spec->pairs[i].value));
	td_spec_free(&other);
	free(text);
}

static void options_try(const struct td_option *rows, size_t size, const struct td_spec *spec)
{
	void *state = calloc(1, size + 1);
	struct td_why why = { "" };

	demand(state);
	if (td_options_apply(rows, spec, state, &why))
		look_at_why(&why);
	td_options_free(rows, state);
	free(state);
}

static void input(const struct fuzz_target *target, const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1);
	struct td_why why = { "" };
	struct td_spec spec;
	uint64_t bytes = 0;

	demand(text);
	memcpy(text, data, size);
	text[size] = '\0';
	if (!td_size_parse(text, 512, &bytes))
		demand(bytes <= INT64_MAX);
	if (td_spec_parse(text, &spec, &why)) {
		look_at_why(&why);
		free(text);
		return;
	}
	again(&spec, size);
	for (unsigned i = 0; td_builtin_drivers[i]; i++) {
		const struct td_driver *driver = td_builtin_drivers[i];

		options_try(driver->options, driver->state_size, &spec);
		options_try(driver->create_options, driver->create_size, &spec);
	}
	td_spec_free(&spec);
	free(text);
}

static size_t seed(const struct fuzz_target *target, unsigned n, uint8_t *out)
{
	static const char *const texts[] = {
		"qcow2:/img\\,with\\\\odd,cache=1.5M,snapshot=a b,data-file=on",
		"ram:disk,size=16M", "vmdk:x,parent-format=raw,stale-parent=yes,anywhere=off",
		"1.5G", "64", "0x10k", "9e99P",
	};

	if (n >= ARRAY_SIZE(texts))
		return 0;
	memcpy(out, texts[n], strlen(texts[n]));
	return strlen(texts[n]);
}

const struct fuzz_target fuzz_spec = { .name = "spec", .input = input, .seed = seed };
