/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The set of disks: names, who holds which image, and finding the tapdisks of
 * an earlier daemon again by their sockets, which are all the memory there is.
 */
#include "control/daemon/disks.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/guard.h"
#include "base/log.h"
#include "control/daemon/tapdisk.h"

#define NAME_MAX_LEN 48
#define ADOPT_MS 5000 /* the daemon goes on without those that are slower */

/* ---- the set --------------------------------------------------------------------- */

int td_disks_new(struct td_loop *loop, const struct td_disks_options *options,
		 struct td_disks **out, struct td_why *why)
{
	struct td_disks *disks = calloc(1, sizeof(*disks));
	int err;

	if (!disks)
		return td_fail(why, -ENOMEM, "%s", strerror(ENOMEM));
	disks->loop = loop;
	disks->start_limit_s = options->start_limit_s;
	list_init(&disks->all);
	list_init(&disks->memories);
	disks->program = strdup(options->tapdisk);
	if (!disks->program || asprintf(&disks->socket_dir, "%s/tapdisk", options->run_dir) < 0) {
		err = td_fail(why, -ENOMEM, "%s", strerror(ENOMEM));
		goto failed;
	}
	if (mkdir(disks->socket_dir, 0700) < 0 && errno != EEXIST) {
		err = td_fail(why, -errno, "%s: %s", disks->socket_dir, strerror(errno));
		goto failed;
	}
	err = td_cgroups_open(options->cgroup, &disks->cgroups, why);
	if (err)
		goto failed;
	*out = disks;
	return 0;
failed:
	td_disks_free(disks);
	return err;
}

void td_disks_free(struct td_disks *disks)
{
	if (!disks)
		return;
	LIST_FOR_SAFE(struct td_tapdisk, tap, &disks->all, link)
		td_tapdisk_free(tap);
	td_timer_cancel(&disks->patience);
	td_cgroups_free(disks->cgroups);
	if (disks->socket_dir)
		rmdir(disks->socket_dir); /* fails while there are disks */
	free(disks->socket_dir);
	free(disks->program);
	free(disks);
}

struct td_tapdisk *td_disks_find(struct td_disks *disks, const char *name)
{
	LIST_FOR(struct td_tapdisk, tap, &disks->all, link)
		if (!strcmp(tap->name, name))
			return tap;
	return NULL;
}

struct td_tapdisk *td_disks_next(struct td_disks *disks, struct td_tapdisk *tap)
{
	struct list *next = tap ? tap->link.next : disks->all.next;

	return next == &disks->all ? NULL : list_item(next, struct td_tapdisk, link);
}

struct td_loop *td_disks_loop(struct td_disks *disks)
{
	return disks->loop;
}

unsigned td_disks_start_limit(const struct td_disks *disks)
{
	return disks->start_limit_s;
}

/* ---- who holds what ------------------------------------------------------------------- */

bool td_tapdisk_serves_as(const struct td_tapdisk *tap, const char *text, bool read_only)
{
	struct td_spec spec;
	struct td_why why;

	if (strcmp(tap->spec, text) || td_spec_parse(text, &spec, &why))
		return false;
	read_only |= td_spec_flag(&spec, "read-only");
	td_spec_free(&spec);
	return read_only == tap->read_only;
}

static char *holder_words(const struct td_tapdisk *tap)
{
	char process[40] = "which is dead: detach it first";
	char *words;

	if (tap->process)
		snprintf(process, sizeof(process), "tapdisk %d", (int)td_tapdisk_pid(tap));
	if (asprintf(&words, "disk %s, %s%s%s", tap->name, process,
		     tap->user ? ", " : "", tap->user ? tap->user : "") < 0)
		return NULL;
	return words;
}

char *td_disks_holder(const struct td_tapdisk *refused, const char *text)
{
	LIST_FOR(struct td_tapdisk, tap, &refused->disks->all, link)
		if (tap != refused && td_claims_hold(&tap->claims, text))
			return holder_words(tap);
	return NULL;
}

static struct td_tapdisk *find_conflict(struct td_disks *disks, const struct td_claims *claims)
{
	LIST_FOR(struct td_tapdisk, other, &disks->all, link)
		if (&other->claims != claims && td_claims_conflict(claims, &other->claims))
			return other;
	return NULL;
}

struct td_tapdisk *td_disks_in_the_way(struct td_disks *disks, const char *text)
{
	struct td_claims claims = { 0 };
	struct td_tapdisk *other;
	struct td_spec spec;
	struct td_why why;

	if (td_spec_parse(text, &spec, &why))
		return NULL;
	td_claims_add(&claims, spec.target, -1, !td_spec_flag(&spec, "read-only"),
		      td_spec_flag(&spec, "shared"));
	td_spec_free(&spec);
	other = find_conflict(disks, &claims);
	td_claims_free(&claims);
	return other;
}

int td_tapdisk_claim(struct td_tapdisk *tap, const struct td_spec *spec, bool read_only,
		     struct td_why *why)
{
	int fd = tap->memory ? td_memory_fd(tap->memory) : -1;
	AUTO_FREE char *holder = NULL;
	struct td_tapdisk *other;

	tap->read_only = read_only || td_spec_flag(spec, "read-only");
	if (tap->peeks)
		return 0;
	td_claims_add(&tap->claims, spec->target, fd, !tap->read_only,
		      td_spec_flag(spec, "shared"));
	other = find_conflict(tap->disks, &tap->claims);
	if (!other)
		return 0;
	holder = holder_words(other);
	return td_fail(why, -EBUSY, "%s: in use by %s", spec->target,
		       holder ? holder : "another disk");
}

/* ---- names ------------------------------------------------------------------------------- */

void td_guest_name(char name[TD_GUEST_NAME_SIZE], uint32_t domid, uint32_t devid)
{
	snprintf(name, TD_GUEST_NAME_SIZE, "vbd-%u-%u", domid, devid);
}

bool td_guest_name_parse(const char *name, uint32_t *domid, uint32_t *devid)
{
	char whole[TD_GUEST_NAME_SIZE];

	if (sscanf(name, "vbd-%u-%u", domid, devid) != 2)
		return false;
	td_guest_name(whole, *domid, *devid);
	return !strcmp(name, whole); /* and not just its beginning */
}

/* ---- start -------------------------------------------------------------------------------- */

static bool name_is_fine(const char *name)
{
	size_t len = strlen(name);

	if (!len || len > NAME_MAX_LEN || name[0] == '.' || name[0] == '-')
		return false;
	for (; *name; name++)
		if (!isalnum((unsigned char)*name) && !strchr("._-", *name))
			return false;
	return true;
}

static int name_pick(struct td_disks *disks, const char *wish, char *name, size_t size,
		     struct td_why *why)
{
	if (!wish) {
		do
			snprintf(name, size, "d%u", ++disks->last_number);
		while (td_disks_find(disks, name));
		return 0;
	}
	if (!name_is_fine(wish))
		return td_fail(why, -EINVAL,
			       "'%s' is no name for a disk: up to %d letters, digits, . _ -", wish,
			       NAME_MAX_LEN);
	if (td_disks_find(disks, wish))
		return td_fail(why, -EEXIST, "there is a disk named %s already", wish);
	snprintf(name, size, "%s", wish);
	return 0;
}

/* The memory is one for all disks of the name. One that has not said yet what it is, to
 * a daemon that found it running, may have it. */
static int tapdisk_memory(struct td_tapdisk *tap, const struct td_spec *spec,
			  struct td_why *why)
{
	struct td_disks *disks = tap->disks;
	bool huge = td_spec_flag(spec, "huge");
	int err;

	LIST_FOR(struct td_tapdisk, other, &disks->all, link)
		if (!other->spec && !td_memory_find(&disks->memories, spec->target))
			return td_fail(why, -EAGAIN, "ram:%s: tapdisk %d has not answered this "
				       "daemon yet, and may have it", spec->target,
				       (int)td_tapdisk_pid(other));
	err = td_memory_get(&disks->memories, spec->target, huge, &tap->memory);
	return err ? td_fail(why, err, "ram:%s: %s: %s", spec->target,
			     huge ? "no huge pages here" : "memory", strerror(-err)) : 0;
}

static int tapdisk_prepare(struct td_tapdisk *tap, const struct td_tapdisk_want *want,
			   struct td_why *why)
{
	struct td_spec spec;
	int err = td_spec_parse(want->spec, &spec, why);

	if (err)
		return err;
	tap->spec = strdup(want->spec);
	tap->peeks = want->peek;
	td_tapdisk_set_user(tap, want->user);
	if (!tap->spec)
		err = td_fail(why, -ENOMEM, "%s", strerror(ENOMEM));
	if (!err && !strcmp(spec.type, "ram"))
		err = tapdisk_memory(tap, &spec, why);
	if (!err)
		err = td_tapdisk_claim(tap, &spec, want->read_only, why);
	td_spec_free(&spec);
	return err;
}

struct td_tapdisk *td_tapdisk_start(struct td_disks *disks, const struct td_tapdisk_want *want,
				    td_tapdisk_started *started, void *arg, int *err,
				    struct td_why *why)
{
	struct td_tapdisk *tap = NULL;
	char name[NAME_MAX_LEN + 1];

	*err = name_pick(disks, want->name, name, sizeof(name), why);
	if (*err)
		return NULL;
	tap = td_tapdisk_new(disks, name);
	*err = tap ? tapdisk_prepare(tap, want, why)
		   : td_fail(why, -ENOMEM, "%s", strerror(ENOMEM));
	if (!*err)
		*err = td_tapdisk_launch(tap, want, why);
	if (*err) {
		td_log(name, LOG_ERR, "not started: %s", why->text);
		td_tapdisk_free(tap);
		return NULL;
	}
	tap->started = started;
	tap->started_arg = arg;
	return tap;
}

/* ---- adoption ----------------------------------------------------------------------------- */

static void adopt_done(struct td_disks *disks)
{
	void (*adopted)(void *arg) = take(disks->adopted);

	td_timer_cancel(&disks->patience);
	if (adopted)
		adopted(disks->adopted_arg);
}

static void adopt_out_of_patience(struct td_timer *timer)
{
	struct td_disks *disks = container_of(timer, struct td_disks, patience);

	LIST_FOR(struct td_tapdisk, tap, &disks->all, link)
		if (tap->state == TAPDISK_STARTING && !tap->started)
			td_log(tap->name, LOG_WARNING,
			       "tapdisk %d does not answer; adopted when it does",
			       (int)td_rpc_peer(tap->rpc));
	adopt_done(disks);
}

/* A RAM disk's "fd=" was added by the daemon that started it. */
static void adopt_memory(struct td_tapdisk *tap, struct td_spec *spec)
{
	struct td_spec_pair *last = spec->pair_count ? &spec->pairs[spec->pair_count - 1] : NULL;
	char *comma = strrchr(tap->spec, ',');
	int err;

	if (strcmp(spec->type, "ram") || !last || strcmp(last->key, "fd") || !comma)
		return;
	err = td_memory_adopt(&tap->disks->memories, spec->target, td_tapdisk_pid(tap),
			      atoi(last->value), &tap->memory);
	if (err)
		td_log(tap->name, LOG_WARNING, "its memory cannot be shared: %s",
		       err == -EEXIST ? "another one has the name" : strerror(-err));
	*comma = 0;
}

static void adopt_claims(struct td_tapdisk *tap, json_t *info)
{
	bool read_only = json_is_true(json_object_get(info, "read_only"));
	struct td_spec spec;
	struct td_why why;

	if (td_spec_parse(tap->spec, &spec, &why))
		return;
	adopt_memory(tap, &spec);
	if (td_tapdisk_claim(tap, &spec, read_only, &why))
		td_log(tap->name, LOG_WARNING, "%s", why.text);
	td_spec_free(&spec);
}

/* It has a user before anybody can ask for its end. */
static void adopt_user(struct td_tapdisk *tap)
{
	uint32_t domid, devid;
	char user[32];

	if (!td_guest_name_parse(tap->name, &domid, &devid))
		return;
	snprintf(user, sizeof(user), "domain %u", domid);
	td_tapdisk_set_user(tap, user);
}

static void adopt_told(struct td_tapdisk *tap, json_t *info, const char *why)
{
	const char *spec = json_string_value(json_object_get(info, "spec"));
	td_tapdisk_started *started = tap->started;

	if (spec)
		tap->spec = strdup(spec);
	if (!tap->spec) {
		td_log(tap->name, LOG_WARNING, "not adopted: %s", why ? why : "no tapdisk's answer");
		td_tapdisk_gone(tap, -EPROTO, "its tapdisk gives no answer that is one");
		return;
	}
	adopt_claims(tap, info);
	td_tapdisk_serves(tap, info);
	td_log(tap->name, LOG_INFO, "adopted: %s, tapdisk %d", tap->spec,
	       (int)td_tapdisk_pid(tap));
	tap->started = NULL;
	if (started)
		started(tap->started_arg, tap, 0, NULL);
}

static void adopt_answered(void *arg, int err, const char *why, json_t *info)
{
	struct td_tapdisk *tap = arg;
	struct td_disks *disks = tap->disks;

	/* else it has ended, or is made to, which is told elsewhere */
	if (err != -ECONNRESET && tap->state == TAPDISK_STARTING)
		adopt_told(tap, info, why);
	if (!--disks->asking)
		adopt_done(disks);
}

static void adopt_one(struct td_disks *disks, const char *name)
{
	struct td_tapdisk *tap = td_tapdisk_new(disks, name);
	struct td_why why;
	int err = tap ? td_rpc_connect(tap->rpc, tap->socket, &why) : -ENOMEM;

	/* before it answers: then it is still the process whose number this is */
	if (!err)
		err = td_process_adopt(disks->loop, td_rpc_peer(tap->rpc), td_tapdisk_ended, tap,
				       &tap->process);
	if (!err) {
		adopt_user(tap);
		disks->asking++;
		td_rpc_ask(tap->rpc, "info", NULL, 0, adopt_answered, tap);
		return;
	}
	if (err == -ECONNREFUSED) {
		td_log(name, LOG_WARNING, "its tapdisk died while no daemon was there");
		td_tapdisk_unlink(tap);
	} else {
		td_log(name, LOG_WARNING, "not adopted: %s", strerror(-err));
	}
	td_tapdisk_free(tap);
}

void td_disks_adopt(struct td_disks *disks, void (*done)(void *arg), void *arg)
{
	DIR *dir = opendir(disks->socket_dir);
	struct dirent *entry;

	disks->adopted = done;
	disks->adopted_arg = arg;
	disks->patience.fired = adopt_out_of_patience;
	while (dir && (entry = readdir(dir))) {
		char *dot = strrchr(entry->d_name, '.');

		if (!dot || strcmp(dot, ".sock"))
			continue;
		*dot = 0;
		if (name_is_fine(entry->d_name))
			adopt_one(disks, entry->d_name);
	}
	if (dir)
		closedir(dir);
	td_timer_arm(disks->loop, &disks->patience, disks->asking ? ADOPT_MS : 0);
}
