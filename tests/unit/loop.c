/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The event loop: timers, deferred calls, flush hooks, watches, workers.
 */
#include "test.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

static int setup(void **state)
{
	struct td_loop *loop;

	assert_int_equal(td_loop_new(&loop), 0);
	*state = loop;
	return 0;
}

static int teardown(void **state)
{
	td_loop_free(*state);
	return 0;
}

/* What happened, in order. */
static char seen[64];
static unsigned seen_count;

static void see(char c)
{
	assert_true(seen_count < sizeof(seen) - 1);
	seen[seen_count++] = c;
	seen[seen_count] = 0;
}

static void see_nothing(void)
{
	seen_count = 0;
	seen[0] = 0;
}

struct letter_timer {
	struct td_timer timer;
	char letter;
};

static void letter_fired(struct td_timer *timer)
{
	see(container_of(timer, struct letter_timer, timer)->letter);
}

static void timers_fire_in_order_of_time(void **state)
{
	struct letter_timer a = { { .fired = letter_fired }, 'a' },
			    b = { { .fired = letter_fired }, 'b' },
			    c = { { .fired = letter_fired }, 'c' },
			    gone = { { .fired = letter_fired }, 'x' };
	uint64_t began;

	see_nothing();
	do { /* anew, if we have slept in between: from when on each is to wait matters */
		began = td_now_ms();
		td_timer_arm(*state, &b.timer, 60);
		td_timer_arm(*state, &c.timer, 10);
		td_timer_arm(*state, &a.timer, 20);
		td_timer_arm(*state, &gone.timer, 30);
		td_timer_arm(*state, &c.timer, 100); /* moves */
	} while (td_now_ms() - began > 10);
	td_timer_cancel(&gone.timer);
	td_timer_cancel(&gone.timer);
	turn_until(*state, seen_count == 3);
	assert_string_equal(seen, "abc");
	assert_true(td_now_ms() - began >= 99);
	assert_false(a.timer.armed || b.timer.armed || c.timer.armed || gone.timer.armed);
}

static void a_turn_waits_no_longer_than_told(void **state)
{
	uint64_t began = td_now_ms();

	td_loop_turn(*state, 0);
	assert_true(td_now_ms() - began < PATIENCE_MS);
	began = td_now_ms();
	td_loop_turn(*state, 50);
	assert_in_range(td_now_ms() - began, 40, PATIENCE_MS);
}

struct letter_defer {
	struct td_defer defer;
	struct td_loop *loop;
	char letter;
	unsigned again;
};

static void letter_run(struct td_defer *defer)
{
	struct letter_defer *letter = container_of(defer, struct letter_defer, defer);

	see(letter->letter);
	if (letter->again) {
		letter->again--;
		td_loop_defer(letter->loop, &letter->defer);
	}
}

static void deferred_calls_run_once_and_in_order(void **state)
{
	struct letter_defer a = { { .run = letter_run }, *state, 'a', 0 },
			    b = { { .run = letter_run }, *state, 'b', 2 },
			    gone = { { .run = letter_run }, *state, 'x', 0 };

	see_nothing();
	td_loop_defer(*state, &a.defer);
	td_loop_defer(*state, &b.defer);
	td_loop_defer(*state, &a.defer);
	td_loop_defer(*state, &gone.defer);
	td_loop_undefer(*state, &gone.defer);
	turn_until(*state, seen_count >= 4);
	td_loop_turn(*state, 0);
	assert_string_equal(seen, "abbb");
}

struct letter_flush {
	struct td_flush_hook hook;
	char letter;
	unsigned busy;
};

static bool letter_flush(struct td_flush_hook *hook)
{
	struct letter_flush *letter = container_of(hook, struct letter_flush, hook);

	see(letter->letter);
	return letter->busy && letter->busy--;
}

static void flush_hooks_have_another_round_while_busy(void **state)
{
	struct letter_flush f = { { .flush = letter_flush }, 'f', 2 };
	struct letter_defer d = { { .run = letter_run }, *state, 'd', 0 };

	see_nothing();
	td_loop_add_flush(*state, &f.hook);
	td_loop_defer(*state, &d.defer);
	td_loop_turn(*state, 0);
	assert_string_equal(seen, "dfff");
	td_loop_del_flush(&f.hook);
	td_loop_turn(*state, 0);
	assert_string_equal(seen, "dfff");
}

struct letter_watch {
	struct td_watch watch;
	struct td_loop *loop;
	char letter;
	struct td_watch *stops;
};

static void letter_ready(struct td_watch *watch, uint32_t events)
{
	struct letter_watch *letter = container_of(watch, struct letter_watch, watch);
	uint64_t count;

	see(letter->letter);
	assert_int_equal(read(watch->fd, &count, sizeof(count)), sizeof(count));
	if (letter->stops)
		td_watch_stop(letter->loop, letter->stops);
}

static void a_stopped_watch_is_not_called_in_this_turn_either(void **state)
{
	struct letter_watch a = { { .ready = letter_ready }, *state, 'a', NULL },
			    b = { { .ready = letter_ready }, *state, 'b', NULL };
	int fa = eventfd(0, EFD_NONBLOCK), fb = eventfd(0, EFD_NONBLOCK);

	see_nothing();
	assert_int_equal(td_watch_start(*state, &a.watch, fa, EPOLLIN), 0);
	assert_int_equal(td_watch_start(*state, &b.watch, fb, EPOLLIN), 0);
	a.stops = &b.watch;
	b.stops = &a.watch;
	eventfd_write(fa, 1);
	eventfd_write(fb, 1);
	td_loop_turn(*state, 100);
	td_loop_turn(*state, 0);
	assert_int_equal(seen_count, 1); /* whichever came first */
	td_watch_stop(*state, seen[0] == 'a' ? &a.watch : &b.watch);
	close(fa);
	close(fb);
}

struct letter_work {
	struct td_work work;
	_Atomic bool *until; /* it lasts until then */
	int result;
	_Atomic unsigned *running, *most;
	pthread_t home;
	bool done;
};

static int work_run(struct td_work *work)
{
	struct letter_work *letter = container_of(work, struct letter_work, work);
	unsigned now = atomic_fetch_add(letter->running, 1) + 1;
	unsigned most = atomic_load(letter->most);

	while (now > most && !atomic_compare_exchange_weak(letter->most, &most, now))
		;
	assert_false(pthread_equal(pthread_self(), letter->home));
	do
		usleep(2000);
	while (letter->until && !atomic_load(letter->until));
	atomic_fetch_sub(letter->running, 1);
	return letter->result;
}

static void work_done(struct td_work *work, int err)
{
	struct letter_work *letter = container_of(work, struct letter_work, work);

	assert_true(pthread_equal(pthread_self(), letter->home));
	assert_int_equal(err, letter->result);
	assert_false(letter->done);
	letter->done = true;
	see('w');
}

struct last_timer {
	struct td_timer timer;
	_Atomic bool fired;
};

static void last_fired(struct td_timer *timer)
{
	see('t');
	atomic_store(&container_of(timer, struct last_timer, timer)->fired, true);
}

static void work_runs_beside_the_loop_and_comes_home(void **state)
{
	enum { COUNT = 40 };
	static struct letter_work work[COUNT];
	_Atomic unsigned running = 0, most = 0;
	struct last_timer tick = { { .fired = last_fired } };

	see_nothing();
	for (int i = 0; i < COUNT; i++) {
		work[i] = (struct letter_work){
			{ .run = work_run, .done = work_done },
			i == 0 ? &tick.fired : NULL, -i, &running, &most, pthread_self(), false,
		};
		td_loop_work(*state, &work[i].work);
	}
	assert_int_equal(td_loop_working(*state), COUNT);
	td_timer_arm(*state, &tick.timer, 100);
	turn_until(*state, seen_count == COUNT + 1);
	assert_int_equal(td_loop_working(*state), 0);
	for (int i = 0; i < COUNT; i++)
		assert_true(work[i].done);
	assert_in_range(most, 2, 16); /* a few at once, and not one thread each */
	/* the slow one held nobody up */
	assert_true(strchr(seen, 't') - seen < COUNT);
	assert_int_equal(seen[COUNT], 'w');
}

static void *stop_later(void *loop)
{
	usleep(50 * 1000);
	td_loop_stop(loop);
	return NULL;
}

static void another_thread_stops_a_sleeping_loop(void **state)
{
	pthread_t thread;
	uint64_t began = td_now_ms();

	assert_int_equal(pthread_create(&thread, NULL, stop_later, *state), 0);
	td_loop_run(*state);
	assert_in_range(td_now_ms() - began, 40, PATIENCE_MS);
	pthread_join(thread, NULL);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(timers_fire_in_order_of_time),
		TEST(a_turn_waits_no_longer_than_told),
		TEST(deferred_calls_run_once_and_in_order),
		TEST(flush_hooks_have_another_round_while_busy),
		TEST(a_stopped_watch_is_not_called_in_this_turn_either),
		TEST(work_runs_beside_the_loop_and_comes_home),
		TEST(another_thread_stops_a_sleeping_loop),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
