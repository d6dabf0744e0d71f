/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What several formats refuse, in the same words.
 */
#include <errno.h>
#include <string.h>

#include <blktap/format.h>

int td_subformat_parse(const char *path, const char *subformat, bool *fixed, struct td_why *why)
{
	bool is_fixed = subformat && !strcmp(subformat, "fixed");

	if (subformat && !is_fixed && strcmp(subformat, "dynamic"))
		return td_fail(why, -EINVAL, "%s: subformat=%s is neither fixed nor dynamic", path,
			       subformat);
	*fixed = is_fixed;
	return 0;
}

int td_subformat_plan(const struct td_create *make, const char *subformat, bool *fixed,
		      struct td_why *why)
{
	int err = td_subformat_parse(make->path, subformat, fixed, why);

	if (!err && make->backing && (*fixed || make->reserve))
		return td_fail(why, -EINVAL, "%s: an image over another one cannot be fixed, or take "
			       "all space now: nothing of the other one would be seen", make->path);
	return err;
}

int td_refuse_device(const struct td_image *img, const struct td_file *file, const char *what,
		     struct td_why *why)
{
	if (img->read_only || !td_file_is_device(file))
		return 0;
	return td_fail(why, -ENOTSUP, "%s: writing %s inside a block device is not supported: what "
		       "lies past its end is not known to be zeroes", td_file_path(file), what);
}
